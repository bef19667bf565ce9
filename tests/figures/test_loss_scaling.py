"""Loss scalers side by side."""

from __future__ import annotations

import math

import pytest

from mixlab.figures import scale_histories
from mixlab.loss_scaling import (
    ScaleHistory,
    all_policies,
    hunt,
    simulate,
)
from mixlab.reports.loss_scaling import ending

GOLDEN = [digit == "1" for digit in "1100000101"]
AT = [step for step, overflow in enumerate(GOLDEN) if overflow]


@pytest.fixture
def histories() -> dict[str, ScaleHistory]:
    found = all_policies(1024.0, growth_interval=3)
    return {name: simulate(policy, GOLDEN) for name, policy in found.items()}


def test_the_figure_has_a_lane_a_policy(histories: dict[str, ScaleHistory]):
    figure = scale_histories(histories, title="Side by side")
    titles = [annotation.text for annotation in figure.layout.annotations]
    assert titles == [f"<b>{name}</b> {ending(history)}" for name, history in histories.items()]
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    assert [list(line.y)[:-1] for line in lines] == [
        [math.log2(scale) for scale in history.scales] for history in histories.values()
    ]
    assert {line.line.shape for line in lines} == {"hv"}
    assert len({(line.xaxis, line.yaxis) for line in lines}) == 4
    assert sorted({shape.x0 for shape in figure.layout.shapes}) == AT
    assert len(figure.layout.shapes) == 4 * len(AT)
    assert [trace.name for trace in figure.data if trace.showlegend is not False] == [
        "overflow, the scale falls",
        "overflow, the scale stays",
        "the scale grows",
    ]


def test_marks_stand_where_the_scale_stays_or_moves(histories: dict[str, ScaleHistory]):
    figure = scale_histories({"Megatron": histories["Megatron"]}, title="One")
    marks = {trace.hovertemplate: trace for trace in figure.data if trace.mode == "markers" and trace.x[0] is not None}
    kept = marks["step %{customdata}: overflow, the scale stays<extra></extra>"]
    fell = marks["step %{customdata}: overflow, the scale falls<extra></extra>"]
    assert (list(kept.x), list(kept.y)) == ([0.5, 7.5], [10, 10])
    assert (list(fell.x), list(fell.y)) == ([2, 10], [9, 9])


def test_limits_are_drawn_in_every_lane():
    limits = [2.0 ** (12 - step % 5) for step in range(30)]
    found = {name: hunt(policy, limits) for name, policy in all_policies(2.0**16, growth_interval=4).items()}
    figure = scale_histories(found, title="Hunt", limits=limits)
    dotted = [trace for trace in figure.data if trace.mode == "lines" and trace.line.dash == "dot"]
    drawn = [trace for trace in dotted if trace.x[0] is not None]
    assert len(drawn) == 4
    assert list(drawn[0].y)[:-1] == [math.log2(limit) for limit in limits]
    assert [trace.name for trace in dotted if trace.x[0] is None] == ["largest usable scale of the step"]
    assert figure.layout.shapes == ()
    low, high = figure.layout.yaxis.range
    assert low < 8
    assert high > 16


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match="no histories to show; make some with simulate or hunt"):
        scale_histories({}, title="None")


def test_scales_that_have_no_logarithm_are_gaps():
    history = ScaleHistory((1.0, 0.0, math.inf), (True, False))
    line = next(trace for trace in scale_histories({"a": history}, title="A").data if trace.mode == "lines")
    assert list(line.y)[:3] == [0, None, None]
