from __future__ import annotations

import math

import pytest

from mixlab.figures import roofline
from mixlab.matmul import Roof, RooflinePoint, roofs_of
from mixlab.memory import GPUS

MINE = (Roof("mine", "fp32", 2e11, 1e10), Roof("mine", "bf16", 8e11, 2e10))


@pytest.mark.parametrize("name", GPUS)
def test_every_gpu_is_drawn_with_all_its_formats(name):
    roofs = roofs_of(name)
    lines = roofline(roofs).data
    drawn = [fmt for line in lines for fmt in line.name.partition(":")[0].split(", ")]
    assert drawn == [roof.format for roof in roofs]
    looks = {(line.line.color, line.line.dash) for line in lines}
    assert len(looks) == len(lines)
    for line in lines:
        roof = next(roof for roof in roofs if line.name.startswith(roof.format))
        assert line.x[1] == roof.ridge_point
        slope, peak = line.x[0] * roof.bandwidth, roof.peak_flops
        assert [y * 1e12 for y in line.y] == pytest.approx([slope, peak, peak], rel=1e-12)


def test_formats_with_one_limit_share_a_line():
    assert roofline(roofs_of("h100-sxm")).data[2].name == "fp16, bf16: 989.4 TFLOP/s, ridge at 295 FLOP per byte"


def test_points_lie_where_they_were_measured_or_on_their_roof():
    points = [RooflinePoint("add", "fp32", 0.1, 5e8), RooflinePoint("product", "bf16", 10.0)]
    *lines, add, product = roofline(MINE, points).data
    assert (list(add.x), list(add.y), add.marker.symbol) == ([0.1], [0.5], "circle")
    assert add.name == "add, fp32: 50% of the roof, 0.5 GFLOP/s"
    assert (list(product.x), list(product.y), product.marker.symbol) == ([10.0], [200.0], "square-open")
    assert product.name == "product, bf16: at most 200 GFLOP/s"
    assert [add.marker.color, product.marker.color] == [line.line.color for line in lines]
    assert "memory-bound" in add.hovertemplate


def test_everything_is_inside_the_axes():
    points = [RooflinePoint("slow", "fp32", 1e-4, 10.0), RooflinePoint("far", "bf16", 1e6, 9e11)]
    figure = roofline(MINE, points)
    (left, right), (low, high) = figure.layout.xaxis.range, figure.layout.yaxis.range
    for trace in figure.data:
        assert all(left <= math.log10(x) <= right for x in trace.x)
        assert all(low <= math.log10(y) <= high for y in trace.y)


@pytest.mark.parametrize(
    ("roofs", "points", "words"),
    [
        ((), (), "no roofs; mixlab.matmul.roofs_of has those of a GPU"),
        ((MINE[0], MINE[0]), (), "one roof per format, all of one machine, got mine fp32, mine fp32"),
        ((MINE[0], roofs_of("t4")[1]), (), "all of one machine, got mine fp32, t4 fp16"),
        (MINE, [RooflinePoint("x", "fp8", 1.0)], "x is in fp8; there are roofs for fp32, bf16"),
    ],
)
def test_what_cannot_be_drawn_is_refused(roofs, points, words):
    with pytest.raises(ValueError, match=words):
        roofline(roofs, points)
