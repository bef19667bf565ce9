"""Scales neither vanish nor overflow: block formats and 8-bit states over zero, subnormal, tiny and huge blocks."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mixlab.formats import (
    BF16,
    BLOCK_FORMATS,
    E2M1FN,
    E4M3FN,
    E5M2,
    E8M0FNU,
    FP32,
    FP64,
    BlockFormat,
    ScaleRule,
    quantize_blocks,
)
from mixlab.formats._compile import compiled_variant
from mixlab.formats.random_bits import draw_bits
from mixlab.optimizers import AdamW, Storage, read_state
from mixlab.optimizers.state_formats import dynamic_map, state_format

FLOAT8 = [torch.float8_e4m3fn, torch.float8_e5m2]
EIGHT_BIT = {torch.float8_e4m3fn: E4M3FN, torch.float8_e5m2: E5M2, "dynamic8": None}
STATES = [(dtype, signed) for dtype in EIGHT_BIT for signed in (True, False)]
NVFP4 = BLOCK_FORMATS["nvfp4"]
CASES = [
    *((fmt, rule) for fmt in BLOCK_FORMATS.values() for rule in get_args(ScaleRule) if fmt.scale == E8M0FNU),
    (NVFP4, None),
]
LARGEST = torch.finfo(torch.float32).max
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
near_zero = st.floats(-(2.0**-100), 2.0**-100, width=32)
blocks = st.lists(st.one_of(finite, near_zero), min_size=1, max_size=40)


def every_magnitude() -> torch.Tensor:
    """(n, 16): blocks whose largest magnitude takes every exponent, with elements down to 2^-20 of it, and zeros."""
    amax = torch.ldexp(torch.ones(277, dtype=torch.float64), torch.arange(-149, 128))
    amax = (amax[:, None] * torch.tensor([1, 1.25, 1.5, 1.75, 1 + 1023 / 1024, 2 - 2**-23]).double()).flatten()
    parts = torch.tensor(
        [0, 1, -1, 0.9, -0.7, 0.5, -1 / 3, 0.1, 2**-4, 2**-6, -(2**-8), 2**-9, 1e-3, 1e-5, 2**-20, -0.0]
    )
    zeros = torch.zeros(2, 16)
    return torch.cat([(amax[:, None] * parts.double()).clamp(-LARGEST, LARGEST).float(), zeros])


@pytest.fixture
def flushed() -> Iterator[None]:
    """Subnormal numbers count as zero."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU does not flush subnormals")
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def assert_lawful(x: torch.Tensor, back: torch.Tensor, *, monotone: bool = True) -> None:
    """Finite, zero where x is zero, never of the other sign, and in each row in the order of x (rows, columns)."""
    assert back.isfinite().all()
    assert (back[x == 0] == 0).all()
    assert (back.sign() * x.sign() >= 0).all()
    if monotone:
        order = x.argsort(1)
        assert (back.gather(1, order).diff(dim=1) >= 0).all()


# --- 8-bit states -----------------------------------------------------------------------------------------------------


def stored(x: torch.Tensor, fmt, bits: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns codes and scales of a state, which is written flat, as eager steps do."""
    codes, scale = torch.zeros(x.numel(), dtype=fmt.dtype), torch.ones(-(-x.numel() // fmt.block_size))
    fmt.write_(x.flatten(), None if bits is None else bits.flatten(), codes, scale)
    return codes, scale


def stored_and_read(x: torch.Tensor, fmt, bits: torch.Tensor | None = None) -> torch.Tensor:
    return fmt.read(*stored(x, fmt, bits)).view(x.shape)


def largest_error(x: torch.Tensor, scale: torch.Tensor, dtype, signed: bool) -> torch.Tensor:
    """Half the gap between the values next to x, float64; and what float32's own operations may lose."""
    x, scale = x.double(), scale.double()[:, None]
    if dtype == "dynamic8":
        values = dynamic_map(signed=signed).double()
        above = torch.bucketize(x / scale, values).clamp(1, 255)
        beyond = (values[0] - x / scale).clamp(min=0)  # with sign, the map has no -1
        half = torch.maximum((values[above] - values[above - 1]) / 2, beyond)
    else:
        fmt = EIGHT_BIT[dtype]
        _, exponent = torch.frexp(x / scale)
        half = torch.ldexp(torch.ones_like(x), (exponent - 1).clamp(min=fmt.min_exponent) - fmt.mantissa_bits - 1)
    return half * scale + x.abs() * 2.0**-21 + 2.0**-149


@pytest.mark.parametrize("rounding", ["nearest_even", "stochastic"])
@pytest.mark.parametrize(("dtype", "signed"), STATES, ids=str)
def test_a_block_of_any_magnitude_comes_back_within_the_formats_error(dtype, signed, rounding):
    fmt = state_format(dtype, signed=signed, rounding=rounding, block_size=16)
    x = every_magnitude() if signed else every_magnitude().abs()
    bits = draw_bits(x, torch.Generator().manual_seed(0)) if rounding == "stochastic" else None
    codes, scale = stored(x, fmt, bits)
    back = fmt.read(codes, scale).view(x.shape)
    assert_lawful(x, back, monotone=rounding == "nearest_even")
    amax = x.abs().amax(1)
    full = amax.double() / (1.0 if dtype == "dynamic8" else EIGHT_BIT[dtype].max)
    assert torch.equal(scale[amax == 0], torch.ones(2))
    if dtype != "dynamic8":
        full = full.clamp(min=2.0**-126)
    assert ((scale - full).abs() <= full * 2.0**-24)[amax > 0].all()
    bound = largest_error(x, scale, dtype, signed) * (2 if rounding == "stochastic" else 1)
    assert ((back.double() - x).abs() <= bound).all()


@pytest.mark.parametrize(("dtype", "signed"), STATES, ids=str)
@given(values=blocks, block_size=st.sampled_from([1, 3, 16, 256]))
@settings(max_examples=30)
def test_any_state_comes_back_finite_and_with_its_sign(dtype, signed, values, block_size):
    fmt = state_format(dtype, signed=signed, block_size=block_size)
    x = torch.tensor(values) if signed else torch.tensor(values).abs()
    back = stored_and_read(x, fmt)
    for part, came in zip(x.split(block_size), back.split(block_size), strict=True):
        assert_lawful(part[None], came[None])
        again = stored_and_read(came, fmt)
        assert_lawful(came[None], again[None])


@pytest.mark.parametrize("dtype", EIGHT_BIT, ids=str)
def test_compiled_states_of_any_magnitude_are_those_of_an_eager_write(dtype):
    fmt = state_format(dtype, signed=True, block_size=16)
    tables = fmt.tables(torch.device("cpu"))

    def write_and_read(x, codes, scale, back, tables):
        fmt.write_(x, None, codes, scale, *tables)
        back.copy_(fmt.read(codes, scale, *tables))

    x = every_magnitude()
    codes, scale, back = torch.zeros(x.shape, dtype=fmt.dtype), torch.ones(len(x)), torch.empty_like(x)
    compiled_variant(write_and_read)(x, codes, scale, back, tables)
    wanted_codes, wanted_scale = stored(x, fmt)
    assert torch.equal(scale, wanted_scale)
    assert torch.equal(codes.view(torch.uint8).flatten(), wanted_codes.view(torch.uint8))
    assert torch.equal(back.flatten(), fmt.read(wanted_codes, wanted_scale))


@pytest.mark.parametrize(("dtype", "signed"), STATES, ids=str)
def test_states_where_subnormals_are_flushed(dtype, signed, flushed):
    fmt = state_format(dtype, signed=signed, block_size=16)
    x = every_magnitude() if signed else every_magnitude().abs()
    back = stored_and_read(x, fmt)
    normal = x.abs().amax(1) >= 2.0**-126
    assert_lawful(x[normal], back[normal])
    assert back.isfinite().all()
    large = x.abs() >= 2.0**-100
    assert ((back - x).abs() <= x.abs().amax(1, keepdim=True) / 16)[large].all()


@pytest.mark.parametrize("rounding", ["nearest_even", "stochastic"])
@pytest.mark.parametrize(("dtype", "signed"), STATES, ids=str)
def test_a_decaying_state_never_becomes_nan_nor_changes_its_sign(dtype, signed, rounding):
    """Each row decays by a factor of its own, as Adam's moments do where no gradient comes any more."""
    fmt = state_format(dtype, signed=signed, rounding=rounding, block_size=4)
    x = torch.tensor([[1e-3, -1e-9, 0.0, 0.0], [-3e38, 2e38, 1e-30, 1.0], [1e-36, -1e-37, 1e-38, 0.0]]).repeat(4, 1)
    x = x if signed else x.abs()
    beta = torch.tensor([0.999, 0.9, 0.5, 1e-3]).repeat_interleave(3)[:, None]
    value, generator = x, torch.Generator().manual_seed(0)
    for _ in range(1200):
        before = value
        value = stored_and_read(before, fmt, draw_bits(before, generator) if rounding == "stochastic" else None) * beta
        assert_lawful(before, value, monotone=rounding == "nearest_even")


@pytest.mark.parametrize(("dtype", "compiled"), [*((dtype, False) for dtype in FLOAT8), (FLOAT8[0], True)], ids=str)
def test_a_parameter_without_gradients_decays_and_stays_finite(dtype, compiled):
    """In float32, amax / 448 became zero after 838 steps, and 0 / 0 made the whole block NaN."""
    p = nn.Parameter(torch.ones(4))
    optimizer = AdamW([p], storage=Storage(dtype, dtype), compiled=compiled)
    p.grad = torch.tensor([1e-3, 1e-9, 0.0, 0.0])
    for _ in range(1000):
        optimizer.step()
        p.grad = torch.zeros(4)
    assert p.isfinite().all()
    for name in ("exp_avg", "exp_avg_sq"):
        assert (read_state(optimizer, p, name) >= 0).all()
    assert torch.equal(p[2], p[3])


@pytest.mark.parametrize("dtype", FLOAT8, ids=str)
def test_an_embedding_of_rare_tokens_stays_finite(dtype):
    generator = torch.Generator().manual_seed(0)
    table = nn.Embedding.from_pretrained(torch.randn(1000, 16, generator=generator), freeze=False)
    optimizer = AdamW(table.parameters(), storage=Storage(dtype, dtype, block_size=64))
    shares = 1.0 / torch.arange(1, 1001)
    for _ in range(950):
        tokens = torch.multinomial(shares, 4, replacement=True, generator=generator)
        optimizer.zero_grad()
        table(tokens).square().mean().backward()
        optimizer.step()
    assert table.weight.isfinite().all()


# --- block formats ----------------------------------------------------------------------------------------------------


def rule_of(fmt: BlockFormat, rule: ScaleRule | None) -> dict[str, ScaleRule]:
    return {} if rule is None else {"scale_rule": rule}


def assert_within_the_format(x: torch.Tensor, fmt: BlockFormat, rule: ScaleRule | None) -> None:
    """x (rows, columns): each row a block of its own, NVFP4's with a tensor scale of its own."""
    for rows in x[::5].split(1) if fmt == NVFP4 else [x]:
        quantized = quantize_blocks(rows, fmt, **rule_of(fmt, rule))
        back, element = quantized.dequantize(), fmt.element
        assert_lawful(rows, back)
        unit = quantized.scale.double() * quantized.tensor_scale.double()  # (rows, 1)
        wanted = rows.double() / unit
        _, exponent = torch.frexp(wanted)
        gap = torch.ldexp(
            torch.ones_like(wanted), (exponent - 1).clamp(min=element.min_exponent) - element.mantissa_bits
        )
        beyond = (wanted.abs() - element.max).clamp(min=0)  # saturates: the floor and even rules, and E4M3's rounding
        error = (quantized.elements.double() - wanted).abs()
        assert (error <= torch.maximum(gap / 2, beyond) * (1 + 2.0**-20) + wanted.abs() * 2.0**-22).all()
        binade = 2.0 ** (element.max_exponent + 1) / element.max
        limit = {"floor": binade, "even": binade, None: 1 + 2.0**-4 + 2.0**-20}.get(rule, 1.0)
        assert (wanted.abs().amax(1) <= limit * element.max).all()
        held = (quantized.elements.double() * unit).clamp(-LARGEST, LARGEST)
        assert ((back.double() - held).abs() <= held.abs() * 2.0**-22 + 2.0**-149).all()


@pytest.mark.parametrize(("fmt", "rule"), CASES, ids=str)
def test_blocks_of_any_magnitude_come_back_within_the_formats_error(fmt, rule):
    assert_within_the_format(every_magnitude(), fmt, rule)


@given(
    values=blocks, case=st.sampled_from(CASES), dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16])
)
@settings(max_examples=150)
def test_any_block_comes_back_finite_and_with_its_sign(values, case, dtype):
    fmt, rule = case
    x = torch.tensor(values).to(dtype)
    x = x.clamp(-torch.finfo(dtype).max, torch.finfo(dtype).max)
    back = quantize_blocks(x, fmt, **rule_of(fmt, rule)).dequantize()
    for part, came in zip(x.float().split(fmt.block_size), back.split(fmt.block_size), strict=True):
        assert_lawful(part[None], came[None])


@pytest.mark.parametrize("exponent", range(-149, -110))
def test_a_tiny_tensor_in_nvfp4_is_a_large_one_scaled_down(exponent):
    """The largest value is kept up to the rounding of the two scales, and a half, a third and zero follow it."""
    x = torch.ldexp(torch.tensor([1.0, 0.5, -1 / 3, 0.0], dtype=torch.float64), torch.tensor(exponent)).float()
    back = quantize_blocks(x, "nvfp4").dequantize()
    assert_lawful(x[None], back[None])
    assert abs(back[0].double() / x[0].double() - 1) <= 2**-4
    assert (back - x).abs().max() <= x[0] / 8 + 2.0**-149


def test_nvfp4_of_a_tensor_below_its_smallest_reciprocal():
    back = quantize_blocks(torch.tensor([1e-37, 0.0]), "nvfp4").dequantize()
    assert back[0].item() == pytest.approx(1e-37, rel=1e-4)
    assert back[1] == 0


@pytest.mark.parametrize(("fmt", "rule"), CASES, ids=str)
def test_blocks_where_subnormals_are_flushed(fmt, rule, flushed):
    """2^-127, the scale of a block of zeros, is subnormal: zero divided by it was NaN."""
    x = every_magnitude()[::5]
    back = torch.cat([quantize_blocks(row, fmt, **rule_of(fmt, rule)).dequantize() for row in x.split(1)])
    assert back.isfinite().all()
    normal = x.abs().amax(1) >= 2.0**-126
    assert_lawful(x[normal], back[normal])
    amax = x.abs().amax(1, keepdim=True)
    large = x.abs() >= 2.0**-118
    assert ((back - x).abs() <= amax / 4 * (1 + 2.0**-20))[large].all()


@pytest.mark.parametrize(("fmt", "rule"), CASES, ids=str)
def test_wherever_torchao_is_finite_and_closer_it_is_equalled(fmt, rule):
    """torchao's rceil leaves elements unscaled under the smallest scale; its NVFP4 has NaN below 7.9e-36."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mx = pytest.importorskip("torchao.prototype.mx_formats.mx_tensor", exc_type=ImportError)
        nvfp4 = pytest.importorskip("torchao.prototype.mx_formats.nvfp4_tensor", exc_type=ImportError)
        config = pytest.importorskip("torchao.prototype.mx_formats.config", exc_type=ImportError)
    elements = {
        "mxfp8_e4m3": torch.float8_e4m3fn,
        "mxfp8_e5m2": torch.float8_e5m2,
        "mxfp4": torch.float4_e2m1fn_x2,
        "mxfp6_e3m2": "fp6_e3m2",
        "mxfp6_e2m3": "fp6_e2m3",
    }
    x = every_magnitude()[::5].repeat_interleave(fmt.block_size // 16, 1)
    ours, theirs = [], []
    for row in x.split(1) if fmt == NVFP4 else [x]:
        ours.append(quantize_blocks(row, fmt, **rule_of(fmt, rule)).dequantize())
        if fmt == NVFP4:
            kernels = pytest.importorskip("torchao.prototype.mx_formats.kernels")
            tensor_scale = nvfp4.per_tensor_amax_to_scale(row.abs().amax())
            scale, packed = nvfp4.nvfp4_quantize(row, per_tensor_scale=tensor_scale)
            theirs.append(kernels.f4_unpacked_to_f32(kernels.unpack_uint4(packed)) * (scale.float() * tensor_scale))
        else:
            mode = config.ScaleCalculationMode(rule)
            scale, codes = mx.to_mx(row, elements[fmt.name], 32, mode)
            theirs.append(mx.to_dtype(codes, scale, elements[fmt.name], 32, torch.float32).view_as(row))
    ours, theirs = torch.cat(ours), torch.cat(theirs)
    differs = ours != theirs
    if fmt != NVFP4:
        assert not ((ours.double() - x).abs() > (theirs.double() - x).abs())[differs & theirs.isfinite()].any()
    normal = x.abs().amax(1) >= (2.0**-114 if fmt == NVFP4 else 2.0**-100)
    at_the_top = ~theirs.isfinite().all(1)
    assert not differs[normal & ~at_the_top].any()
    assert normal.sum() > 270


def test_the_largest_floats_do_not_become_infinite():
    """255.8 x 2^120 is 256 x 2^120 in e4m3: 2^128, beyond float32."""
    largest = torch.finfo(torch.float32).max
    for fmt, rule in CASES:
        back = quantize_blocks(torch.tensor([largest, -largest]), fmt, **rule_of(fmt, rule)).dequantize()
        assert back.isfinite().all()
        assert back[0] == -back[1] >= largest * 0.75


@pytest.mark.parametrize("rule", get_args(ScaleRule))
def test_wide_elements_of_ones_own(rule):
    x = every_magnitude()
    for element in (BF16, FP32):
        back = quantize_blocks(x, BlockFormat("wide", element, E8M0FNU, 32), scale_rule=rule).dequantize()
        assert_lawful(x, back)
        large = x.abs() >= 2.0**-100
        assert ((back - x).abs() <= x.abs() * element.unit_roundoff)[large].all()
    own, x = BlockFormat("wide", BF16, E4M3FN, 16), x[::5]
    back = torch.cat([quantize_blocks(row, own).dequantize() for row in x.split(1)])
    assert_lawful(x, back)
    assert ((back - x).abs() <= x.abs().amax(1, keepdim=True) / 16)[x.abs() >= 2.0**-100].all()


def test_elements_wider_than_float32_are_refused():
    with pytest.raises(ValueError, match="whose values fit float32, got Format"):
        BlockFormat("wide", FP64, E8M0FNU, 32)
    assert E2M1FN.max == NVFP4.element.max
    assert math.isfinite(np.float32(NVFP4.scale.max))
