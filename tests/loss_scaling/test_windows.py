"""Windows of usable loss scales."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixlab.loss_scaling import ScaleWindow
from mixlab.loss_scaling.windows import NO_WINDOW

EXPONENTS = st.integers(-512, 512)
WINDOWS = st.builds(ScaleWindow, EXPONENTS, EXPONENTS) | st.just(NO_WINDOW)


@pytest.mark.parametrize(
    ("window", "words"),
    [
        (ScaleWindow(-4, 14), "2⁻⁴ to 2¹⁴"),
        (ScaleWindow(3, 3), "2³ to 2³"),
        (ScaleWindow(1, 0), "none (2¹ is above 2⁰)"),
        (NO_WINDOW, "none"),
    ],
)
def test_a_window_in_words(window, words):
    assert str(window) == words
    assert window.usable == (not words.startswith("none"))


@given(WINDOWS, WINDOWS, EXPONENTS)
def test_a_scale_is_in_both_windows_if_it_is_in_their_intersection(first, second, exponent):
    assert (exponent in first & second) == (exponent in first and exponent in second)


@given(WINDOWS)
def test_no_window_stays_none(window):
    assert window & NO_WINDOW == NO_WINDOW & window == NO_WINDOW
