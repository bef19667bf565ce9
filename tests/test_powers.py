"""One way to write a power, and no other that reaches a reader."""

from __future__ import annotations

import math

import pytest

from mixlab.powers import power, power_of_two, superscript
from mixlab.reports import power as reported


@pytest.mark.parametrize(
    ("exponent", "text"),
    [
        (0, "2⁰"),
        (1, "2¹"),
        (-24, "2⁻²⁴"),
        (16.0, "2¹⁶"),
        (-1074, "2⁻¹⁰⁷⁴"),
        (0.5, "1.41 × 2⁰"),
        (-0.5, "1.41 × 2⁻¹"),
        (2.9999999, "2³"),
        (math.log2(3), "1.5 × 2¹"),
    ],
)
def test_a_power_has_its_exponent_raised_and_one_that_is_not_whole_gets_a_factor(exponent: float, text: str):
    assert power(exponent) == text


def test_reports_write_it_alike():
    assert reported is power


def test_no_number_has_no_power():
    with pytest.raises(ValueError, match="power: the exponent must be a number, got NaN"):
        power(math.nan)


@pytest.mark.parametrize(("value", "text"), [(1.0, "2⁰"), (65536.0, "2¹⁶"), (0.25, "2⁻²"), (1000.0, "1000")])
def test_powers_of_two_are_written_as_powers(value: float, text: str):
    assert power_of_two(value) == text


def test_every_digit_is_raised():
    assert superscript(-1234567890) == "⁻¹²³⁴⁵⁶⁷⁸⁹⁰"
