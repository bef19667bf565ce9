from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixlab import FORMATS, Format, explain, round_to
from tests.reference.rounding import round_reference

SIGNED = [fmt for fmt in FORMATS.values() if fmt.signed]


@pytest.mark.parametrize(
    ("value", "fmt", "outcome", "result", "words"),
    [
        (957, "fp16", "exact", 957.0, "957 is a value of fp16: nothing is lost."),
        (957, "e4m3b4", "rounded", 960.0, "957 is 3 from 960 and 61 from 896, so it becomes 960."),
        (957 / 2, "e4m3fn", "overflow", 448.0, "the largest value is 448; above 464, all values overflow."),
        (65520, "fp16", "overflow", math.inf, "from 65520 on, all values overflow. It becomes inf."),
        (65519, "fp16", "rounded", 65504.0, "65504 is the largest value; the next would round up from 65520 on."),
        (2049, "fp16", "rounded", 2048.0, "Tie: 2049 lies in the middle, so it becomes the one with the even last bit"),
        (
            1e-8,
            "fp16",
            "underflow",
            0.0,
            "Underflow: values up to half the smallest, 2.980232239e-08, become zero",
        ),
        (6e-8, "fp16", "rounded", 2.0**-24, "below the smallest normal value 2⁻¹⁴. Subnormal values are all"),
        (-0.0, "fp16", "exact", -0.0, "Stored: 1 00000 0000000000, that is -zero."),
        (math.nan, "fp16", "nan", math.nan, "NaN stays NaN."),
        (math.nan, "e2m1fn", "nan", None, "e2m1fn has no code for NaN"),
        (-math.inf, "e5m2", "exact", -math.inf, "Stored: 1 11111 00, that is -infinity."),
        (-1e-8, "e4m3fnuz", "underflow", 0.0, "Neighbours: -0.0009765625 and 0."),
        (-1e-8, "e4m3fn", "underflow", -0.0, "Neighbours: -0.001953125 and -0."),
        (-0.0, "e5m2fnuz", "exact", 0.0, "e5m2fnuz has no negative zero: -0 becomes 0."),
        (-7, "e2m1fn", "overflow", -6.0, "It becomes -6."),
    ],
)
def test_what_is_said_and_recorded(value, fmt, outcome, result, words):
    explanation = explain(value, fmt, overflow=Format.of(fmt).usual_overflow)
    assert explanation.outcome == outcome
    if result is None:
        assert explanation.result is None
    else:
        assert np.array_equal([explanation.result.value], [result], equal_nan=True)
    assert words in str(explanation)


@given(fmt=st.sampled_from(SIGNED), value=st.floats(width=64))
def test_every_explanation_agrees_with_the_rounding(fmt, value):
    explanation = explain(value, fmt, overflow="saturate")
    rounded = float(round_to(torch.tensor(value, dtype=torch.float64), fmt, overflow="saturate"))
    stored = math.nan if explanation.result is None else explanation.result.value
    assert (stored == rounded) or (math.isnan(stored) and math.isnan(rounded))
    assert str(explanation).splitlines()[-1].split(". ")[1].startswith("Stored:")
    if math.isfinite(value):
        assert explanation.below <= value or math.isnan(explanation.below)
        assert explanation.above >= value or math.isnan(explanation.above)
        away = [round_reference(value, fmt, mode) for mode in ("nearest_even", "nearest_away")]
        assert not explanation.tie or abs(away[1]) >= abs(away[0])
        assert explanation.tie or away[0] == away[1]


any_format = st.one_of(
    st.sampled_from(SIGNED),
    st.builds(
        lambda e, m, specials, subnormals: Format("any", e, m, specials, subnormals=subnormals),
        *(st.integers(2, 7), st.integers(1, 12), st.sampled_from(["ieee", "fn", "fnuz", "finite"]), st.booleans()),
    ),
)


@given(
    fmt=any_format, value=st.one_of(st.floats(width=64, allow_nan=False), st.floats(-1e-2, 1e-2)), small=st.booleans()
)
def test_whatever_is_named_is_a_value_of_the_format(fmt, value, small):
    value = value * fmt.smallest_subnormal if small else value
    explanation = explain(value, fmt, overflow=fmt.usual_overflow)
    for neighbour in (explanation.below, explanation.above):
        if not math.isnan(neighbour):
            fmt.encode(neighbour)  # refuses what is none, -0 included


def test_the_rule_for_overflow_can_be_chosen():
    assert explain(1e6, "fp16", overflow="saturate").result.value == 65504
    assert math.isnan(explain(1e6, "e4m3fn", overflow="nan").result.value)
    assert explain(1e6, Format("none", 4, 3, subnormals=False), overflow="inf").outcome == "overflow"


@pytest.mark.parametrize(
    ("value", "fmt", "words"),
    [
        ("957", "fp16", "explain: value must be a number, got '957'"),
        (True, "fp16", "explain: value must be a number, got True"),
        (10**400, "fp16", "explain: value must fit float64, got a whole number of 401 digits"),
        (1.0, "fp17", "unknown format 'fp17'"),
        (1.0, "e8m0fnu", "e8m0fnu is a scale"),
    ],
)
def test_what_cannot_be_explained_is_refused(value, fmt, words):
    with pytest.raises((TypeError, ValueError), match=words):
        explain(value, fmt, overflow="saturate")
