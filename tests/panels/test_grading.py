"""Answers that were handed in, judged by the questions that a lab asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mixlab.panels import ClaimQuiz, Lab
from mixlab.panels.grading import grade_file, graded
from mixlab.panels.kept_answers import KeptAnswers

PARAMETERS: dict[str, Any] = {"recipe": "amp-fp16", "loss_scale": 0, "steps": 5, "seed": 0, "task": "digits-mlp"}
QUESTION = "A weight of 0.0301 moves how often in 60 steps?"


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.chdir(tmp_path)
    made = Lab("04_training_modes", **PARAMETERS)
    made.predict(QUESTION, ["never", "always"], answer="never", explanation="It is large.")
    made.exercise("1", expected=-24, hint="count")
    made.exercise("2", expected={3, 5, 8}, hint="look")
    made.exercise("3", expected=2 / 3, hint="divide", tolerance=0.01)
    return made


def judged(lab: Lab, predictions: dict[str, str], answers: dict[str, str]) -> list[tuple[Any, ...]]:
    found = graded(lab.answers.asked.values(), {"predictions": predictions, "answers": answers})
    return [*((one["given"], one["right"], one["expected"]) for one in found["questions"]), tuple(found["unknown"])]


def test_each_question_has_its_answer_its_verdict_and_the_right_one(lab: Lab):
    assert judged(lab, {QUESTION: "never"}, {"1": "-24", "2": "8, 5, 3", "3": "0.67"}) == [
        ("never", True, "never"),
        ("-24", True, "-24"),
        ("8, 5, 3", True, "3, 5, 8"),
        ("0.67", True, "0.6666666667"),
        (),
    ]
    assert judged(lab, {QUESTION: "always"}, {"1": "2^-24", "2": "many", "3": " "}) == [
        ("always", False, "never"),
        ("2^-24", False, "-24"),
        ("many", False, "3, 5, 8"),
        (" ", False, "0.6666666667"),
        (),
    ]
    assert [row[:2] for row in judged(lab, {}, {})[:-1]] == 4 * [(None, None)]


def test_a_question_with_other_numbers_is_the_same_question(lab: Lab):
    """A training on another machine may end with other last digits; of several, the latest answer counts."""
    other = QUESTION.replace("0.0301", "0.0302")
    assert judged(lab, {other: "never"}, {})[0][:2] == ("never", True)
    assert judged(lab, {other: "never", QUESTION: "always"}, {})[0][:2] == ("always", False)
    assert judged(lab, {other: "never", QUESTION.replace("60", "70"): "always"}, {})[0][:2] == ("always", False)


def test_answers_to_other_questions_are_named(lab: Lab):
    found = judged(lab, {"Is it so?": "yes"}, {"4": "7", "11": "-24"})
    assert [row[0] for row in found[:-1]] == 4 * [None]
    assert found[-1] == ("Is it so?", "4", "11")


def test_claims_are_asked_too():
    kept = KeptAnswers(None)
    quiz = ClaimQuiz(kept=kept)
    right, wrong = str(quiz.claim.verdict), "no verdict"
    for given, passed in ((right, True), (wrong, False)):
        first, *others = graded(kept.asked.values(), {"predictions": {quiz.claim.key: given}})["questions"]
        assert (first["question"], first["given"], first["right"]) == (quiz.claim.words, given, passed)
        assert {one["right"] for one in others} == {None}


def test_a_file_of_answers_becomes_a_file_of_verdicts(lab: Lab, tmp_path: Path):
    (tmp_path / "given.json").write_text(json.dumps([{"predictions": {}, "answers": {"1": "-24"}}, {}]))
    grade_file(lab, "given.json", tmp_path / "judged.json")
    found = json.loads((tmp_path / "judged.json").read_text())
    assert "torch" in found["machine"]
    assert [one["questions"][1]["right"] for one in found["readers"]] == [True, None]
