"""The float designer without a browser: what it computes, shows, refuses, and how fast."""

from __future__ import annotations

import statistics
import time
from typing import Any

import pytest
import torch

from mixlab.formats import Format, round_to
from mixlab.panels import FloatDesigner


@pytest.fixture(scope="module")
def weights() -> torch.Tensor:
    return 0.05 * torch.randn(300, 70, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def designer(weights: torch.Tensor) -> FloatDesigner:
    return FloatDesigner(weights)


@pytest.mark.parametrize(("exponent_bits", "mantissa_bits"), [(5, 10), (8, 7), (2, 1), (4, 3), (8, 23)])
def test_it_shows_what_the_format_does(
    designer: FloatDesigner, weights: torch.Tensor, exponent_bits: int, mantissa_bits: int
):
    designer.exponent_bits, designer.mantissa_bits = exponent_bits, mantissa_bits
    fmt = Format.parse(f"e{exponent_bits}m{mantissa_bits}")
    assert designer.format == fmt
    rounded = round_to(weights, fmt, overflow="inf")
    assert designer.stats.underflow == pytest.approx(((rounded == 0) & (weights != 0)).float().mean().item())
    assert f"max {fmt.max:.6g}" in designer.status
    assert f"{fmt.bits} bits" in designer.status
    assert repr(designer) == designer.status
    assert designer.last_error is None


def test_boxes_and_sliders_are_one(designer: FloatDesigner):
    exponent, mantissa = designer._exponent, designer._mantissa
    exponent._moved(exponent, {"to": 6}, None)
    mantissa.value = "5"
    assert (str(designer.format), exponent.value, mantissa._place) == ("e6m5", "6", 5)


@pytest.mark.parametrize("typed", ["9", "1.5", "-1", "1e999", "abc", "", "9" * 400])
def test_a_width_that_cannot_be_stays_with_its_reason(designer: FloatDesigner, typed: str):
    box, before = designer._exponent, designer.status
    box.value = typed
    assert box.error.startswith("Exponent bits must be a whole number from 2 to 8, got ")
    assert box.error.endswith("Still in use: 4")
    assert isinstance(designer.last_error, ValueError)
    assert (box.value, designer.status, designer.errors.value) == (typed, before, "")
    designer._specials.value = "fn"
    assert (box.value, designer.specials, designer.last_error) == (typed, "fn", None)
    designer.exponent_bits = 5
    assert (box.value, box.error) == ("5", "")


def test_special_values_change_the_largest_one(designer: FloatDesigner):
    limits = {}
    for designer.specials in ("ieee", "fn", "finite"):
        limits[designer.specials] = designer.format.max
    assert limits == {"ieee": 240, "fn": 448, "finite": 480}


def test_a_format_that_cannot_be_is_answered_at_its_box(designer: FloatDesigner):
    designer.specials = "finite"
    before = designer.status
    box = designer._exponent
    box.value = "8"
    assert "beyond float32" in str(designer.last_error)
    assert "beyond float32" in box.error
    assert designer.status == before
    with pytest.raises(ValueError, match="beyond float32"):
        designer.exponent_bits = 8
    box.value = "5"
    assert (designer.last_error, box.error, designer.exponent_bits) == (None, "", 5)


def test_special_values_that_cannot_be_are_answered_below_them(designer: FloatDesigner):
    designer.exponent_bits = 8
    designer._specials.value = "finite"
    row = designer.children[0].children[3]
    assert row.children[0] is designer._specials
    assert "beyond float32" in row.children[1].value
    assert (designer.specials, designer._specials.value) == ("ieee", "ieee")
    designer._mantissa.value = "7"
    assert row.children[1].value == ""


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("exponent_bits", 9, "exponent_bits must be a whole number from 2 to 8, got 9"),
        ("mantissa_bits", 0, "mantissa_bits must be a whole number from 1 to 23, got 0"),
        ("mantissa_bits", 2.0, "mantissa_bits must be a whole number from 1 to 23, got 2.0"),
        ("specials", "scale", "specials must be one of ieee, fn, finite, got 'scale'"),
    ],
)
def test_wrong_choices_are_refused(designer: FloatDesigner, name: str, value: Any, says: str):
    before = designer.status
    with pytest.raises(ValueError, match=says):
        setattr(designer, name, value)
    assert designer.status == before


@pytest.mark.parametrize("wrong", [None, [1.0], torch.ones(3, dtype=torch.int32)])
def test_what_is_no_tensor_of_weights_is_refused(wrong: Any):
    with pytest.raises(TypeError, match="floating tensors"):
        FloatDesigner(wrong)


@pytest.mark.parametrize("value", [0.0, torch.nan, torch.inf])
def test_a_tensor_without_a_number_can_be_shown(value: float):
    designer = FloatDesigner(torch.full((5,), value))
    assert "there is nothing to round" in repr(designer)


def test_the_tensor_is_left_alone():
    weights = torch.nn.Parameter(torch.tensor([0.3]))
    FloatDesigner(weights)
    assert weights.item() == torch.tensor(0.3).item()


def test_a_change_takes_20_ms_of_processor_time_at_most():
    designer = FloatDesigner(torch.randn(100_000))
    took_s = []
    for bits in (5, 6, 7, 3, 4, 5, 6, 7, 3, 4):
        began_s = time.thread_time()
        designer.exponent_bits = bits
        took_s.append(time.thread_time() - began_s)
    assert statistics.median(took_s) < 0.020
