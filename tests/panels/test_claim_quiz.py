"""The quiz on claims."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mixlab.claims import Finding, Verdict, claim
from mixlab.panels import ClaimQuiz
from mixlab.panels.kept_answers import KeptAnswers

QUICK = tuple(claim(key) for key in ("bytes-per-number", "fp16-eps", "bf16-range"))


@pytest.fixture
def quiz() -> ClaimQuiz:
    return ClaimQuiz(QUICK)


def test_nothing_is_given_away_before_a_prediction(quiz: ClaimQuiz):
    quiz.choose("fp16-eps")
    assert quiz._reveal.disabled
    assert quiz.revealed is None
    shown = " ".join(child.value for child in quiz.children if isinstance(getattr(child, "value", None), str))
    assert "9.8e-4" not in shown + quiz.status
    assert "not revealed yet" in quiz.status


def test_a_prediction_is_judged_and_kept(quiz: ClaimQuiz):
    quiz.predict("holds")
    assert not quiz._reveal.disabled
    quiz._reveal.click()
    assert quiz.score == (1, 1)
    assert "Your prediction is right." in quiz._result.value
    quiz.go_on()
    assert quiz._result.value.count("<div") == 1  # an empty line, for the screen reader
    assert quiz._choice.value is None
    quiz.predict(Verdict.HOLDS)
    quiz.reveal()
    assert quiz.score == (1, 2)
    assert "Not so." in quiz._result.value
    assert claim("fp16-eps").correct in quiz.status
    assert quiz._score.value == "1 of 2 predictions right; 1 claims left."
    quiz.back()
    assert quiz._choice.value is Verdict.HOLDS
    assert quiz._choice.disabled


def test_a_revealed_claim_keeps_its_prediction(quiz: ClaimQuiz):
    quiz.predict("holds")
    quiz.reveal()
    quiz.predict("does not hold")
    quiz.reveal()
    assert quiz.predictions == {"bytes-per-number": Verdict.HOLDS}


def test_without_a_prediction_it_does_not_count(quiz: ClaimQuiz):
    quiz.reveal()
    assert quiz.score == (0, 0)
    assert quiz.revealed is not None


def test_it_goes_round(quiz: ClaimQuiz):
    quiz.back()
    assert quiz.claim is QUICK[-1]
    quiz.go_on()
    assert quiz.claim is QUICK[0]


def test_a_measurement_that_fails_is_shown_and_may_be_tried_again():
    def measure() -> Finding:
        raise RuntimeError("no room")

    quiz = ClaimQuiz([replace(QUICK[0], measure=measure)])
    quiz.predict("holds")
    quiz._reveal.click()
    assert "no room" in quiz.errors.value
    assert "measuring" not in quiz._result.value
    assert not quiz._reveal.disabled
    assert quiz._choice.value is Verdict.HOLDS


def test_bad_input_is_refused_in_words(quiz: ClaimQuiz):
    with pytest.raises(ValueError, match="no claims; give at least one"):
        ClaimQuiz([])
    with pytest.raises(ValueError, match="unknown claim 'fp16-epsilon': did you mean fp16-eps"):
        quiz.choose("fp16-epsilon")
    with pytest.raises(ValueError, match="'perhaps' is not a valid Verdict"):
        quiz.predict("perhaps")


def test_what_was_chosen_is_there_in_the_next_kernel(tmp_path):
    before = ClaimQuiz(QUICK, kept=KeptAnswers(tmp_path / "answers.json"))
    before.choose("fp16-eps")
    before.predict("does not hold")
    after = ClaimQuiz(QUICK, kept=KeptAnswers(tmp_path / "answers.json"))
    assert after._choice.value is None
    after.choose("fp16-eps")
    assert after._choice.value is Verdict.DOES_NOT_HOLD
    assert after.revealed is None
    assert not after._reveal.disabled
    after.reveal()
    assert after.score == (1, 1)


def test_a_kept_word_that_is_no_verdict_is_no_choice():
    kept = KeptAnswers(None)
    kept.set("predictions", "bytes-per-number", "perhaps")
    assert ClaimQuiz(QUICK, kept=kept)._choice.value is None
