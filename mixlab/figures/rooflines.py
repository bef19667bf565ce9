"""The roofline of a machine: its limits by format, and pieces of work below them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import unescape
from typing import Any

import plotly.graph_objects as go

from mixlab.figures.theme import BELOW, escaped, styled
from mixlab.matmul import Roof, RooflinePoint
from mixlab.reports.colours import DASHES, GREY, SERIES

_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "star", "cross", "triangle-down", "pentagon")


def roofline(roofs: Sequence[Roof], points: Sequence[RooflinePoint] = (), *, title: str = "") -> go.Figure:
    """Draws the attainable FLOP/s of a machine against FLOP per byte, with both axes logarithmic.

    Formats with the same peak and bandwidth share a line. A filled marker is measured, a hollow one a prediction, which
    lies on the roof of its format.

    Args:
        roofs: The roofs of one machine, one per format.
        points: Pieces of work.
        title: Title of the figure; "" for the machine's name.

    Raises:
        ValueError: If there are no roofs, two of one format or of two machines, or a point has a format without one.
    """
    by_format = _checked(roofs, points)
    unit, factor = ("TFLOP/s", 1e12) if max(roof.peak_flops for roof in roofs) >= 1e12 else ("GFLOP/s", 1e9)
    left, right = _range(roofs, points)
    figure, looks = go.Figure(), {}
    for index, group in enumerate(_groups(roofs)):
        colour, dash = SERIES[index % len(SERIES)], DASHES[index % len(DASHES)]
        looks.update({roof.format: colour for roof in group})
        _draw_roof(figure, group, (left, right), unit, factor, {"color": colour, "dash": dash, "width": 2.5})
    for index, point in enumerate(points):
        look = {"symbol": _SYMBOLS[index % len(_SYMBOLS)], "color": looks[point.format]}
        _draw_point(figure, point, by_format[point.format], unit, factor, look)
    rows = len(looks) + len(points)
    summary = f"{unescape('; '.join(line.name for line in figure.data))}."
    title = title or f"Roofline of {escaped(roofs[0].name)}"
    figure = styled(figure, title=title, summary=summary, height=420 + 12 * rows)
    for x, y, words in ((0, 1, "◀ memory-bound"), (1, 0, "compute-bound ▶")):  # the corners without lines
        figure.add_annotation(text=words, showarrow=False, x=x, xref="paper", y=y, yref="paper")
    figure.update_layout(hovermode="closest", legend={**BELOW, "y": -0.2}, margin={"t": 50, "b": 90 + 12 * rows})
    lowest, highest = (end(y for line in figure.data for y in line.y) for end in (min, max))
    figure.update_yaxes(title=unit, **_log_axis(lowest, highest, room=0.1))
    return figure.update_xaxes(
        title="FLOP per byte moved", **_log_axis(left, right, room=0.22 * math.log10(right / left))
    )


def _checked(roofs: Sequence[Roof], points: Sequence[RooflinePoint]) -> dict[str, Roof]:
    if not roofs:
        raise ValueError("roofline: no roofs; mixlab.matmul.roofs_of has those of a GPU")
    by_format = {roof.format: roof for roof in roofs}
    if len(by_format) < len(roofs) or len({roof.name for roof in roofs}) > 1:
        named = ", ".join(f"{roof.name} {roof.format}" for roof in roofs)
        raise ValueError(f"roofline: give one roof per format, all of one machine, got {named}")
    for point in points:
        if point.format not in by_format:
            raise ValueError(f"roofline: {point.name} is in {point.format}; there are roofs for {', '.join(by_format)}")
    return by_format


def _groups(roofs: Sequence[Roof]) -> list[list[Roof]]:
    groups: dict[tuple[float, float], list[Roof]] = {}
    for roof in roofs:
        groups.setdefault((roof.peak_flops, roof.bandwidth), []).append(roof)
    return list(groups.values())


def _range(roofs: Sequence[Roof], points: Sequence[RooflinePoint]) -> tuple[float, float]:
    """Returns whole decades around the ridges and the points."""
    places = [*(roof.ridge_point for roof in roofs), *(point.intensity for point in points)]
    low = min(min(places) / 3, max(places) / 300)
    return 10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(3 * max(places)))


def _draw_roof(
    figure: go.Figure,
    group: Sequence[Roof],
    ends: tuple[float, float],
    unit: str,
    factor: float,
    line: dict[str, Any],
) -> None:
    roof = group[0]
    name = ", ".join(escaped(one.format) for one in group)
    peak = f"{roof.peak_flops / factor:,.4g} {unit}"
    x = [ends[0], roof.ridge_point, ends[1]]
    figure.add_scatter(
        name=f"{name}: {peak}, ridge at {_short(roof.ridge_point)} FLOP per byte",
        x=x,
        y=[roof.attainable(intensity) / factor for intensity in x],
        mode="lines",
        line=line,
        hovertemplate=f"{name}: %{{y:,.4g}} {unit} at %{{x:,.4g}} FLOP per byte<extra></extra>",
    )
    at = {"x": math.log10(ends[1]), "y": math.log10(roof.peak_flops / factor), "xanchor": "left", "yanchor": "middle"}
    figure.add_annotation(text=f" <b>{name}</b>", showarrow=False, font={"color": GREY}, **at)


def _draw_point(
    figure: go.Figure, point: RooflinePoint, roof: Roof, unit: str, factor: float, look: dict[str, Any]
) -> None:
    most, limit = roof.attainable(point.intensity), roof.limit(point.intensity)
    speed = most if point.speed is None else point.speed
    name = f"{escaped(point.name)}, {escaped(point.format)}"
    said = "at most" if point.speed is None else f"{speed / most:.0%} of the roof,"
    symbol = look["symbol"] if point.speed is not None else f"{look['symbol']}-open"
    words = f"{name}: {said} {speed / factor:,.4g} {unit}"
    figure.add_scatter(
        name=words,
        x=[point.intensity],
        y=[speed / factor],
        mode="markers",
        marker={**look, "symbol": symbol, "size": 13, "line": {"width": 2.5, "color": look["color"]}},
        hovertemplate=f"{words}<br>{point.intensity:,.4g} FLOP per byte, {limit}-bound<extra></extra>",
    )


def _log_axis(lowest: float, highest: float, *, room: float) -> dict[str, Any]:
    """Returns a logarithmic axis with plain numbers at the decades, and some room, in decades, at its upper end."""
    low, high = math.log10(lowest) - 0.05, math.log10(highest) + room
    ticks = [10.0**power for power in range(math.ceil(low), math.floor(high) + 1)]
    return {"type": "log", "range": [low, high], "tickvals": ticks, "ticktext": [f"{tick:,.10g}" for tick in ticks]}


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
