from __future__ import annotations

import math

import plotly.graph_objects as go
import pytest

from mixlab.figures import training_curves, underflow_map
from mixlab.reports import ComparisonTable
from mixlab.reports.columns import curves
from tests.panels.trainings import DIVERGED, record, records


def named(figure: go.Figure, label: str, axis: str) -> list[go.Scatter]:
    return [trace for trace in figure.data if trace.legendgroup == label and trace.yaxis == axis]


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
    curve, cross = named(training_curves({"a": records(DIVERGED)}), "a", "y")
    assert (list(cross.x), list(cross.y), cross.hovertemplate) == ([3], [1.0], "NaN from step 4 on")
    assert (curve.name, cross.name) == ("a: NaN from step 4 on", "a")
    assert len(named(training_curves({"a": records([1.0, 2.0])}), "a", "y")) == 1


def test_a_run_that_never_had_a_finite_loss_can_be_drawn():
    assert named(training_curves({"a": records([math.inf] * 3)}), "a", "y")[0].name == "a: inf from step 0 on"


def test_a_run_of_one_step_is_seen():
    figure = training_curves({"a": records([1.0], scale=8.0, layer=0.1)})
    assert [trace.mode for trace in figure.data] == ["lines+markers"] * 3


def test_a_row_that_no_run_has_anything_for_is_left_out():
    plain, scaled, probed = records([1.0]), records([1.0], scale=8.0), records([1.0], layer=0.1)
    for runs, titles in (
        ([plain], ["loss, running mean"]),
        ([plain, scaled], ["loss, running mean", "loss scale"]),
        ([probed, plain], ["loss, running mean", "underflow of the worst layer"]),
    ):
        figure = training_curves({str(place): run for place, run in enumerate(runs)})
        assert [note.text for note in figure.layout.annotations] == titles
        assert {trace.yaxis for trace in figure.data} == {"y", "y2"} if len(titles) == 2 else {"y"}


def test_scales_are_marked_at_whole_exponents():
    figure = training_curves({"a": records([1.0, 1.0], scale=8.0)})
    assert all(isinstance(place, int) for place in figure.layout.yaxis2.tickvals)
    assert 3 in range(*map(int, figure.layout.yaxis2.range))


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
    assert list(figure.layout.yaxis2.range) == pytest.approx([0, top])


def test_a_run_that_was_not_probed_has_no_row_for_underflow():
    assert "yaxis3" not in training_curves({"a": records([1.0], scale=8.0)}).to_dict()["layout"]


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
