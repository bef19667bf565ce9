from __future__ import annotations

import math

import plotly.graph_objects as go
import pytest

from mixlab.figures import training_curves, underflow_map
from mixlab.reports import ComparisonTable, curves, diverged, power_of_two, progress_line, series_style
from tests.panels.trainings import DIVERGED, record, records


def named(figure: go.Figure, label: str, axis: str) -> list[go.Scatter]:
    return [trace for trace in figure.data if trace.name == label and trace.yaxis == axis]


def test_each_run_has_a_curve_in_each_row_and_one_legend_entry():
    runs = {"a": records([2.0, 1.0], layer=0.1), "b": records([3.0, 2.0], layer=0.2, scale=1024.0)}
    figure = training_curves(runs)
    assert [trace.name for trace in figure.data if trace.showlegend] == ["a", "b"]
    for label, exponent in (("a", 0), ("b", 10)):
        loss, scale, underflow = (named(figure, label, axis)[0] for axis in ("y", "y2", "y3"))
        assert list(scale.y) == [exponent, exponent]
        assert list(underflow.x) == list(loss.x) == [0, 1]
        assert (loss.line.color, loss.line.dash) == (scale.line.color, scale.line.dash)
    first, second = (named(figure, label, "y")[0].line for label in "ab")
    assert (first.color, first.dash) != (second.color, second.dash)


def test_the_loss_is_a_mean_over_a_twentieth_with_gaps():
    losses = [float(step) for step in range(40)]
    losses[10] = math.inf
    mean = named(training_curves({"a": records(losses)}), "a", "y")[0].y
    assert (mean[0], mean[1], mean[9], mean[10], mean[11], mean[39]) == (0, 0.5, 8.5, None, 11, 38.5)


def test_a_run_that_diverges_ends_in_a_cross_that_says_so():
    cross = named(training_curves({"a": records(DIVERGED)}), "a", "y")[-1]
    assert (list(cross.x), list(cross.y), list(cross.text)) == ([3], [1.0], ["NaN from step 4 on"])
    assert len(named(training_curves({"a": records([1.0, 2.0])}), "a", "y")) == 1


def test_a_run_that_never_had_a_finite_loss_can_be_drawn():
    assert named(training_curves({"a": records([math.inf] * 3)}), "a", "y")[-1].text == ("inf from step 0 on",)


def test_skipped_steps_are_marked_on_the_scale():
    steps = [record(step, scale=2.0 ** (10 - step), skipped=step in (1, 3)) for step in range(5)]
    marks = named(training_curves({"a": steps}), "a", "y2")[-1]
    assert (list(marks.x), list(marks.y)) == ([1, 3], [9, 7])


def test_a_scale_of_zero_is_a_gap():
    steps = [record(0, scale=1.0), record(1, scale=0.0)]
    assert named(training_curves({"a": steps}), "a", "y2")[0].y == (0, None)
    assert curves(steps)["scale"] == [0, None]


@pytest.mark.parametrize(("worst", "top"), [(0.0, 0.0105), (1e-4, 0.0105), (0.5, 0.525)])
def test_a_trace_of_underflow_does_not_look_like_a_lot(worst: float, top: float):
    figure = training_curves({"a": records([1.0, 1.0], layer=worst)})
    assert list(figure.layout.yaxis3.range) == pytest.approx([0, top])


def test_a_run_that_was_not_probed_has_no_row_for_underflow():
    assert "yaxis3" not in training_curves({"a": records([1.0])}).to_dict()["layout"]


@pytest.mark.parametrize("runs", [{}, {"a": []}])
def test_nothing_to_show_is_refused(runs):
    for draw in (training_curves, ComparisonTable):
        with pytest.raises(ValueError, match="no steps to show.*train the run first"):
            draw(runs)


def test_underflow_has_a_row_for_each_layer_and_a_column_for_each_probed_step():
    steps = [record(0, a=0.1, b=0.2), record(1), record(2, a=0.3, b=0.4)]
    (heat,) = underflow_map(steps, title="Lost").data
    assert (list(heat.x), list(heat.y)) == ([0, 2], ["a", "b"])
    assert heat.z.tolist() == [[0.1, 0.3], [0.2, 0.4]]
    with pytest.raises(ValueError, match=r"no step of this run was probed; train with Trainer\(..., probe_every=10\)"):
        underflow_map([record(0)], title="Lost")


def test_the_progress_line_says_where_a_training_stands():
    assert progress_line([], 300) == "step 0 of 300"
    assert progress_line([record(0)], 300) == "step 1 of 300: loss 1, 100 steps/s"
    steps = [record(step, loss=0.4123, scale=2.0**14, skipped=step < 3) for step in range(120)]
    assert progress_line(steps, 300) == "step 120 of 300: loss 0.412, scale 2^14, 3 steps skipped, 100 steps/s"
    assert "nan" in progress_line(records(DIVERGED), 300)


@pytest.mark.parametrize(("value", "text"), [(1.0, "2^0"), (65536.0, "2^16"), (0.25, "2^-2"), (1000.0, "1000")])
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
        "accuracy": [0.5, 0.5],
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
    assert table.rows[1] == ("broken", "nan from step 4", "50.0%", "0 of 6", "not probed", "10.0")
    assert "a&lt;b" in table._repr_html_()
    assert repr(table).splitlines()[0].split()[:3] == ["run", "loss", "accuracy"]
