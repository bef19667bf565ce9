from __future__ import annotations

import dataclasses
import itertools
import math
import re

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixlab import FORMATS, Format
from mixlab.formats import BF16, E4M3FN, E4M3FNUZ, E8M0FNU, FP16, FP32, FP64, TF32

STORED = [fmt for fmt in FORMATS.values() if fmt.dtype is not None]
ML_DTYPES = {
    "fp64": np.float64,
    "fp32": np.float32,
    "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "e3m2fn": ml_dtypes.float6_e3m2fn,
    "e2m3fn": ml_dtypes.float6_e2m3fn,
    "e2m1fn": ml_dtypes.float4_e2m1fn,
    **{
        name: getattr(ml_dtypes, f"float8_{name}")
        for name in ("e5m2", "e5m2fnuz", "e4m3", "e4m3fn", "e4m3fnuz", "e4m3b11fnuz", "e3m4", "e8m0fnu")
    },
}
PEERED = pytest.mark.parametrize("fmt", [FORMATS[name] for name in ML_DTYPES], ids=str)
CODED = pytest.mark.parametrize("fmt", [fmt for fmt in FORMATS.values() if fmt.bits <= 16], ids=str)


def peer_values(fmt: Format) -> np.ndarray:
    """Returns what ml_dtypes makes of every code."""
    codes = np.arange(1 << fmt.bits).astype(np.uint8 if fmt.bits <= 8 else np.uint16)
    with np.errstate(invalid="ignore"):
        return codes.view(ML_DTYPES[fmt.name]).astype(np.float64)


def some_formats() -> st.SearchStrategy[Format]:
    specials = st.sampled_from(["ieee", "fn", "fnuz", "finite"])
    return st.builds(
        lambda e, m, s, subnormals: Format("any", e, m, s, subnormals=subnormals),
        st.integers(2, 5),
        st.integers(1, 4),
        specials,
        st.booleans(),
    )


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", STORED, ids=str)
def test_limits_equal_torch(fmt):
    theirs = torch.finfo(fmt.dtype)
    assert fmt.bits == theirs.bits
    assert fmt.max == theirs.max
    assert fmt.smallest_normal == theirs.smallest_normal
    assert fmt.eps == (0.25 if fmt.name == "e5m2fnuz" else theirs.eps)  # torch 2.13 says 0.125 there, ml_dtypes 0.25


@PEERED
def test_limits_equal_ml_dtypes(fmt):
    theirs = ml_dtypes.finfo(ML_DTYPES[fmt.name])
    assert fmt.bits == theirs.bits
    assert fmt.max == float(theirs.max)
    assert fmt.smallest_normal == float(theirs.smallest_normal)
    assert fmt.smallest_subnormal == float(theirs.smallest_subnormal)
    assert fmt.eps == float(theirs.eps)
    assert (fmt.exponent_bits, fmt.mantissa_bits) == (theirs.nexp, theirs.nmant)


def test_the_textbook_numbers():
    assert FP16.max == 65504
    assert FP16.smallest_normal == 2.0**-14
    assert FP16.smallest_subnormal == 2.0**-24
    assert BF16.eps == 2.0**-7
    assert BF16.unit_roundoff == 2.0**-8
    assert E4M3FN.max == 448
    assert (TF32.bits, TF32.eps, TF32.smallest_normal) == (19, FP16.eps, FP32.smallest_normal)


@CODED
def test_from_the_overflow_threshold_on_casts_overflow(fmt):
    if not fmt.signed:
        pytest.skip("scales are not rounded to")
    first = np.float32(fmt.overflow_threshold)  # casts start from float32
    if float(first) < fmt.overflow_threshold:
        first = np.nextafter(first, np.float32(np.inf))
    inputs = np.float32([np.nextafter(first, np.float32(0)), first])
    with np.errstate(over="ignore"):
        kept, lost = inputs.astype(ML_DTYPES[fmt.name]).astype(np.float64)
    assert kept == fmt.max
    assert lost != fmt.max or not (fmt.has_inf or fmt.has_nan)  # without either, casts saturate


# --- codes ------------------------------------------------------------------------------------------------------------


@CODED
def test_every_code_decodes_as_in_ml_dtypes(fmt):
    theirs = peer_values(fmt)
    ours = np.array([fmt.decode(code).value for code in range(1 << fmt.bits)])
    assert np.array_equal(ours, theirs, equal_nan=True)
    numbers = ~np.isnan(theirs)
    assert np.array_equal(np.signbit(ours[numbers]), np.signbit(theirs[numbers]))
    assert np.array_equal(fmt.values(), theirs, equal_nan=True)


@CODED
def test_encode_undoes_decode(fmt):
    codes = [fmt.decode(code) for code in range(1 << fmt.bits)]
    assert all(fmt.encode(code.value) == code.bits for code in codes if code.kind != "nan")
    nan = [code for code in codes if code.kind == "nan"]
    assert all(fmt.decode(fmt.encode(code.value)).kind == "nan" for code in nan)


@CODED
def test_fields_and_kinds_add_up(fmt):
    for code in map(fmt.decode, range(1 << fmt.bits)):
        joined = (code.sign << fmt.exponent_bits | code.exponent_field) << fmt.mantissa_bits | code.mantissa_field
        assert joined == code.bits
        magnitude = abs(code.value)
        assert (code.kind == "zero") == (magnitude == 0)
        assert (code.kind == "subnormal") == (0 < magnitude < fmt.smallest_normal)
        assert (code.kind == "normal") == (fmt.smallest_normal <= magnitude <= fmt.max)
        assert (code.kind == "inf") == math.isinf(magnitude)


@given(fmt=some_formats())
def test_any_format_has_its_values_in_order_and_no_other(fmt):
    values = fmt.values()
    assert np.array_equal(values, [fmt.decode(code).value for code in range(1 << fmt.bits)], equal_nan=True)
    positive = values[: len(values) // 2]
    finite = np.unique(positive[np.isfinite(positive)])
    assert finite[0] == 0
    assert finite[-1] == fmt.max
    assert finite[1] == (fmt.smallest_subnormal if fmt.subnormals else fmt.smallest_normal)
    for low, high in itertools.pairwise(finite):
        middle = (low + high) / 2
        assert (fmt.next_up(low), fmt.next_up(middle), fmt.next_down(middle), fmt.next_down(high)) == (
            *(high, high),
            *(low, low),
        )
        assert (fmt.next_down(-low), fmt.next_up(-middle), fmt.next_up(-high)) == (-high, -low, -low)
        assert fmt.ulp(low) == high - low
        with pytest.raises(ValueError, match="has no value .* its neighbours are"):
            fmt.encode(middle)


@PEERED
def test_beyond_the_last_value(fmt):
    assert fmt.next_up(fmt.max) == math.inf if fmt.has_inf else math.isnan(fmt.next_up(fmt.max))
    assert fmt.next_down(math.inf) == fmt.max
    assert math.isnan(fmt.next_up(math.nan))
    assert math.isnan(fmt.ulp(math.inf))
    if fmt.signed:
        assert fmt.next_up(-math.inf) == -fmt.max
        assert fmt.ulp(0.0) == fmt.smallest_subnormal == fmt.next_up(0.0)


def test_neighbours_in_fp64_are_those_of_the_machine():
    for x in (1.0, 0.1, -3.0, 5e-324, 1.7976931348623157e308):
        assert FP64.next_up(x) == math.nextafter(x, math.inf)
        assert FP64.next_down(x) == math.nextafter(x, -math.inf)
        assert FP64.ulp(x) == math.ulp(x)


@pytest.mark.parametrize(
    ("fmt", "value", "words"),
    [
        (FP16, 957.3, "fp16 has no value 957.3: its neighbours are 957.0 and 957.5"),
        (E4M3FN, 957, "its neighbours are 448.0 and nan"),
        (E4M3FN, math.inf, "e4m3fn has no value inf"),
        (E4M3FNUZ, -0.0, "e4m3fnuz has no value -0.0"),
        (E8M0FNU, 0, "e8m0fnu has no value 0.0"),
        (E8M0FNU, -1, "e8m0fnu has no value -1.0"),
        (FORMATS["e2m1fn"], math.nan, "e2m1fn has no value nan"),
    ],
    ids=str,
)
def test_what_a_format_cannot_hold_is_refused(fmt, value, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        fmt.encode(value)


@pytest.mark.parametrize("code", [-1, 1 << 16, 1.0, True, "0"])
def test_what_is_no_code_is_refused(code):
    with pytest.raises(ValueError, match="fp16: a code must be a whole number from 0 to 65535"):
        FP16.decode(code)


def test_values_of_wide_formats_are_not_listed():
    with pytest.raises(ValueError, match="up to 16 bits, and this one has 19"):
        TF32.values()


# --- making formats ---------------------------------------------------------------------------------------------------


def test_parse_finds_names_and_builds_any_exmy():
    assert Format.parse("bf16") is BF16
    parsed = Format.parse("e5m10")
    assert Format.parse("e2m1").max == 3.0  # ieee: the highest exponent is reserved
    assert str(parsed) == "e5m10"
    assert Format.parse("e4m3b11fnuz") == Format("", 4, 3, "fnuz", bias=11)
    assert Format.parse("e3m3b-2fn").bias == -2


@pytest.mark.parametrize(
    ("text", "fmt"), [("e5m10", FP16), ("e8m7", BF16), ("e8m10", TF32), ("e8m23", FP32), ("e4m3b7fn", E4M3FN)]
)
def test_formats_are_equal_by_their_fields_whatever_their_names(text, fmt):
    parsed = Format.parse(text)
    assert parsed == fmt
    assert hash(parsed) == hash(fmt)
    assert {fmt: 1}[parsed] == 1
    assert parsed.dtype is fmt.dtype
    assert (str(parsed), fmt == "fp16") == (text, False)


def test_a_name_says_nothing_about_the_values():
    assert Format("fp16", 8, 7).dtype is torch.bfloat16
    assert Format("fp16", 8, 7) != FP16
    assert Format("fp16", 5, 10, subnormals=False).dtype is None
    fields = [(fmt.exponent_bits, fmt.mantissa_bits, fmt.specials, fmt.bias) for fmt in FORMATS.values()]
    assert len(set(fields)) == len(set(FORMATS.values())) == len(FORMATS)


@pytest.mark.parametrize("text", ["fp17", "e9m3", "e1m3", "e5m24", "e5m0", "e5", "", "FP16", "e4m3xyz", None, 16])
def test_parse_refuses_what_is_no_format(text):
    with pytest.raises(ValueError, match=r"fp16|from 2 to 8|from 1 to 23"):
        Format.parse(text)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Format("x", 8, 2, "fn"), "reaches from 2⁻¹²⁸ to 2¹²⁸, beyond float32"),
        (lambda: Format("x", 5, 2, bias=-120), "beyond float32"),
        (lambda: Format("x", 5, 2, bias=1.5), "bias must be a whole number from -127 to 1023, got 1.5"),
        (lambda: Format("x", 5, 2, subnormals=1), "subnormals must be True or False, got 1"),
        (lambda: Format("x", 8, 1, "scale"), "mantissa_bits must be a whole number from 0 to 0, got 1"),
    ],
)
def test_formats_that_cannot_be_are_refused(make, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        make()


def test_formats_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        FP16.mantissa_bits = 11


@pytest.mark.parametrize("method", ["encode", "ulp", "next_up", "next_down"])
@pytest.mark.parametrize("value", [10**400, -(10**400)])
def test_whole_numbers_beyond_float64_are_refused(method, value):
    with pytest.raises(ValueError, match="fp16: value must fit float64, got a whole number of 401 digits"):
        getattr(FP16, method)(value)


def test_the_neighbour_of_a_small_negative_value_is_zero_with_a_sign_only_where_there_is_one():
    for fmt in FORMATS.values():
        if fmt.signed:
            zero = fmt.next_up(-fmt.smallest_subnormal)
            assert zero == 0
            assert math.copysign(1, zero) == (-1 if fmt.has_negative_zero else 1)
