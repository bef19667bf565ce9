"""Bit for bit: every value, midpoint and neighbour, against torch's casts, ml_dtypes, gfloat and exact arithmetic."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import get_args

import gfloat
import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mixlab import BF16, E4M3FN, E5M2, FORMATS, FP16, TF32, Format, round_to
from mixlab.formats import E4M3FNUZ, Rounding
from mixlab.formats.rounding_kernels import bf16_at_random
from tests.reference.rounding import round_reference

SMALL = {
    FP16: np.float16,
    BF16: ml_dtypes.bfloat16,
    FORMATS["e3m2fn"]: ml_dtypes.float6_e3m2fn,
    FORMATS["e2m3fn"]: ml_dtypes.float6_e2m3fn,
    FORMATS["e2m1fn"]: ml_dtypes.float4_e2m1fn,
    **{
        FORMATS[name]: getattr(ml_dtypes, f"float8_{name}")
        for name in ("e5m2", "e5m2fnuz", "e4m3", "e4m3fn", "e4m3fnuz", "e4m3b11fnuz", "e3m4")
    },
}
GFLOAT_MODES = {
    "nearest_even": gfloat.RoundMode.TiesToEven,
    "nearest_away": gfloat.RoundMode.TiesToAway,
    "toward_zero": gfloat.RoundMode.TowardZero,
    "toward_positive": gfloat.RoundMode.TowardPositive,
    "toward_negative": gfloat.RoundMode.TowardNegative,
}
EXACT_MODES = list(GFLOAT_MODES)


def usual_overflow(fmt: Format) -> str:
    """Returns what ml_dtypes does beyond the largest value."""
    return "inf" if fmt.has_inf else "nan" if fmt.has_nan else "saturate"


def critical_inputs(dtype: np.dtype) -> np.ndarray:
    """Every value of a 16- or 8-bit type, the midpoints between them, and the float32 neighbours of all these."""
    width = np.dtype(dtype).itemsize
    codes = np.arange(256**width, dtype={1: np.uint8, 2: np.uint16}[width])
    values = codes.view(dtype).astype(np.float32)
    values = np.unique(values[np.isfinite(values)])
    largest, gap = float(values[-1]), float(values[-1]) - float(values[-2])
    beyond = np.float32([largest + gap / 2, -largest - gap / 2, np.inf, -np.inf, 3.4028235e38, -3.4028235e38])
    midpoints = ((values[:-1].astype(np.float64) + values[1:]) / 2).astype(np.float32)
    points = np.concatenate([values, midpoints, beyond, np.float32([0.0, -0.0, np.nan])])
    with np.errstate(over="ignore"):
        return np.concatenate(
            [points, np.nextafter(points, np.float32(np.inf)), np.nextafter(points, -np.float32(np.inf))]
        )


def assert_same_bits(ours: torch.Tensor, theirs: np.ndarray) -> None:
    ours = ours.numpy()
    nan = np.isnan(theirs)
    assert np.array_equal(np.isnan(ours), nan)
    assert np.array_equal(ours[~nan].view(np.int32), theirs[~nan].view(np.int32))


@pytest.mark.cpu_kernels
@pytest.mark.parametrize("fmt", SMALL, ids=str)
def test_every_critical_value_equals_ml_dtypes(fmt):
    x = critical_inputs(SMALL[fmt])
    x = x if fmt.has_nan else x[~np.isnan(x)]  # there, a cast makes -0 of NaN; a float32 tensor can keep it
    with np.errstate(over="ignore"):
        theirs = x.astype(SMALL[fmt]).astype(np.float32)
    assert_same_bits(round_to(torch.from_numpy(x), fmt, overflow=usual_overflow(fmt)), theirs)


@pytest.mark.cpu_kernels
@pytest.mark.parametrize("fmt", [FP16, BF16, E4M3FN, E5M2], ids=str)
def test_every_critical_value_equals_torch(fmt):
    x = torch.from_numpy(critical_inputs(SMALL[fmt]))
    ours = round_to(x, fmt, overflow="inf" if fmt.has_inf else "saturate")
    assert_same_bits(ours, x.to(fmt.dtype).float().numpy())


@pytest.mark.slow
@pytest.mark.parametrize("fmt", [FP16, BF16, E4M3FN], ids=str)
def test_every_float32_equals_torch(fmt):
    """All 2^32 of them, NaN included; about two minutes a format on two cores."""
    step = 1 << 24
    for start in range(-(1 << 31), 1 << 31, step):
        x = torch.arange(start, start + step, dtype=torch.int64).to(torch.int32).view(torch.float32)
        theirs = x.to(fmt.dtype).float()
        ours = round_to(x, fmt, overflow="inf" if fmt.has_inf else "saturate")
        same = (ours.view(torch.int32) == theirs.view(torch.int32)) | (ours.isnan() & theirs.isnan())
        assert same.all(), f"{fmt}: {x[~same][:4]} became {ours[~same][:4]}, not {theirs[~same][:4]}"


def compilations() -> Iterator[object]:
    """Yields formats with roundings: slow are those that compile anew what others have compiled, in another mixture.

    What is compiled depends on the format's plan and on the rounding. FP16's plan comes with every rounding, that of
    BF16 and TF32 with its three ways to the neighbours; a last addition and float64 are the others' only news.
    """
    wide = Format("", 7, 3, bias=0)
    native = ("nearest_even", "stochastic", "toward_negative")
    first = {BF16: native, TF32: native, E4M3FNUZ: ("nearest_even",), wide: ("nearest_even", "stochastic")}
    for fmt in (FP16, BF16, E4M3FN, E4M3FNUZ, TF32, Format.parse("e6m9"), wide):
        for rounding in get_args(Rounding):
            again = rounding not in first.get(fmt, get_args(Rounding))
            yield pytest.param(fmt, rounding, marks=[pytest.mark.slow] if again else [])


@pytest.mark.parametrize(("fmt", "rounding"), list(compilations()))
def test_compiled_equals_eager(fmt, rounding):
    x = torch.from_numpy(critical_inputs(SMALL.get(fmt, np.float16)))
    bits = torch.randint(-(2**31), 2**31, x.shape, dtype=torch.int32) if rounding == "stochastic" else None
    eager = round_to(x, fmt, overflow="saturate", rounding=rounding, random_bits=bits)
    compiled = round_to(x, fmt, overflow="saturate", rounding=rounding, random_bits=bits, compiled=True)
    assert_same_bits(compiled, eager.numpy())


def test_a_users_own_compilation_equals_eager():
    x = torch.from_numpy(critical_inputs(np.float16))
    compiled = torch.compile(round_to, fullgraph=True)
    assert_same_bits(compiled(x, E4M3FN, overflow="saturate"), round_to(x, E4M3FN, overflow="saturate").numpy())


def test_a_change_of_format_compiles_nothing_again():
    x = torch.randn(1000)
    for fmt in ("e4m3fn", "e5m2"):  # the second one with another length
        round_to(x[: len(fmt) * 100], fmt, overflow="saturate", compiled=True)
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for fmt in ("e2m1fn", "e3m4", "e4m3", "e5m2", "fp16", "e6m9"):
        round_to(x, fmt, overflow="saturate", compiled=True)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before


# --- any format, any direction ----------------------------------------------------------------------------------------


def gfloat_format(fmt: Format) -> gfloat.FormatInfo:
    return gfloat.FormatInfo(
        name=fmt.name,
        k=fmt.bits,
        precision=fmt.mantissa_bits + 1,
        bias=fmt.bias,
        is_signed=True,
        domain=gfloat.Domain.Extended if fmt.has_inf else gfloat.Domain.Finite,
        has_nz=fmt.has_negative_zero,
        num_high_nans={"ieee": (1 << fmt.mantissa_bits) - 1, "fn": 1, "fnuz": 0, "finite": 0}[fmt.specials],
        has_subnormals=True,
        is_twos_complement=False,
    )


ARBITRARY = [
    Format(f"e{e}m{m}{specials}", e, m, specials)
    for e, m, specials in itertools.product((2, 3, 5, 7), (1, 3, 8, 10), ("ieee", "fn", "fnuz", "finite"))
] + [Format("e8m10", 8, 10), Format("e4m3b20", 4, 3, bias=20), Format("e5m10b-90", 5, 10, bias=-90)]


@pytest.mark.parametrize("rounding", EXACT_MODES)
def test_arbitrary_formats_equal_gfloat(rounding):
    assert len(ARBITRARY) > 60
    generator = np.random.default_rng(0)
    for fmt in ARBITRARY:
        exponents = generator.integers(fmt.min_exponent - fmt.mantissa_bits - 3, min(fmt.max_exponent + 3, 128), 60)
        near_max = fmt.max * np.array([1 - fmt.eps, 1, 1 + fmt.eps / 4, 1 + fmt.eps / 2, 1.5])
        near_zero = fmt.smallest_subnormal * np.array([0.25, 0.5, 0.75, 1, 1.5, 2.5])
        with np.errstate(over="ignore", under="ignore"):
            x = np.float32([*np.ldexp(generator.standard_normal(60), exponents), *near_max, *near_zero, 0.0, np.inf])
        x = np.concatenate([x, -x])
        for overflow in {"saturate", usual_overflow(fmt)}:
            ours = round_to(torch.from_numpy(x), fmt, overflow=overflow, rounding=rounding)
            saturates = overflow == "saturate"
            theirs = [gfloat.round_float(gfloat_format(fmt), float(v), GFLOAT_MODES[rounding], saturates) for v in x]
            assert_same_bits(ours, np.float32(theirs))


formats = st.builds(
    lambda e, m, subnormals: Format("any", e, m, subnormals=subnormals),
    st.integers(2, 8),
    st.integers(1, 23),
    st.booleans(),
)
modes = st.sampled_from(EXACT_MODES)


def same(ours: float, theirs: float) -> bool:
    if math.isnan(theirs):
        return math.isnan(ours)
    return ours == theirs and math.copysign(1, ours) == math.copysign(1, theirs)


@given(fmt=formats, x=st.floats(width=32), rounding=modes)
@settings(max_examples=600)
def test_any_format_equals_the_oracle_from_float32(fmt, x, rounding):
    ours = round_to(torch.tensor(x, dtype=torch.float32), fmt, overflow="inf", rounding=rounding)
    assert ours.dtype is torch.float32
    assert same(float(ours), round_reference(x, fmt, rounding))


@given(fmt=formats, x=st.floats(width=64), rounding=modes)
@settings(max_examples=600)
def test_any_format_equals_the_oracle_from_float64(fmt, x, rounding):
    ours = round_to(torch.tensor(x, dtype=torch.float64), fmt, overflow="inf", rounding=rounding)
    assert ours.dtype is torch.float64
    assert same(float(ours), round_reference(x, fmt, rounding))


@st.composite
def biased(draw: st.DrawFn) -> Format:
    """Any format of float32's values: those that reach below 2^-126 or up to 2^127 come often."""
    e, m = draw(st.integers(2, 8)), draw(st.integers(1, 23))
    specials = draw(st.sampled_from(["ieee", "fn", "fnuz", "finite"]))
    binades = (1 << e) - 1 - (specials == "ieee")  # of normal values
    low, high = binades - 127, 150 - m  # the biases with which both ends fit float32
    assume(low <= high)
    bias = draw(st.one_of(st.integers(low, high), st.sampled_from([low, high, (low + high) // 2])))
    return Format("biased", e, m, specials, bias=bias, subnormals=draw(st.booleans()))


CARRIED = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@given(fmt=biased(), data=st.data(), dtype=st.sampled_from(CARRIED), rounding=modes)
@settings(max_examples=600)
def test_any_biased_format_equals_the_oracle(fmt, data, dtype, rounding):
    units = data.draw(st.floats(0, 2.0 ** (fmt.mantissa_bits + 3)))
    near = st.just(units * fmt.smallest_subnormal)
    x = data.draw(
        st.one_of(st.floats(width=32, allow_nan=False), near, st.just(fmt.max), st.just(-fmt.smallest_normal))
    )
    came = torch.tensor(x * data.draw(st.sampled_from([1, -1, 1.5, 0.75])), dtype=torch.float64).to(dtype)
    wanted = round_reference(came.item(), fmt, rounding)
    wanted = math.copysign(min(abs(wanted), fmt.max), wanted)
    assert same(float(round_to(came, fmt, overflow="saturate", rounding=rounding)), wanted)


LOW = [Format.parse(name) for name in ("e4m3b130", "e5m2b140", "e4m3b130fnuz", "e2m1b148", "e5m2b125", "e7m4b143fn")]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("fmt", LOW, ids=str)
def test_formats_below_floats_smallest_normal_value(fmt, compiled):
    """Every value and every middle between two of them, from float32 and from float64."""
    values = torch.from_numpy(fmt.values())
    values = values[values.isfinite()].unique()
    middles = (values[1:] + values[:-1]) / 2
    x = torch.cat([values, middles])
    wanted = [round_reference(v, fmt) for v in x.tolist()]
    wanted = torch.tensor([math.copysign(min(abs(v), fmt.max), v) for v in wanted], dtype=torch.float64)
    assert torch.equal(round_to(x, fmt, overflow="saturate", compiled=compiled), wanted)
    held = x.float().double() == x
    assert torch.equal(round_to(x[held].float(), fmt, overflow="saturate", compiled=compiled), wanted[held].float())
    assert held.sum() >= len(values)


def test_a_value_below_floats_smallest_normal_one_is_kept_in_every_direction():
    x = torch.tensor([2.0**-132])
    for rounding in get_args(Rounding):
        for came in (x, -x, x.double()):
            assert torch.equal(round_to(came, "e4m3b130", overflow="saturate", rounding=rounding), came)


@pytest.mark.parametrize("rounding", EXACT_MODES)
def test_normal_values_are_rounded_alike_where_subnormals_are_flushed(rounding):
    for fmt in (FP16, BF16, TF32, E4M3FN, Format.parse("e4m3b125"), Format.parse("e4m3b130"), Format.parse("e6m9")):
        x = (torch.linspace(1, 2, 33) * 2.0 ** torch.arange(-126, 127)[:, None]).flatten()
        x = torch.cat([x, -x])
        wanted = round_to(x, fmt, overflow="saturate", rounding=rounding)
        if not torch.set_flush_denormal(True):
            pytest.skip("this CPU does not flush subnormals")
        try:
            flushed = round_to(x, fmt, overflow="saturate", rounding=rounding)
        finally:
            torch.set_flush_denormal(False)
        normal = wanted.abs() >= 2.0**-126
        assert torch.equal(flushed[normal], wanted[normal])
        assert (flushed[~normal].abs() <= 2.0**-126).all()


@given(fmt=formats, x=st.floats(width=32, allow_nan=False))
def test_what_is_rounded_lies_on_the_side_it_was_sent_to(fmt, x):
    tensor = torch.tensor(x, dtype=torch.float64)
    down, up, zero = (
        float(round_to(tensor, fmt, overflow="inf", rounding=rounding))
        for rounding in ("toward_negative", "toward_positive", "toward_zero")
    )
    assert down <= x <= up
    assert abs(zero) <= abs(x)
    assert zero in (down, up)
    assert down == up or fmt.next_up(down) == up or up - down == fmt.ulp(x)


@given(fmt=formats, x=st.floats(width=32, allow_nan=False))
def test_rounding_is_idempotent_and_odd(fmt, x):
    once = round_to(torch.tensor(x), fmt, overflow="saturate")
    assert torch.equal(round_to(once, fmt, overflow="saturate"), once)
    assert torch.equal(round_to(torch.tensor(-x), fmt, overflow="saturate"), -once)


@pytest.mark.parametrize("rounding", get_args(Rounding))
def test_every_float64_is_a_value_of_fp64(rounding):
    x = torch.tensor([1.5, -1e308, 5e-324, -0.0, torch.inf, -torch.inf], dtype=torch.float64)
    assert torch.equal(round_to(x, "fp64", overflow="inf", rounding=rounding), x)
    assert round_to(x.to("meta"), "fp64", overflow="inf", rounding=rounding).shape == x.shape


def test_float64_is_rounded_once():
    # Through float32 this would first become the tie 1 + 2^-11, and then 1.
    x = torch.tensor(1 + 2.0**-11 + 2.0**-40, dtype=torch.float64)
    assert float(round_to(x, FP16, overflow="inf")) == 1 + 2.0**-10
    assert float(round_to(x.float(), FP16, overflow="inf")) == 1.0


@pytest.mark.parametrize(
    ("overflow", "expected"),
    [("inf", [65504, math.inf, math.inf, -math.inf]), ("saturate", [65504, 65504, 65504, -65504])],
)
def test_overflow_is_what_was_asked_for(overflow, expected):
    x = torch.tensor([65519.0, 65520.0, math.inf, -math.inf])
    assert round_to(x, "fp16", overflow=overflow).tolist() == expected


def test_overflow_to_nan_takes_infinity_along():
    rounded = round_to(torch.tensor([448.0, 465.0, math.inf, -math.inf]), E4M3FN, overflow="nan")
    assert rounded.isnan().tolist() == [False, True, True, True]


@pytest.mark.parametrize("shape", [(), (0,), (3, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_shapes_dtypes_and_views(shape, dtype):
    x = torch.randn(shape, dtype=torch.float32).to(dtype)
    kept = x.clone()
    rounded = round_to(x, "e5m2", overflow="inf")
    assert rounded.shape == x.shape
    assert rounded.dtype is (torch.float64 if dtype is torch.float64 else torch.float32)
    assert torch.equal(x, kept)
    strided = torch.randn(8, 6)[::2].t()
    assert torch.equal(round_to(strided, FP16, overflow="inf"), strided.half().float())


# --- stochastic -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("fmt", "x"),
    [(E4M3FN, 1.1), (E4M3FN, -1.1), (E4M3FN, 3.3e-3), (E4M3FN, -430.0), (BF16, 1.1), (BF16, -1e-39)],
    ids=str,
)
def test_stochastic_rounding_is_right_on_average(fmt, x, compiled):
    """Within 3 sigma of the binomial, at a fixed seed; always one of the two neighbours."""
    n = 200_000
    values = torch.full((n,), x)
    generator = torch.Generator().manual_seed(1)
    rounded = round_to(
        values, fmt, overflow="saturate", rounding="stochastic", generator=generator, compiled=compiled
    ).double()
    x = float(values[0])
    below, above = fmt.next_down(x), fmt.next_up(x)
    assert set(rounded.tolist()) == {below, above}
    share = (x - below) / (above - below)
    assert abs(float((rounded == above).double().mean()) - share) <= 3 * math.sqrt(share * (1 - share) / n)


@pytest.mark.parametrize("compiled", [False, True])
def test_stochastic_rounding_leaves_values_alone_and_saturates(compiled):
    values = torch.from_numpy(E4M3FN.values()).float()
    x = torch.cat([values.repeat(50), torch.tensor([1e4, -1e4, torch.inf])])
    rounded = round_to(x, E4M3FN, overflow="saturate", rounding="stochastic", compiled=compiled)
    assert_same_bits(rounded, x.clamp(-448, 448).numpy())


def test_stochastic_rounding_equals_gfloat_on_the_same_bits():
    """gfloat goes up from 2^24 - bits on, mixlab below the fraction: the same with the 24 bits counted from the top."""
    generator = np.random.default_rng(0)
    for fmt in ARBITRARY[::3]:
        exponents = generator.integers(max(fmt.min_exponent, -100), min(fmt.max_exponent + 2, 127), 80)
        x = np.float32(np.ldexp(generator.uniform(-2, 2, 80), exponents))
        x = x[np.abs(x) >= fmt.smallest_normal]  # below, 24 bits do not hold the fraction, and each rounds it its way
        drawn = generator.integers(0, 1 << 24, len(x))
        bits = torch.from_numpy((drawn << 8).astype(np.uint32).view(np.int32))
        ours = round_to(torch.from_numpy(x), fmt, overflow="saturate", rounding="stochastic", random_bits=bits)
        mode = gfloat.RoundMode.StochasticFastest
        theirs = [
            gfloat.round_float(gfloat_format(fmt), float(v), mode, True, srbits=(1 << 24) - 1 - int(r), srnumbits=24)
            for v, r in zip(x, drawn, strict=True)
        ]
        assert_same_bits(ours, np.float32(theirs))


def test_stochastic_rounding_follows_the_bits_and_the_generator():
    x = torch.rand(1000)
    bits = torch.randint(-(2**31), 2**31, x.shape, dtype=torch.int32)
    expected = round_to(x, BF16, overflow="inf", rounding="stochastic", random_bits=bits)
    uniform = ((bits.long() % 2**32) // 256).double() / 2**24
    down = round_to(x, BF16, overflow="inf", rounding="toward_zero")
    gap = torch.tensor([BF16.ulp(v) for v in x.tolist()])
    assert torch.equal(expected, torch.where(uniform < (x - down) / gap, down + gap, down))
    draws = [
        round_to(
            x, BF16, overflow="inf", rounding="stochastic", generator=torch.Generator().manual_seed(seed), compiled=c
        )
        for c in (False, True)
        for seed in (0, 0, 1)
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(draws[3], draws[4])
    assert not torch.equal(draws[3], draws[5])


def test_hashed_bits_of_neighbours_are_unrelated():
    """The correlation of an element's fate with that of the 1st to 20th next is within 4 sigma of none."""
    n = 1 << 17
    x = torch.full((n,), 1.25)  # half way from 1 to 1.5
    generator = torch.Generator().manual_seed(2)
    rounded = round_to(
        x, Format("", 3, 1), overflow="saturate", rounding="stochastic", generator=generator, compiled=True
    )
    signs = torch.where(rounded > 1.25, 1.0, -1.0).double()
    assert set(rounded.tolist()) == {1.0, 1.5}
    correlations = [float((signs[:-distance] * signs[distance:]).mean()) for distance in range(1, 21)]
    assert max(map(abs, correlations)) < 4 / math.sqrt(n)


# --- tensors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [False, True])
def test_out_is_written_and_returned(compiled):
    x = torch.randn(300, 7)
    expected = round_to(x, "fp16", overflow="inf")
    for out in (torch.empty(300, 7), torch.empty(7, 300).t(), torch.empty(600, 14)[::2, ::2]):
        assert round_to(x, "fp16", overflow="inf", out=out, compiled=compiled) is out
        assert torch.equal(out, expected)
    assert round_to(x, "fp16", overflow="inf", out=x, compiled=compiled) is x
    assert torch.equal(x, expected)


@pytest.mark.cpu_kernels
@pytest.mark.parametrize("compiled", [False, True])
def test_large_tensors_equal_small_ones(compiled):
    x = torch.randn(200_003)
    whole = round_to(x, "e4m3fn", overflow="saturate", compiled=compiled)
    parts = [round_to(part, "e4m3fn", overflow="saturate") for part in x.split(999)]
    assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize("compiled", [False, True])
def test_meta_tensors_pass_through(compiled):
    rounded = round_to(torch.empty(3, 4, device="meta"), "fp16", overflow="inf", compiled=compiled)
    assert (rounded.device.type, rounded.shape, rounded.dtype) == ("meta", (3, 4), torch.float32)


@pytest.mark.gpu
@pytest.mark.parametrize("rounding", EXACT_MODES)
@pytest.mark.parametrize("fmt", SMALL, ids=str)
def test_cuda_equals_cpu(fmt, rounding):
    x = torch.from_numpy(critical_inputs(SMALL[fmt]))
    here = round_to(x, fmt, overflow="saturate", rounding=rounding).numpy()
    assert_same_bits(round_to(x.cuda(), fmt, overflow="saturate", rounding=rounding).cpu(), here)
    assert_same_bits(round_to(x.cuda(), fmt, overflow="saturate", rounding=rounding, compiled=True).cpu(), here)


@pytest.mark.parametrize(
    ("x", "fmt", "overflow", "message"),
    [
        (torch.arange(3), "fp16", "inf", "float16 or bfloat16 tensor, got torch.int64"),
        (torch.ones(1).to(torch.float8_e5m2), "fp16", "inf", "or bfloat16 tensor, got torch.float8_e5m2"),
        (1.0, "fp16", "inf", "float16 or bfloat16 tensor, got float"),
        (torch.ones(1), "fp17", "inf", "unknown format 'fp17': use one of fp64"),
        (torch.ones(1), "e8m0fnu", "nan", "e8m0fnu is a scale"),
        (torch.ones(1), "e2m1fn", "nan", "e2m1fn has no NaN; use overflow='saturate'"),
        (torch.ones(1), "fp16", "wrap", "must be one of inf, nan, saturate, got 'wrap'"),
        (torch.ones(1), "e4m3fn", "inf", "e4m3fn has no infinity; use overflow='saturate'"),
        (torch.ones(1, requires_grad=True), "fp16", "inf", "pass x.detach()"),
    ],
)
def test_bad_input_is_named(x, fmt, overflow, message):
    with pytest.raises((TypeError, ValueError), match=message.replace("(", r"\(").replace(")", r"\)")):
        round_to(x, fmt, overflow=overflow)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rounding": "up"}, "rounding must be one of nearest_even, nearest_away, .* got 'up'"),
        ({"random_bits": torch.zeros(2, dtype=torch.int32)}, "random_bits are for rounding='stochastic'"),
        (
            {"rounding": "stochastic", "random_bits": torch.zeros(3, dtype=torch.int32)},
            r"int32 tensor of x's shape \(2,\)",
        ),
        ({"rounding": "stochastic", "random_bits": torch.zeros(2)}, "got 'torch.float32"),
        ({"out": torch.zeros(3)}, r"out must be torch.float32 \(2,\) on cpu, got torch.float32 \(3,\) on cpu"),
        ({"out": torch.zeros(2, dtype=torch.float16)}, "out must be torch.float32"),
        ({"out": torch.zeros(2, requires_grad=True)}, "out must not need a gradient"),
    ],
)
def test_bad_options_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        round_to(torch.ones(2), "fp16", overflow="inf", **arguments)


def test_bf16_at_random_is_round_to_with_the_same_bits():
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randint(-(2**31), 2**31, (1 << 20,), dtype=torch.int32, generator=generator)
    bits = torch.randint(-(2**31), 2**31, (1 << 20,), dtype=torch.int32, generator=generator)
    edges = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 3.4e38, -3.4e38, 2.0**-149, 1.0, -1.0])
    x = torch.cat([patterns.view(torch.float32), edges.repeat_interleave(3)])
    bits = torch.cat([bits, torch.tensor([0, -1, 2**31 - 1], dtype=torch.int32).repeat(len(edges))])
    expected = round_to(x, "bf16", overflow="inf", rounding="stochastic", random_bits=bits)
    seen = bf16_at_random(x, bits)
    assert torch.equal(seen.isnan(), expected.isnan())
    assert torch.equal(seen.nan_to_num(7.0).view(torch.int32), expected.nan_to_num(7.0).view(torch.int32))
