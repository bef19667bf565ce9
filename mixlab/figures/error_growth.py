"""How the errors of dot products grow with K, and their bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from mixlab.figures.theme import BELOW, escaped, styled
from mixlab.matmul import ErrorGrowth, ErrorPoint
from mixlab.powers import superscript
from mixlab.reports.colours import SERIES

_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")


def error_lines(
    growth: ErrorGrowth, *, whole: bool = False, title: str = "How far dot products are from exact"
) -> go.Figure:
    """Draws the errors of dot products against K, both logarithmic: medians as marks, bounds as lines.

    The range from the median to the largest error is an upward bar. A dashed line is the bound that always holds, a
    dotted one the bound that holds with high probability if rounding errors are independent. Errors of zero, and points
    at which no sum is finite, have no mark.

    Args:
        growth: From `mixlab.matmul.error_growth`.
        whole: Whether to draw the whole errors, with those of rounding the operands, and their bound; by default, those
            of the sums alone.
        title: Title of the figure.

    Raises:
        ValueError: If there are more than six curves, which could not be told apart.
    """
    curves = growth.curves()
    if not 1 <= len(curves) <= len(SERIES):
        raise ValueError(f"error_lines: draw 1 to {len(SERIES)} curves, got {len(curves)}; measure fewer at a time")
    figure = go.Figure()
    for (name, points), colour, symbol in zip(curves.items(), SERIES, _SYMBOLS, strict=False):
        _draw_curve(figure, escaped(name), points, colour, symbol, whole)
    lengths = sorted({point.length for points in curves.values() for point in points})
    lines = ["bars reach to the largest; dashed: always below"]
    lines += [] if whole else ["dotted: very likely below, if rounding errors are independent"]
    words = "<br>".join([title, *(f"<sub>{line}</sub>" for line in lines)])
    figure = styled(figure, title=words, summary=_summary(curves, whole), height=515)
    figure.update_layout(hovermode="closest", legend=BELOW, margin={"t": 96, "b": 40, "l": 75})
    figure.update_xaxes(title="K, products in the sum", type="log", tickvals=_powers(lengths), tickformat=",")
    what = "error / Σ |xᵢ yᵢ|"
    return figure.update_yaxes(title=what, type="log", **_decades(growth.points, whole))


def _draw_curve(
    figure: go.Figure, name: str, points: Sequence[ErrorPoint], colour: str, symbol: str, whole: bool
) -> None:
    lengths = [point.length for point in points]
    middle: list[float | None] = [_drawn(point.median_error if whole else point.median_sum_error) for point in points]
    largest = [_drawn(point.max_error if whole else point.max_sum_error) for point in points]
    above = [(high or 0.0) - low if low else 0.0 for low, high in zip(middle, largest, strict=True)]
    none = [0.0] * len(points)
    bars = {"type": "data", "symmetric": False, "array": above, "arrayminus": none, "thickness": 1, "width": 3}
    figure.add_scatter(
        name=name,
        legendgroup=name,
        x=lengths,
        y=middle,
        mode="lines+markers",
        line={"color": colour, "width": 1.5},
        marker={"color": colour, "symbol": symbol, "size": 8},
        error_y=bars,
        customdata=[[_said(point, whole)] for point in points],
        hovertemplate=f"{name}<br>K = %{{x:,}}<br>%{{customdata[0]}}<extra></extra>",
    )
    always: list[float | None] = [point.bound if whole else point.sum_bound for point in points]
    likely = [None if whole else point.probable_sum_bound for point in points]
    for what, dash, bounds in (("always below", "dash", always), ("very likely below", "dot", likely)):
        if any(_drawn(bound) for bound in bounds):
            figure.add_scatter(
                name=f"{name}: {what}",
                legendgroup=name,
                showlegend=False,
                x=lengths,
                y=[_drawn(bound) for bound in bounds],
                mode="lines",
                line={"color": colour, "dash": dash, "width": 1.5},
                hovertemplate=f"{name}<br>K = %{{x:,}}<br>{what} %{{y:.2g}}<extra></extra>",
            )


def _drawn(value: float | None) -> float | None:
    """Returns what a logarithmic axis can show, below 100 times everything, or None."""
    return value if value is not None and 0 < value < 100 else None


def _said(point: ErrorPoint, whole: bool) -> str:
    middle, largest = (point.median_error, point.max_error) if whole else (point.median_sum_error, point.max_sum_error)
    said = [f"median {middle:.2g}, largest {largest:.2g}"]
    if point.overflow_fraction:
        said.append(f"{point.overflow_fraction:.0%} overflowed")
    if point.stall_fraction:
        said.append(f"{point.stall_fraction:.0%} stood still in the second half")
    return "<br>".join(said)


def _summary(curves: Mapping[str, Sequence[ErrorPoint]], whole: bool) -> str:
    ends = {name: (points[0], points[-1]) for name, points in curves.items()}
    low, high = (f"{point.length:,}" for point in next(iter(ends.values())))
    grown = (f"{name} {_median(a, whole):.2g} to {_median(b, whole):.2g}" for name, (a, b) in ends.items())
    return f"Median errors over the sum of all |x y|, from K = {low} to {high}: {'; '.join(grown)}."


def _median(point: ErrorPoint, whole: bool) -> float:
    return point.median_error if whole else point.median_sum_error


def _powers(lengths: Sequence[int]) -> list[int]:
    low, high = (math.log2(each) for each in (lengths[0], lengths[-1]))
    step = max(1, round((high - low) / 7))
    return [2**power for power in range(math.floor(low), math.ceil(high) + 1, step)]


def _decades(points: Sequence[ErrorPoint], whole: bool) -> dict[str, list[object]]:
    """Returns the marks of the axis at powers of ten, eight or so, and how they are written."""
    values = [each for p in points for each in (p.median_error if whole else p.median_sum_error, p.sum_bound)]
    sizes = [math.log10(shown) for each in values if (shown := _drawn(each))] or [0.0]
    step = max(1, round((max(sizes) - min(sizes)) / 8))
    exponents = range(step * math.floor(min(sizes) / step), math.ceil(max(sizes)) + step, step)
    return {"tickvals": [10.0**e for e in exponents], "ticktext": [f"10{superscript(e)}" for e in exponents]}
