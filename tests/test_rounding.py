"""Bit for bit: every value, midpoint and neighbour, against torch's casts, ml_dtypes and exact rational arithmetic."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlab import BF16, E4M3FN, E5M2, FP16, TF32, Format, round_to
from tests.reference.rounding import round_nearest_even

SMALL = {
    FP16: np.float16,
    BF16: ml_dtypes.bfloat16,
    E4M3FN: ml_dtypes.float8_e4m3fn,
    E5M2: ml_dtypes.float8_e5m2,
}


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


@pytest.mark.parametrize("fmt", SMALL, ids=str)
def test_every_critical_value_equals_ml_dtypes_and_torch(fmt):
    x = critical_inputs(SMALL[fmt])
    with np.errstate(over="ignore"):
        theirs = x.astype(SMALL[fmt]).astype(np.float32)
    ours = round_to(torch.from_numpy(x), fmt, overflow="inf" if fmt.has_inf else "nan")
    assert_same_bits(ours, theirs)
    torchs = torch.from_numpy(x).to(fmt.dtype).float()
    ours = round_to(torch.from_numpy(x), fmt, overflow="inf" if fmt.has_inf else "saturate")
    assert_same_bits(ours, torchs.numpy())


@pytest.mark.parametrize("fmt", [*SMALL, TF32, Format.parse("e6m9")], ids=str)
def test_compiled_equals_eager(fmt):
    x = torch.from_numpy(critical_inputs(SMALL.get(fmt, np.float16)))
    compiled = torch.compile(round_to)
    eager = round_to(x, fmt, overflow="saturate")
    assert_same_bits(compiled(x, fmt, overflow="saturate"), eager.numpy())


formats = st.builds(lambda e, m: Format.parse(f"e{e}m{m}"), st.integers(2, 8), st.integers(1, 23))


@given(fmt=formats, x=st.floats(width=32))
@settings(max_examples=600)
def test_any_format_equals_the_oracle_from_float32(fmt, x):
    ours = float(round_to(torch.tensor(x, dtype=torch.float32), fmt, overflow="inf"))
    theirs = round_nearest_even(x, fmt)
    assert (
        math.isnan(ours) if math.isnan(theirs) else (ours, math.copysign(1, ours)) == (theirs, math.copysign(1, theirs))
    )


@given(fmt=formats, x=st.floats(width=64))
@settings(max_examples=600)
def test_any_format_equals_the_oracle_from_float64(fmt, x):
    rounded = round_to(torch.tensor(x, dtype=torch.float64), fmt, overflow="inf")
    theirs = round_nearest_even(x, fmt)
    assert rounded.dtype is torch.float64
    assert math.isnan(rounded) if math.isnan(theirs) else float(rounded) == theirs


@given(fmt=formats, x=st.floats(width=32, allow_nan=False))
def test_rounding_is_idempotent_and_odd(fmt, x):
    once = round_to(torch.tensor(x), fmt, overflow="saturate")
    assert torch.equal(round_to(once, fmt, overflow="saturate"), once)
    assert torch.equal(round_to(torch.tensor(-x), fmt, overflow="saturate"), -once)


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


@pytest.mark.parametrize(
    ("x", "fmt", "overflow", "message"),
    [
        (torch.arange(3), "fp16", "inf", "floating-point tensor, got torch.int64"),
        (1.0, "fp16", "inf", "floating-point tensor, got float"),
        (torch.ones(1), "fp17", "inf", "unknown format 'fp17': use one of fp32"),
        (torch.ones(1), "fp16", "wrap", "must be one of inf, nan, saturate, got 'wrap'"),
        (torch.ones(1), "e4m3fn", "inf", "e4m3fn has no infinity; use overflow='saturate'"),
        (torch.ones(1, requires_grad=True), "fp16", "inf", "pass x.detach()"),
    ],
)
def test_bad_input_is_named(x, fmt, overflow, message):
    with pytest.raises((TypeError, ValueError), match=message.replace("(", r"\(").replace(")", r"\)")):
        round_to(x, fmt, overflow=overflow)
