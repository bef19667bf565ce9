"""Block formats against an exact oracle and torchao's reference."""

from __future__ import annotations

import math
import warnings
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlab.formats import BLOCK_FORMATS, E8M0FNU, ScaleRule, quantize_blocks
from tests.reference.blocks import quantize_block

MX = [fmt for fmt in BLOCK_FORMATS.values() if fmt.scale == E8M0FNU]
RULES = get_args(ScaleRule)
EVERY_FORMAT = pytest.mark.parametrize("fmt", BLOCK_FORMATS.values(), ids=str)


def wide(rows: int, columns: int = 64, seed: int = 0) -> torch.Tensor:
    """Random numbers of all magnitudes from 2^-60 to 2^60, block by block."""
    generator = torch.Generator().manual_seed(seed)
    exponents = (
        torch.randint(-60, 60, (rows, columns // 16, 1), generator=generator).expand(-1, -1, 16).reshape(rows, -1)
    )
    return torch.randn(rows, columns, generator=generator) * torch.exp2(exponents)


def test_the_formats_are_those_of_the_standard():
    bits = {name: fmt.bits_per_element for name, fmt in BLOCK_FORMATS.items()}
    assert bits == {
        "mxfp8_e4m3": 8.25,
        "mxfp8_e5m2": 8.25,
        "mxfp6_e3m2": 6.25,
        "mxfp6_e2m3": 6.25,
        "mxfp4": 4.25,
        "nvfp4": 4.5,
    }


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("fmt", MX, ids=str)
def test_mx_equals_the_oracle(fmt, rule):
    x = torch.cat([wide(20), torch.zeros(1, 64), torch.full((1, 64), 1e-45), torch.full((1, 64), 3.4e38)])
    blocks = quantize_blocks(x, fmt, scale_rule=rule)
    for row, scales, elements in zip(x.tolist(), blocks.scale.tolist(), blocks.elements, strict=True):
        for number, scale in enumerate(scales):
            block = slice(32 * number, 32 * (number + 1))
            expected_scale, expected = quantize_block(row[block], fmt, rule)
            assert scale == expected_scale
            assert np.array_equal(elements[block].numpy().view(np.int32), np.float32(expected).view(np.int32))


@given(
    block=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=32), data=st.data()
)
@settings(max_examples=200)
def test_any_block_equals_the_oracle(block, data):
    fmt, rule = data.draw(st.sampled_from(MX)), data.draw(st.sampled_from(RULES))
    blocks = quantize_blocks(torch.tensor(block, dtype=torch.float32), fmt, scale_rule=rule)
    scale, elements = quantize_block(block, fmt, rule)
    assert blocks.scale.tolist() == [scale]
    assert blocks.elements.tolist() == elements


# --- torchao ----------------------------------------------------------------------------------------------------------


def torchaos(module: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(f"torchao.prototype.mx_formats.{module}", exc_type=ImportError)


TORCHAO_ELEMENTS = {
    "mxfp8_e4m3": torch.float8_e4m3fn,
    "mxfp8_e5m2": torch.float8_e5m2,
    "mxfp4": torch.float4_e2m1fn_x2,
    "mxfp6_e3m2": "fp6_e3m2",
    "mxfp6_e2m3": "fp6_e2m3",
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", TORCHAO_ELEMENTS)
def test_mx_equals_torchao(name, rule):
    mx_tensor, config = torchaos("mx_tensor"), torchaos("config")
    x = wide(200)
    mode = config.ScaleCalculationMode(rule)
    scale, elements = mx_tensor.to_mx(x, TORCHAO_ELEMENTS[name], 32, mode)
    theirs = mx_tensor.to_dtype(elements, scale, TORCHAO_ELEMENTS[name], 32, torch.float32)
    ours = quantize_blocks(x, name, scale_rule=rule)
    assert torch.equal(ours.scale, scale.float().view_as(ours.scale))
    assert torch.equal(ours.dequantize(), theirs.view_as(x))


def test_nvfp4_equals_torchao():
    nvfp4, kernels = torchaos("nvfp4_tensor"), torchaos("kernels")
    for seed in range(5):
        x = torch.randn(64, 128, generator=torch.Generator().manual_seed(seed)) * 10.0 ** (seed - 2)
        x[3, :32] = 0
        tensor_scale = nvfp4.per_tensor_amax_to_scale(x.abs().amax())
        scale, packed = nvfp4.nvfp4_quantize(x, per_tensor_scale=tensor_scale)
        theirs = kernels.f4_unpacked_to_f32(kernels.unpack_uint4(packed))
        ours = quantize_blocks(x, "nvfp4")
        assert torch.equal(ours.tensor_scale, tensor_scale)
        assert torch.equal(ours.scale, scale.float())
        assert torch.equal(ours.elements, theirs)


# --- laws -------------------------------------------------------------------------------------------------------------


@EVERY_FORMAT
@pytest.mark.parametrize("dim", [0, 1, 2, -2])
def test_any_dimension_equals_that_dimension_moved_last(fmt, dim):
    x = torch.randn(40, 33, 7)
    blocks, moved = quantize_blocks(x, fmt, dim=dim), quantize_blocks(x.movedim(dim, -1), fmt)
    assert torch.equal(blocks.elements.movedim(dim, -1), moved.elements)
    assert torch.equal(blocks.scale.movedim(dim, -1), moved.scale)
    assert torch.equal(blocks.dequantize().movedim(dim, -1), moved.dequantize())
    assert blocks.scale.shape[dim] == -(-x.shape[dim] // fmt.block_size)


@EVERY_FORMAT
def test_every_part_is_a_value_of_its_format(fmt):
    blocks = quantize_blocks(wide(30), fmt)
    assert np.isin(blocks.elements.numpy(), fmt.element.values()).all()
    assert np.isin(blocks.scale.numpy(), fmt.scale.values()).all()
    again = quantize_blocks(torch.randn(8, 64), fmt)
    twice = quantize_blocks(again.dequantize(), fmt)
    if fmt.scale == E8M0FNU:
        assert torch.equal(again.dequantize(), twice.dequantize())


@pytest.mark.parametrize("rule", ["ceil", "rceil"])
@pytest.mark.parametrize("fmt", MX, ids=str)
def test_the_ceil_rules_saturate_nothing(fmt, rule):
    x = wide(300)
    blocks = quantize_blocks(x, fmt, scale_rule=rule)
    gaps = torch.tensor([[fmt.element.ulp(v) for v in row] for row in blocks.elements.tolist()])
    scale = blocks.scale.repeat_interleave(32, 1)
    assert ((x / scale - blocks.elements).abs() <= gaps / 2).all()


def test_floor_clips_one_maximum_in_five():
    """log2(2 / 1.75) = 19.3 % of log-uniform maxima lie above 1.75 in their binade; 3 sigma, at a fixed seed."""
    n = 20_000
    amax = torch.exp2(torch.rand(n, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 20).float()
    blocks = quantize_blocks(amax.expand(-1, 32), "mxfp8_e4m3")
    clipped = float((amax.squeeze() / blocks.scale.squeeze() > 448).double().mean())
    expected = math.log2(2 / 1.75)
    assert abs(clipped - expected) < 3 * math.sqrt(expected * (1 - expected) / n)


@EVERY_FORMAT
def test_zeros_infs_and_nans(fmt):
    x = torch.randn(4, 64)
    x[0] = 0
    x[1, 5], x[2, 40] = math.inf, math.nan
    restored = quantize_blocks(x, fmt).dequantize()
    k = fmt.block_size
    assert (restored[0] == 0).all()
    assert restored[1, :k].isnan().all()
    assert restored[1, k:].isfinite().all()
    assert restored[2, 40 // k * k : (40 // k + 1) * k].isnan().all()
    assert restored[3].isfinite().all()


@EVERY_FORMAT
@pytest.mark.parametrize("shape", [(0,), (3, 0), (1,), (5,), (2, 33)])
def test_shapes_come_back(fmt, shape):
    x = torch.ones(shape, dtype=torch.bfloat16)
    restored = quantize_blocks(x, fmt).dequantize()
    assert restored.shape == x.shape
    assert torch.allclose(restored, x.float(), rtol=1e-6)


@pytest.mark.parametrize(
    ("x", "fmt", "options", "words"),
    [
        (torch.ones(4), "mxfp5", {}, "unknown block format 'mxfp5': use one of mxfp8_e4m3"),
        (torch.ones(4), 4, {}, "fmt must be a BlockFormat or its name, got 4"),
        (torch.ones(4).double(), "mxfp4", {}, "float32, float16 or bfloat16 tensor, got torch.float64"),
        ([1.0], "mxfp4", {}, "tensor, got list"),
        (torch.ones(4, requires_grad=True), "mxfp4", {}, "pass x.detach()"),
        (torch.ones(4), "mxfp4", {"dim": 1}, r"x of shape \(4,\) has no dimension 1"),
        (torch.tensor(1.0), "mxfp4", {}, r"x of shape \(\) has no dimension -1"),
        (torch.ones(4), "mxfp4", {"scale_rule": "round"}, "scale_rule must be one of floor, even, ceil, rceil"),
        (torch.ones(4), "nvfp4", {"scale_rule": "floor"}, "nvfp4 has no power-of-two scale"),
    ],
)
def test_bad_input_is_named(x, fmt, options, words):
    with pytest.raises((TypeError, ValueError), match=words):
        quantize_blocks(x, fmt, **options)
