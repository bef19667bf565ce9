from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from mixlab.figures import accumulation_error, dynamic_range_and_precision, number_line
from mixlab.formats import E4M3FN, FORMATS, FP16, FP32, Format, round_with_stats
from mixlab.probes import Histogram
from mixlab.reports import limits_line, loss_line, magnitudes_svg
from mixlab.reports.magnitudes import relative_rms

SMALL = [fmt for fmt in FORMATS.values() if fmt.bits <= 8]


def traces(figure: go.Figure) -> dict[str, go.Scatter]:
    return {trace.name.partition(" (")[0]: trace for trace in figure.data}


@pytest.mark.parametrize("fmt", SMALL, ids=str)
@pytest.mark.parametrize("log", [False, True])
def test_the_line_has_every_finite_value_once_in_its_class(fmt: Format, log: bool):
    shown = traces(number_line(fmt, log=log))
    codes = [fmt.decode(code) for code in range(1 << fmt.bits)]
    for kind in ("zero", "subnormal", "normal"):
        values = {code.value for code in codes if code.kind == kind and (not log or code.value > 0)}
        drawn = shown[kind].x.tolist() if kind in shown else []
        assert sorted(drawn) == sorted(math.log2(value) if log else value for value in values)


def test_the_classes_differ_in_colour_and_shape():
    shown = traces(number_line(E4M3FN))
    assert len({trace.marker.color for trace in shown.values()}) == 3
    assert len({trace.marker.symbol for trace in shown.values()}) == 3


def test_a_format_of_many_values_is_refused():
    with pytest.raises(ValueError, match="fp16 has 16 bits, too many values to draw; use one of up to 10 bits"):
        number_line(FP16)


@pytest.mark.parametrize("formats", [list(FORMATS.values()), [FP16], [FP32, FP16]])
def test_range_and_digits_are_those_of_the_formats(formats: list[Format]):
    figure = dynamic_range_and_precision(iter(formats))
    subnormal, normal, digits = figure.data
    assert list(normal.y) == list(digits.y) == [fmt.name for fmt in formats]
    for i, fmt in enumerate(formats):
        assert subnormal.base[i] == math.log2(fmt.smallest_subnormal)
        assert normal.base[i] == math.log2(fmt.smallest_normal)
        assert normal.base[i] + normal.x[i] == pytest.approx(math.log2(fmt.max))
        assert digits.x[i] == pytest.approx(math.log10(2 / fmt.eps))
        assert f"eps {fmt.eps:.3g}" in digits.text[i]


def test_sums_are_drawn_beside_the_exact_one_with_their_errors():
    figure = accumulation_error({"right": [0.5, 1.0, 1.5], "late": [0.5, 0.5, 0.5]}, 0.5)
    exact, right, right_error, late, late_error = figure.data
    assert exact.y.tolist() == right.y.tolist() == [0.5, 1.0, 1.5]
    assert np.isnan(right_error.y).all(), "zero has no place on a logarithmic axis"
    assert late.y.tolist() == [0.5] * 3
    assert late_error.y[1:].tolist() == pytest.approx([1 / 2, 2 / 3])
    assert (right.line.color, right.line.dash) != (late.line.color, late.line.dash)
    assert [trace.name for trace in figure.data if trace.showlegend is not False] == ["exact", "right", "late"]


def test_long_sums_are_thinned_and_end_at_the_end():
    drawn = accumulation_error({"a": np.arange(1.0, 10_001)}, 1.0).data[1]
    assert len(drawn.x) <= 400
    assert (drawn.x[0], drawn.x[-1], drawn.y[-1]) == (1, 10_000, 10_000)


def test_no_sums_are_refused():
    with pytest.raises(ValueError, match="sums is empty"):
        accumulation_error({}, 1.0)


def test_the_loss_in_words_is_that_of_the_tensor():
    x = torch.tensor([1.0, 1e-9, 3e-7, 7e4, 0.0])
    rounded, stats = round_with_stats(x, "fp16", overflow="inf")
    assert loss_line(stats).startswith(
        "Of 4 non-zero values 25 % become zero, 25 % are subnormal, 25 % are out of range. Relative RMS error "
    )
    kept = torch.isfinite(rounded)
    error = (rounded[kept] - x[kept]).double().norm() / x[kept].double().norm()
    assert relative_rms(stats) == pytest.approx(error.item(), rel=1e-4)
    assert loss_line(round_with_stats(torch.zeros(3), "fp16", overflow="inf")[1]).startswith("None of the 3 values")
    assert "no subnormals" in limits_line(Format("f", 4, 3, subnormals=False))


@pytest.mark.parametrize("fmt", [FORMATS["e2m1fn"], E4M3FN, FP32], ids=str)
@pytest.mark.parametrize("x", [torch.tensor([1.0, 2e-5, 3e-30, 4e20]), torch.zeros(2), torch.tensor([torch.nan])])
def test_the_picture_is_well_formed_and_has_a_bar_for_each_exponent(fmt: Format, x: torch.Tensor):
    counts = Histogram.of(x).exponent_counts()
    picture = ElementTree.fromstring(magnitudes_svg(counts, fmt, "in words"))
    bars = [node for node in picture.iter("rect") if "fill-opacity" not in node.attrib]
    assert len(bars) == np.count_nonzero(counts)
    assert picture.attrib["aria-label"] == "in words"
    width = float(picture.attrib["viewBox"].split()[2])
    assert all(-0.1 <= float(bar.attrib["x"]) <= width for bar in bars)
    assert not re.search("nan|inf", ElementTree.tostring(picture, "unicode").replace("overflow", ""))
