from __future__ import annotations

import math

import numpy as np
import pytest

from mixlab.panels import Prediction, check
from mixlab.recipes import Recipe


@pytest.fixture
def prediction() -> Prediction:
    return Prediction("Which one?", ["this <a>", "that"], answer="that", explanation="Because 1 < 2.")


def test_nothing_is_revealed_before(prediction: Prediction):
    state = str([child.get_state() for child in prediction.children]) + repr(prediction)
    assert "Because" not in state
    assert repr(prediction) == "Prediction: Which one?"
    assert not prediction.revealed
    assert prediction._button.disabled


@pytest.mark.parametrize(("choice", "verdict"), [("that", "Right: that."), ("this <a>", "Not so: that.")])
def test_the_reveal_says_whether_it_was_right(prediction: Prediction, choice: str, verdict: str):
    prediction._choice.value = choice
    assert not prediction._button.disabled
    assert not prediction.revealed
    prediction._button.click()
    assert prediction.revealed
    assert f"{verdict} Because 1 &lt; 2." in prediction._verdict.value
    assert prediction._choice.disabled
    assert repr(prediction) == "Prediction: Which one? that. Because 1 < 2."


def test_headless_it_can_be_revealed_without_a_choice(prediction: Prediction):
    prediction.reveal()
    assert "The answer: that." in prediction._verdict.value


def test_the_answer_must_be_an_option():
    with pytest.raises(ValueError, match="the answer 'neither' is not one of the options this, that"):
        Prediction("Which one?", ["this", "that"], answer="neither")


def test_no_answer_is_neither_right_nor_wrong():
    answer = check("1", None, expected=3, hint="count")
    assert answer.passed is None
    assert (
        str(answer)
        == repr(answer)
        == ("Exercise 1: not answered yet; put your answer in place of None and run the cell again")
    )


@pytest.mark.parametrize(
    ("answer", "expected", "tolerance", "passed"),
    [
        (3, 3, 0, True),
        (3.0, 3, 0, True),
        (np.int64(3), 3, 0, True),
        (3, np.float64(3.0001), 1e-3, True),
        (3.1, 3, 0.05, True),
        (3.1, 3, 0, False),
        (-3, 3, 0.5, False),
        (math.nan, 3, 0.5, False),
        (math.inf, math.inf, 0, True),
        ("fp16", "fp16", 0, True),
        ("fp32", "fp16", 0, False),
        (3, "fp16", 0, False),
        (True, True, 0, True),
        (1, True, 0, True),
        ((1, 2), (1, 2), 0, True),
    ],
)
def test_answers_are_compared(answer: object, expected: object, tolerance: float, passed: bool):
    checked = check("1", answer, expected=expected, hint="look <up>", tolerance=tolerance)
    assert checked.passed is passed
    assert ("Hint: look <up>" in str(checked)) is not passed
    assert "look <up>" not in checked._repr_html_()


@pytest.mark.parametrize("answer", ["3", True, [3], 1j, np.ones(2)])
def test_what_is_no_number_is_named(answer: object):
    checked = check("1", answer, expected=3, hint="count")
    assert checked.passed is False
    assert "is not a number. Hint: count" in str(checked)


def test_an_answer_that_cannot_be_compared_is_wrong_and_raises_nothing():
    assert check("1", np.ones(2), expected="fp16", hint="a text").passed is False


def test_an_answer_can_be_read_first():
    arguments = {"expected": Recipe.parse("amp-fp16,scale=8"), "read": Recipe.parse, "hint": "scale"}
    assert check("1", "amp-fp16,scale=2^3", **arguments).passed is True
    assert check("1", "amp-fp16", **arguments).passed is False
    wrong = check("1", "amp-fp17", **arguments)
    assert wrong.passed is False
    assert "unknown recipe 'amp-fp17'" in str(wrong)
    assert "unknown recipe &#x27;amp-fp17&#x27;" in wrong._repr_html_()
