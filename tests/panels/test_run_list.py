from __future__ import annotations

import threading
import time

import pytest

from mixlab.panels import run_list
from mixlab.panels.base import ErrorBox
from mixlab.panels.run_list import RunList
from mixlab.recipes import Recipe
from mixlab.training import Run
from tests.panels.trainings import DIVERGED, records


@pytest.fixture
def changes() -> list[str]:
    return []


@pytest.fixture
def runs(changes: list[str]) -> RunList:
    return RunList(lambda: changes.append("changed"), ErrorBox(), threading.RLock())


def test_it_is_empty_until_there_is_a_run(runs: RunList):
    assert (runs.children, runs.runs, runs.ticked) == ((), {}, {})


def test_a_run_shows_its_label_and_outcome_in_words(runs: RunList, changes: list[str]):
    runs.add("mine <1>", records(DIVERGED))
    _, row, _ = runs.children
    tick, words = row.children
    assert (tick.description, tick.value) == ("mine <1>", True)
    assert words.value == "– diverged: the loss is nan from step 4 on"
    assert changes == ["changed"]


def test_ticks_choose_and_rows_stay_in_place(runs: RunList, changes: list[str]):
    runs.add("a", records([1.0]))
    runs.add("a", records([2.0]))
    rows = runs.children
    rows[1].children[0].value = False
    assert list(runs.ticked) == ["a (2)"]
    assert runs.children == rows
    assert len(changes) == 3


def test_a_run_keeps_the_place_of_its_style(runs: RunList):
    for label in "abc":
        runs.add(label, records([1.0]))
    untick(runs, "a", "b")
    press(runs, 2)
    assert (runs.places, runs.free_place) == ({"c": 2}, 0)
    runs.add("d", records([1.0]), place=1)
    assert (runs.places, runs.free_place) == ({"c": 2, "d": 1}, 0)


def untick(runs: RunList, *labels: str) -> None:
    for label in labels:
        runs._entries[label].tick.value = False


def press(runs: RunList, times: int = 1) -> None:
    for _ in range(times):
        runs._delete.click()


def test_deleting_asks_once_more(runs: RunList):
    for label in "abc":
        runs.add(label, records([1.0]))
    assert runs._delete.disabled
    untick(runs, "a", "c")
    press(runs)
    assert (list(runs.runs), runs._delete.description) == (["a", "b", "c"], "Press again to delete 2 runs for good")
    untick(runs, "b")
    assert runs._delete.description == "Delete unticked"
    press(runs)
    assert runs._delete.description == "Press again to delete 3 runs for good"
    press(runs)
    assert (runs.runs, runs.children) == ({}, ())
    assert runs._errors.last_error is None


def test_a_deleted_run_leaves_no_folder_and_others_stay(runs: RunList, tmp_path):
    for seed in (0, 1):
        list(Run.create(tmp_path / f"{seed:03d}", task="digits-mlp", recipe=Recipe(), seed=seed).train(until=1))
    (tmp_path / "answers.json").write_text("{}")
    runs.find(tmp_path)
    assert str(tmp_path) in runs.children[0].value
    untick(runs, "fp32 on digits-mlp, seed 0")
    press(runs, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["001", "answers.json"]
    assert list(runs.runs) == ["fp32 on digits-mlp, seed 1"]


def test_a_run_that_was_cut_short_says_so(runs: RunList, tmp_path):
    for name, wanted in (("001", 3), ("002", 2), ("003", 0)):
        run = Run.create(tmp_path / name, task="digits-mlp", recipe=Recipe(), wanted_steps=wanted)
        list(run.train(until=2))
    runs.find(tmp_path)
    words = [row.children[1].value for row in runs.children[1:4]]
    assert ["stopped at 2 of 3 steps: loss" in one for one in words] == [True, False, False]
    assert "stopped" not in "".join(words[1:])


def test_a_run_that_is_being_written_is_not_deleted(runs: RunList, tmp_path):
    run = Run.create(tmp_path / "001", task="digits-mlp", recipe=Recipe())
    writing = run.train(until=5)
    next(writing)
    runs.find(tmp_path)
    untick(runs, "fp32 on digits-mlp, seed 0")
    press(runs, 2)
    assert "is being trained by another process or thread" in str(runs._errors.last_error)
    assert len(list(writing)) == 4
    assert list(runs.runs) == ["fp32 on digits-mlp, seed 0"]
    press(runs, 2)
    assert (list(tmp_path.iterdir()), runs._errors.last_error) == ([], None)


@pytest.mark.parametrize("seed", [0, 1])
def test_another_run_in_the_same_folder_is_not_deleted(
    runs: RunList, tmp_path, monkeypatch: pytest.MonkeyPatch, seed: int
):
    monkeypatch.setattr("time.gmtime", lambda clock=time.gmtime: clock(0))  # both begin in one second
    path = tmp_path / "001"
    list(Run.create(path, task="digits-mlp", recipe=Recipe()).train(until=1))
    runs.find(tmp_path)
    untick(runs, "fp32 on digits-mlp, seed 0")
    Run(path).delete()  # as another page does, which then begins a run of its own
    list(Run.create(path, task="digits-mlp", recipe=Recipe(), seed=seed).train(until=2))
    press(runs, 2)
    assert (runs.runs, runs._errors.last_error) == ({}, None)
    assert len(Run(path).records()) == 2


def test_damaged_and_old_runs_are_counted_in_words(runs: RunList, tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run_list, "_MOST_FOUND", 2)
    for number in (996, 997, 998, 999, 1000):
        run = Run.create(tmp_path / f"{number:03d}", task="digits-mlp", recipe=Recipe(), seed=number)
        if number != 998:  # a run without a step takes no place in the list, nor does a damaged one
            list(run.train(until=1))
    (tmp_path / "1000" / "run.json").write_text("{")
    runs.find(tmp_path)
    assert list(runs.runs) == ["fp32 on digits-mlp, seed 997", "fp32 on digits-mlp, seed 999"]
    assert "1 older ones are there too. Not readable: 1000." in runs.children[0].value


def test_runs_of_other_lengths_say_their_steps(runs: RunList):
    for losses in ([1.0], [1.0, 2.0], [1.0, 2.0], [3.0]):
        runs.add("a", records(losses))
    assert list(runs.runs) == ["a", "a, 2 steps", "a, 2 steps (2)", "a (2)"]


def test_of_many_found_runs_the_newest_are_ticked(runs: RunList, tmp_path):
    for number in range(8):
        run = Run.create(tmp_path / f"{number:03d}", task="digits-mlp", recipe=Recipe(), seed=number)
        if number != 3:
            list(run.train(until=1))
    runs.find(tmp_path)
    assert [label[-1] for label in runs.runs] == ["0", "1", "2", "4", "5", "6", "7"]
    assert [label[-1] for label in runs.ticked] == ["1", "2", "4", "5", "6", "7"]
