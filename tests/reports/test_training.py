"""Trainings in words, as a table and as columns."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from mixlab.reports import ComparisonTable, diverged, power_of_two, progress_line
from mixlab.reports.columns import curves, series_style
from tests.panels.trainings import DIVERGED, record, records


def test_the_progress_line_says_where_a_training_stands():
    assert progress_line([], 300) == "step 0 of 300"
    assert progress_line([record(0)], 300) == "step 1 of 300: loss 1, 100 steps/s"
    steps = [record(step, loss=0.4123, scale=2.0**14, skipped=step < 3) for step in range(120)]
    assert progress_line(steps, 300) == "step 120 of 300: loss 0.412, scale 2¹⁴, 3 steps skipped, 100 steps/s"
    assert "nan" in progress_line(records(DIVERGED), 300)


@pytest.mark.parametrize(("value", "text"), [(1.0, "2⁰"), (65536.0, "2¹⁶"), (0.25, "2⁻²"), (1000.0, "1000")])
def test_powers_of_two_are_written_as_such(value: float, text: str):
    assert power_of_two(value) == text


@pytest.mark.parametrize(
    ("losses", "words"),
    [([1.0], ""), (DIVERGED, "NaN from step 4 on"), ([1.0, math.inf], "inf from step 1 on"), ([math.nan, 1.0], "")],
)
def test_divergence_in_words(losses: list[float], words: str):
    assert diverged(records(losses)) == words


def test_the_first_36_runs_look_different():
    assert len({series_style(index) for index in range(36)}) == 36
    assert series_style(36) == series_style(0)


def test_a_short_run_is_drawn_step_by_step():
    columns = curves([record(0, scale=4.0, skipped=True, a=0.5, b=0.1), record(1, loss=math.nan)])
    assert columns == {
        "step": [0, 1],
        "loss": [1.0, None],
        "metric": [0.5, 0.5],
        "scale": [2.0, 0.0],
        "underflow": [0.5, None],
        "mean_underflow": [0.3, None],
        "skipped": [0],
    }


def test_a_long_run_is_cut_into_pieces_that_keep_what_stands_out():
    steps = [record(step, loss=step % 2, skipped=step in (3, 4, 900)) for step in range(1000)]
    steps[500] = record(500, worst=0.9)
    steps[700] = record(700, loss=math.inf)
    columns = curves(steps, points=100)
    assert columns["step"] == list(range(9, 1000, 10))
    assert columns["loss"].count(None) == 1
    assert columns["loss"][0] == 0.5
    assert max(value for value in columns["underflow"] if value is not None) == 0.9
    assert columns["skipped"] == [3, 900]


def test_the_table_compares_in_words():
    steps = [record(step, loss=0.5, skipped=step == 0, layer=0.25) for step in range(4)]
    table = ComparisonTable({"a<b": steps, "broken": records(DIVERGED)})
    assert table.rows[0] == ("a<b", "0.5", "50.0%", "1 of 4", "25.00%", "10.0")
    assert table.rows[1] == ("broken", "NaN from step 4 on", "50.0%", "0 of 6", "not probed", "10.0")
    assert "a&lt;b" in table._repr_html_()
    assert repr(table).splitlines()[0].split()[:3] == ["run", "loss", "accuracy"]


def test_the_table_leaves_out_what_no_run_has():
    plain, scaled, probed = records([1.0]), records([1.0], scale=8.0), records([1.0], layer=0.1)
    for runs, columns in (
        ({"a": plain}, ("run", "loss", "accuracy", "ms/step")),
        ({"a": plain, "b": scaled}, ("run", "loss", "accuracy", "skipped", "ms/step")),
        ({"a": plain, "b": probed}, ("run", "loss", "accuracy", "largest underflow", "ms/step")),
    ):
        table = ComparisonTable(runs)
        assert table.columns == columns
        assert {len(row) for row in table.rows} == {len(columns)}


def measured(name: str, value: float | None, count: int = 2):
    return [replace(one, metric=value, metric_name=name) for one in records([1.0] * count)]


def test_the_table_names_the_metric_and_leaves_out_none():
    error, none, share = measured("error", 0.1234), measured("", None), measured("accuracy", 0.5)
    for runs, columns, cells in (
        ({"a": error}, ("run", "loss", "error", "ms/step"), ["0.123"]),
        ({"a": error, "b": none}, ("run", "loss", "error", "ms/step"), ["0.123", "none"]),
        ({"a": none}, ("run", "loss", "ms/step"), []),
        ({"a": error, "b": share}, ("run", "loss", "metric", "ms/step"), ["error 0.123", "accuracy 50.0%"]),
    ):
        table = ComparisonTable(runs)
        assert table.columns == columns
        assert [row[2] for row in table.rows if cells] == cells
    assert curves(none)["metric"] == [None, None]
