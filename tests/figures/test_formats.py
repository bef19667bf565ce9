from __future__ import annotations

import math

import numpy as np
import plotly.graph_objects as go
import pytest

from mixlab.figures import accumulation_error, dynamic_range_and_precision, number_line
from mixlab.formats import E4M3FN, FORMATS, FP16, FP32, Format

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
        drawn = sorted(shown[kind].x.tolist() if kind in shown else [])
        if log:  # logarithms of two libraries, of which one may be off in the last bit
            assert drawn == pytest.approx(sorted(map(math.log2, values)), rel=1e-15, abs=0)
        else:
            assert drawn == sorted(values)


def test_the_classes_differ_in_colour_and_shape():
    shown = traces(number_line(E4M3FN))
    assert len({trace.marker.color for trace in shown.values()}) == 3
    assert len({trace.marker.symbol for trace in shown.values()}) == 3


def test_a_format_of_many_values_is_refused():
    with pytest.raises(ValueError, match="fp16 has 16 bits, too many values to draw; use one of at most 10 bits"):
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
