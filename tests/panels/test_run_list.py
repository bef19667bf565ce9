from __future__ import annotations

import threading

import pytest

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


def test_the_unticked_can_be_forgotten(runs: RunList):
    for label in "abc":
        runs.add(label, records([1.0]))
    assert runs._forget.disabled
    for label in "ac":
        runs._ticks[label].value = False
    assert not runs._forget.disabled
    runs._forget.click()
    assert list(runs.runs) == ["b"]
    assert runs._forget.disabled
    runs._ticks["b"].value = False
    runs._forget.click()
    assert (runs.runs, runs.children) == ({}, ())
    assert runs._errors.last_error is None


def test_of_many_found_runs_the_newest_are_ticked(runs: RunList, tmp_path):
    for number in range(8):
        run = Run.create(tmp_path / f"{number:03d}", task="digits-mlp", recipe=Recipe(), seed=number)
        if number != 3:
            list(run.train(until=1))
    runs.find(tmp_path)
    assert [label[-1] for label in runs.runs] == ["0", "1", "2", "4", "5", "6", "7"]
    assert [label[-1] for label in runs.ticked] == ["1", "2", "4", "5", "6", "7"]
