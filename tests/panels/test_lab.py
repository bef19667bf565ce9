"""A lab's parameters, its folder, and what it keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mixlab.answers import ANSWERS_TYPE
from mixlab.panels import Lab
from mixlab.panels.lab import LabLine
from mixlab.recipes import Recipe

PARAMETERS: dict[str, Any] = {"recipe": "amp-fp16", "loss_scale": 8, "steps": 5, "seed": 3, "task": "digits-mlp"}


@pytest.fixture(autouse=True)
def beside_a_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MIXLAB_HEADLESS", raising=False)


def lab(**changed: Any) -> Lab:
    return Lab("04_training_modes", **{**PARAMETERS, **changed})


def test_it_says_machine_task_and_seed_and_reads_recipe_and_task():
    made = lab()
    assert repr(made).endswith("; task digits-mlp, seed 3")
    assert made.recipe == Recipe.parse("amp-fp16,scale=8")
    assert made.task.name == "digits-mlp"


def test_parameters_are_checked():
    with pytest.raises(ValueError, match="steps"):
        lab(steps=0)
    with pytest.raises(ValueError, match="loss_weight"):
        lab(loss_weight=1.0)
    with pytest.raises(KeyError, match="05_nothing"):
        Lab("05_nothing", **PARAMETERS)


def test_an_empty_recipe_is_the_labs_own():
    made = Lab("06_adam_in_low_precision", **{**PARAMETERS, "recipe": "", "loss_scale": 0})
    assert made.recipe == Recipe.parse("fp32,exp_avg_sq=bf16")


def test_answers_survive_a_kernel(tmp_path: Path):
    first = lab()
    assert first.runs_dir == tmp_path / "runs" / "04_training_modes"
    first.predict("Which?", ["a", "b"], answer="b").choose("a")
    first.exercise("1", expected=3, hint="count").answer("4")
    second = lab()
    assert second.predict("Which?", ["a", "b"], answer="b").choice == "a"
    assert second.predict("Which?", ["b", "c"], answer="b").choice is None
    assert "4 is not right" in repr(second.exercise("1", expected=3, hint="count"))


def line(made: Lab) -> LabLine:
    return LabLine(made.status, made.runs_dir, made.trouble, made.answers)


def test_the_line_says_what_is_wrong_now():
    made = lab()
    shown = line(made)
    (made.runs_dir / "answers.json").write_text("mine now")
    made.exercise("1", expected=3, hint="count").answer("3")
    assert "go when the kernel ends" in shown._kept_words.value
    assert "does not hold answers of a lab" in shown._kept_words.value


def test_starting_anew_asks_once_more():
    made = lab()
    for name in "12":
        made.exercise(name, expected=3, hint="count").answer("3")
    shown = line(made)
    shown._again.click()
    assert (len(made.answers), shown._again.description) == (2, "Press again to forget 2 answers for good")
    made.exercise("3", expected=3, hint="count").answer("3")
    shown._again.click()
    assert (len(made.answers), shown._again.description) == (3, "Press again to forget 3 answers for good")
    shown._again.click()
    assert (len(made.answers), len(lab().answers), shown._again.description) == (0, 0, "Start anew")
    assert shown.last_error is None


def test_headless_it_writes_nothing_beside_the_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MIXLAB_HEADLESS", "1")
    made = lab()
    made.predict("Which?", ["a", "b"], answer="b").choose("a")
    assert made.runs_dir.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_written_a_temporary_folder_serves(tmp_path: Path):
    (tmp_path / "runs").write_text("a file")
    made = lab()
    assert "cannot be written" in made.trouble
    assert made.runs_dir.is_dir()
    assert tmp_path not in made.runs_dir.parents


def test_its_line_holds_the_answers_for_who_reads_the_saved_notebook():
    made = lab()
    shown = line(made)
    assert shown.recorded() == {ANSWERS_TYPE: made.answers.record}
    assert "a saved notebook holds your choices and answers too." in shown._kept_words.value
    updates = []
    shown.keep_still = lambda: updates.append(shown.recorded()[ANSWERS_TYPE])
    made.predict("Which?", ["a", "b"], answer="b").choose("a")
    made.exercise("1").answer("3")
    assert [(one["predictions"], one["answers"]) for one in updates] == [
        ({"Which?": "a"}, {}),
        ({"Which?": "a"}, {"1": "3"}),
    ]
    assert (updates[-1]["lab"], updates[-1]["parameters"]) == ("04_training_modes", PARAMETERS)
    assert "2 answers so far." in shown._kept_words.value
