from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mixlab.panels import Exercise, Prediction
from mixlab.panels.held import PLACEHOLDER, Held
from mixlab.panels.kept_answers import KeptAnswers
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


@pytest.mark.parametrize(
    ("choice", "verdict"), [("that", "Right: that."), ("this <a>", "You chose this &lt;a&gt;; right is: that.")]
)
def test_the_reveal_says_whether_it_was_right(prediction: Prediction, choice: str, verdict: str):
    prediction._choice.value = choice
    assert not prediction._button.disabled
    assert not prediction.revealed
    prediction._button.click()
    assert prediction.revealed
    assert f"{verdict} Because 1 &lt; 2." in prediction._verdict.value
    assert prediction._choice.disabled
    assert repr(prediction) == "Prediction: Which one? that. Because 1 < 2."


def test_a_choice_of_an_earlier_kernel_comes_back_with_its_verdict(tmp_path: Path):
    first = Prediction("Which one?", ["this", "that"], answer="that", kept=KeptAnswers(tmp_path / "answers.json"))
    first.choose("this")
    again = Prediction("Which one?", ["this", "that"], answer="that", kept=KeptAnswers(tmp_path / "answers.json"))
    assert again.choice == "this"
    assert "You chose this; right is: that." in again._verdict.value
    assert again._choice.disabled


@pytest.mark.parametrize("text", ["2^-24", "2**-24", "2⁻²⁴"])
def test_who_gives_the_power_is_asked_for_its_exponent(text: str):
    verdict = Exercise("1", expected=-24, hint="count").answer(text)
    assert (verdict.passed, verdict.message) == (False, f"{text} is not right. Hint: give the exponent alone")
    assert Exercise("1", expected=2.0**-24, hint="count").answer(text).passed


def test_headless_it_can_be_revealed_without_a_choice(prediction: Prediction):
    prediction.reveal()
    assert "The answer: that." in prediction._verdict.value


def test_the_answer_must_be_an_option():
    with pytest.raises(ValueError, match="the answer 'neither' is not one of the options this, that"):
        Prediction("Which one?", ["this", "that"], answer="neither")


def test_no_answer_is_neither_right_nor_wrong():
    exercise = Exercise("1", expected=3, hint="count")
    assert exercise.verdict.passed is None
    assert repr(exercise) == str(exercise.verdict) == "Exercise 1: type your answer, then press Check or Enter"


@pytest.mark.parametrize(
    ("expected", "tolerance", "text", "passed"),
    [
        (np.int64(3), 0, "3", True),
        (np.float64(3.0001), 1e-3, "3", True),
        (3, 0.05, "3.1", True),
        (3, 0, "3.1", False),
        (3, 0.5, "-3", False),
        (3, 0.5, "nan", False),
        (math.inf, 0, "inf", True),
    ],
)
def test_numbers_may_differ_by_the_tolerance(expected: float, tolerance: float, text: str, passed: bool):
    assert Exercise("1", expected=expected, hint="count", tolerance=tolerance).answer(text).passed is passed


@pytest.mark.parametrize("given", ["3", True, [3], 1j, np.ones(2)])
def test_what_a_reader_makes_of_it_is_named_if_it_is_no_number(given: object):
    verdict = Exercise("1", expected=3, hint="count", read=lambda _text: given).answer("3")
    assert verdict.passed is False
    assert "is not a number. Hint: count" in str(verdict)


def test_an_answer_that_cannot_be_compared_is_wrong_and_raises_nothing():
    assert Exercise("1", expected="fp16", hint="a text", read=lambda _text: np.ones(2)).answer("3").passed is False


def test_results_wait_for_a_choice(prediction: Prediction, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MIXLAB_HEADLESS", raising=False)
    first, second = prediction.then("shown"), prediction.then([1, 2])
    assert [repr(held) for held in (first, second)] == [PLACEHOLDER, PLACEHOLDER]
    prediction.choose("that")
    assert [repr(held) for held in (first, second, prediction.then("later"))] == ["shown", "[1, 2]", "later"]


def test_headless_results_show_at_once(prediction: Prediction, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MIXLAB_HEADLESS", "1")
    assert repr(prediction.then("shown")) == "shown"
    assert isinstance(prediction.then("shown"), Held)


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


@pytest.fixture
def handed_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Prediction]:
    """Returns a function that asks, as another kernel does, a question whose answer was taken out."""
    monkeypatch.delenv("MIXLAB_HEADLESS", raising=False)
    return lambda: Prediction("Which one?", ["this", "that"], kept=KeptAnswers(tmp_path / "answers.json"))


def test_without_an_answer_a_choice_is_kept_for_good_and_shows_what_was_held_back(handed_out):
    first = handed_out()
    held = first.then("shown")
    with pytest.raises(ValueError, match="nothing was chosen"):
        first.keep()
    first._choice.value = "that"  # a slip
    first._choice.value = "this"
    assert (repr(held), handed_out().choice) == (PLACEHOLDER, None)
    first._button.click()
    assert (repr(held), repr(first.then("later"))) == ("shown", "later")
    assert "Your choice, this, is kept. It is graded once you hand it in." in first.still()
    for asked in (first, handed_out()):
        assert (asked.choice, asked._choice.disabled, asked._button.disabled) == ("this", True, True)
        with pytest.raises(ValueError, match="'this' was chosen for good"):
            asked.choose("that")
        with pytest.raises(ValueError, match="handed out without answers"):
            asked.reveal()


def test_choosing_by_program_keeps_too(handed_out):
    handed_out().choose("that")
    assert handed_out().choice == "that"


def test_without_an_expected_answer_an_exercise_keeps_what_was_typed(tmp_path: Path):
    exercise = Exercise("1", kept=KeptAnswers(tmp_path / "answers.json"))
    assert (exercise._button.description, exercise.verdict.passed) == ("Keep", None)
    assert "press Keep or Enter" in str(exercise.verdict)
    exercise._box.value = "2^-24 or so"
    assert "not kept yet; press Keep or Enter" in exercise._shown.value
    exercise._button.click()
    again = Exercise("1", kept=KeptAnswers(tmp_path / "answers.json"))
    assert str(again.verdict) == (
        "Exercise 1: 2^-24 or so is kept. It is graded once you hand it in. "
        "If a number is asked, type it alone, such as 12, 1e-8 or 2^-24."
    )
    assert again.verdict.passed is None


@pytest.mark.parametrize("text", ["12 bytes", "about 3", "2^-24", "{3, 5}", "1,668,608", "amp-fp16,scale=2^10", "8GB"])
def test_who_types_a_unit_behind_a_number_is_told_to_leave_it_out(text: str):
    """The grader reads numbers; in a copy without answers nothing else would say so."""
    words = Exercise("1").answer(text).message
    assert ("type it alone" in words) == (text in ("12 bytes", "8GB"))


def test_what_belongs_to_an_answer_is_refused_without_one():
    with pytest.raises(ValueError, match="an explanation without an answer"):
        Prediction("Which one?", ["this", "that"], explanation="Because.")
    for given in ({"hint": "count"}, {"tolerance": 0.1}, {"read": str}):
        with pytest.raises(ValueError, match="hint, tolerance and read belong to an expected answer"):
            Exercise("1", **given)
