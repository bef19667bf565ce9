from __future__ import annotations

import pytest
import torch

from mixlab.figures import error_lines
from mixlab.matmul import ErrorGrowth, Summation, error_growth, operand_sample

SAMPLE = operand_sample("normal", length=256, rows=9)
GROWTH = error_growth(SAMPLE.x, SAMPLE.y, [16, 64, 256], summations=[Summation("fp16"), "h100"])


def test_points_and_bounds_are_the_growths():
    figure = error_lines(GROWTH)
    fp16, always, likely, core, core_always = figure.data
    points = GROWTH.points[:3]
    assert list(fp16.x) == [16, 64, 256]
    assert list(fp16.y) == [point.median_sum_error for point in points]
    assert list(fp16.error_y.array) == pytest.approx([p.max_sum_error - p.median_sum_error for p in points])
    assert list(always.y) == [point.sum_bound for point in points]
    assert list(likely.y) == [point.probable_sum_bound for point in points]
    assert (always.line.dash, likely.line.dash) == ("dash", "dot")
    assert core.name == "fp16, h100 tensor core"
    assert list(core_always.y) == [point.sum_bound for point in GROWTH.points[3:]]
    assert (figure.layout.xaxis.type, figure.layout.yaxis.type) == ("log", "log")


def test_curves_differ_in_colour_and_shape():
    drawn = [trace for trace in error_lines(GROWTH).data if trace.showlegend is not False]
    assert len({trace.marker.color for trace in drawn}) == len({trace.marker.symbol for trace in drawn}) == 2


def test_whole_errors_have_the_operands_in_them():
    measured, bound, *_ = error_lines(GROWTH, whole=True).data
    assert list(measured.y) == [point.median_error for point in GROWTH.points[:3]]
    assert list(bound.y) == [point.bound for point in GROWTH.points[:3]]


def test_overflow_and_exact_sums_leave_gaps():
    x = torch.full((2, 4), 60_000.0)
    x[:, :1] = 1.0
    growth = error_growth(x, x.clone(), [1, 2, 4], summations=[Summation("fp16")])
    measured = error_lines(growth).data[0]
    assert list(measured.y) == [None, None, None]
    assert "100% overflowed" in measured.customdata[1][0]


@pytest.mark.parametrize("count", [0, 7])
def test_too_many_curves_or_none_are_refused(count: int):
    growth = error_growth(
        SAMPLE.x, SAMPLE.y, [16], summations=[Summation("fp16", "blocked", block=2 + i) for i in range(max(count, 1))]
    )
    with pytest.raises(ValueError, match=f"draw 1 to 6 curves, got {count}"):
        error_lines(growth if count else ErrorGrowth([], 1))
