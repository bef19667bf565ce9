from __future__ import annotations

import math

import numpy as np
import pytest

from mixlab.panels import Exercise, Prediction, check
from mixlab.panels.held import PLACEHOLDER
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


def test_results_wait_for_a_choice(prediction: Prediction, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MIXLAB_HEADLESS", raising=False)
    first, second = prediction.then("shown"), prediction.then([1, 2])
    assert [repr(held) for held in (first, second)] == [PLACEHOLDER, PLACEHOLDER]
    prediction.choose("that")
    assert [repr(held) for held in (first, second, prediction.then("later"))] == ["shown", "[1, 2]", "later"]


def test_headless_results_show_at_once(prediction: Prediction, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MIXLAB_HEADLESS", "1")
    assert repr(prediction.then("shown")) == "shown"


def test_a_choice_that_is_no_option_is_refused(prediction: Prediction):
    with pytest.raises(ValueError, match="'neither' is not one of the options this <a>, that"):
        prediction.choose("neither")


@pytest.mark.parametrize(
    ("expected", "text", "passed"),
    [
        (5, "5", True),
        (5, " 5.0 ", True),
        (-24, "-24", True),
        (-24, "\N{MINUS SIGN}24", True),
        (2.0**-24, "2^-24", True),
        (-0.25, "-2**-2", True),
        (2.0**-8, "1/256", True),
        (1668608, "1,668,608", True),
        (1668608, "1 668 608", True),
        (5, "2^2", False),
        (5, "five", False),
        (5, "1/0", False),
        (5, "2^9999", False),
        ({3, 5, 8}, "8, 3,5", True),
        ({3, 5, 8}, "{3, 5, 8}", True),
        ({3, 5, 8}, "3, 5", False),
        ("fp16", "fp16", True),
        ("fp16", "fp32", False),
        ("fp16", "", None),
    ],
)
def test_a_typed_answer_is_read_as_what_is_expected(expected: object, text: str, passed: bool | None):
    exercise = Exercise("1", expected=expected, hint="look <up>")
    assert exercise.answer(text).passed is passed
    assert ("look &lt;up&gt;" in exercise._shown.value) is (passed is False)


def test_the_verdict_never_stands_beside_another_answer():
    exercise = Exercise("1", expected=5, hint="count")
    exercise.answer("5")
    assert "5 is right" in exercise._shown.value
    exercise._box.value = "12"
    assert "not checked yet" in exercise._shown.value
    exercise._heard(exercise._box, {"event": "submit"}, [])
    assert "12 is not right. Hint: count" in exercise._shown.value


def test_an_exercise_reads_as_it_is_told():
    exercise = Exercise("1", expected=Recipe.parse("amp-fp16,scale=8"), read=Recipe.parse, hint="scale")
    assert exercise.answer("amp-fp16,scale=2^3").passed is True
    assert "unknown recipe 'amp-fp17'" in str(exercise.answer("amp-fp17"))
