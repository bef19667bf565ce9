"""The magnitudes of a tensor among the zones of a number format, under a loss scale."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go

from mixlab.figures.theme import escaped, styled
from mixlab.formats import Format
from mixlab.powers import power
from mixlab.probes import TensorStats
from mixlab.reports.colours import GREY
from mixlab.reports.gradients import ScaledTensor, axis_ticks, border_labels, place_of
from mixlab.reports.zones import ZONES


def gradient_histogram(stats: TensorStats, fmt: Format | str, scale_exponent: int = 0) -> go.Figure:
    """Draws the magnitudes of a tensor, times a loss scale, as a histogram by exponent among the zones of a format.

    Args:
        stats: Statistics of a tensor, without a loss scale in it.
        fmt: The format whose zones are shown.
        scale_exponent: k of the loss scale 2^k.

    Raises:
        ValueError: If `scale_exponent` is not a whole number from -512 to 512.
    """
    tensor = ScaledTensor(stats, fmt)
    exponents, shares = tensor.bars()
    low, high = tensor.domain(scale_exponent)
    top = 1.1 * max(shares, default=1.0)
    edges = (low, *tensor.borders, high)
    moved = [e + scale_exponent + 0.5 for e in exponents]
    figure = go.Figure([_zone(i, edges[i], edges[i + 1], top) for i in range(len(ZONES))])
    figure.add_bar(
        x=moved,
        y=shares,
        width=0.9,
        marker_color=[ZONES[int(np.searchsorted(tensor.borders, x))].colour for x in moved],
        hovertext=[f"{power(e + scale_exponent)} to {power(e + scale_exponent + 1)}" for e in exponents],
        hovertemplate="%{hovertext}: %{y:.2%}<extra></extra>",
    )
    _name_zones(figure, edges, tensor.zone_shares(scale_exponent))
    _name_borders(figure, tensor)
    title = f"{tensor.noun} × {power(scale_exponent)} in {fmt}, {escaped(place_of(stats))}"
    figure = styled(figure, title=title, summary=_said(tensor, scale_exponent), height=400)
    room = (high - low) / 40
    ticks = [(e, label) for e, label in axis_ticks(low, high) if min(abs(e - x) for x in tensor.borders) > room]
    figure.update_xaxes(title=tensor.axis_title, title_standoff=28, range=[low, high], showgrid=False, zeroline=False)
    figure.update_xaxes(tickvals=[e for e, _ in ticks], ticktext=[label for _, label in ticks])
    figure.update_yaxes(title=f"share of the non-zero {tensor.noun}", tickformat=".2~%", range=[0, top])
    return figure.update_layout(showlegend=False, hovermode="closest", bargap=0, margin_t=100)


def _said(tensor: ScaledTensor, scale_exponent: int) -> str:
    shares = zip(ZONES, tensor.zone_shares(scale_exponent), strict=True)
    return f"Shares of the non-zero {tensor.noun}: {', '.join(f'{zone.name} {share}' for zone, share in shares)}."


def _zone(index: int, left: float, right: float, top: float) -> go.Scatter:
    zone = ZONES[index]
    return go.Scatter(
        x=[left, left, right, right],
        y=[0, top, top, 0],
        mode="none",
        fill="toself",
        fillcolor="rgba(0,0,0,0)",
        fillpattern={"shape": zone.pattern, "fgcolor": zone.colour, "fgopacity": 1, "size": 9, "solidity": 0.1},
        hoverinfo="skip",
        name=zone.name,
    )


def _name_zones(figure: go.Figure, edges: Sequence[float], shares: Sequence[str]) -> None:
    """Writes above each zone its name and its share of the values."""
    for x, zone, share in zip(_name_places(edges), ZONES, shares, strict=True):
        words = f"<b>{zone.name}</b><br>{share}"
        figure.add_annotation(x=x, y=1, yref="paper", yanchor="bottom", text=words, showarrow=False)


def _name_borders(figure: go.Figure, tensor: ScaledTensor) -> None:
    """Draws a line at each border, with its value below."""
    for x, label, side in zip(tensor.borders, border_labels(tensor.fmt), ("right", "left", "left"), strict=True):
        figure.add_vline(x=x, line_width=1, line_color=GREY)
        words = f"<b>{label}</b>"
        figure.add_annotation(x=x, y=0, yref="paper", xanchor=side, text=words, showarrow=False, yshift=-32)


def _name_places(edges: Sequence[float]) -> list[float]:
    """Returns the positions of the zones' names: in the middle, or pushed aside where a zone is narrow."""
    room = 0.2 * (edges[-1] - edges[0])
    places = [(left + right) / 2 for left, right in pairwise(edges)]
    places[0] = max(places[0], edges[0] + 0.4 * room)
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + room)
    places[-1] = min(places[-1], edges[-1] - room / 3)
    for i in range(len(places) - 2, -1, -1):
        places[i] = min(places[i], places[i + 1] - room)
    return places
