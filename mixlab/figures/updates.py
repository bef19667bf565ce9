"""Which updates of a training step survive the rounding of the weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import plotly.graph_objects as go
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixlab.figures.theme import escaped, styled
from mixlab.formats import Format
from mixlab.reports.colours import BLUE, DASHES, GREY, SERIES


def update_sizes(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], formats: Iterable[Format | str]
) -> go.Figure:
    """Draws the sizes of one step's updates relative to their weights, and the line below which each format loses them.

    An update below half of a format's unit roundoff times the weight is certainly lost; one above the unit roundoff
    survives. The line stands at the unit roundoff: to its left, most weights lose the update.

    Args:
        before: All weights before the step, by name, in float32.
        after: The same weights after the step.
        formats: The formats to draw a line for.

    Raises:
        ValueError: If no weight was updated.
    """
    weights = torch.cat([weight.float().flatten() for weight in before.values()])
    updates = torch.cat([weight.float().flatten() for weight in after.values()]) - weights
    moving = (updates != 0) & (weights != 0)
    if not bool(moving.any()):
        raise ValueError("update_sizes: no weight was updated; take a step that is not skipped between the two")
    ratios = (updates[moving].abs() / weights[moving].abs()).log2().numpy()
    edges = np.arange(np.floor(ratios.min()), np.ceil(ratios.max()) + 0.5, 0.5)
    counts, edges = np.histogram(ratios, bins=edges if len(edges) > 1 else 2)
    figure = go.Figure(
        go.Bar(
            x=(edges[:-1] + edges[1:]) / 2,
            y=counts / counts.sum(),
            width=np.diff(edges),
            marker={"color": BLUE, "line": {"width": 0}},
            hovertemplate="2^%{x:.1f} times the weight: %{y:.2%} of the updates<extra></extra>",
        )
    )
    for index, fmt in enumerate(map(Format.of, formats)):
        _draw_border(figure, fmt, ratios, index)
    figure = styled(figure, title="One step's updates, relative to their weights", height=400)
    figure.update_layout(hovermode="closest", showlegend=False, bargap=0, margin={"t": 140})
    figure.update_yaxes(tickformat=".0%", title="share of the updates")
    return figure.update_xaxes(title="update / weight", tickprefix="2^")


def _draw_border(figure: go.Figure, fmt: Format, ratios: NDArray[np.float32], index: int) -> None:
    """Draws the line at a format's unit roundoff, and writes above it the share of the updates to its left."""
    place = float(np.log2(fmt.unit_roundoff))
    lost = float((ratios < place).mean())
    figure.add_vline(
        x=place,
        line={"color": SERIES[(index + 1) % len(SERIES)], "dash": DASHES[index % len(DASHES)], "width": 2},
        annotation={
            "text": f"{fmt}: {lost:.0%} to the left",
            "yref": "paper",
            "y": 1.02 + 0.08 * index,
            "yanchor": "bottom",
            "xanchor": "center",
            "font": {"color": GREY},
        },
    )


def swallowed_bars(shares: Mapping[str, Mapping[str, float]], *, title: str) -> go.Figure:
    """Draws the share of lost updates by parameter, one colour for each way to store the weights.

    Args:
        shares: The shares of each parameter, by label, such as "fp16 weights".
        title: Title of the figure.

    Raises:
        ValueError: If there are no shares.
    """
    if not shares:
        raise ValueError("swallowed_bars: nothing to draw; swallowed_by_layer(before, after, fmt) counts them")
    figure = go.Figure()
    for index, (label, by_layer) in enumerate(shares.items()):
        figure.add_bar(
            name=escaped(label),
            x=list(by_layer.values()),
            y=[escaped(layer) for layer in by_layer],
            orientation="h",
            marker={"color": SERIES[index % len(SERIES)], "pattern": {"shape": ["", "/", ".", "x"][index % 4]}},
            hovertemplate="%{y}, " + escaped(label) + ": %{x:.1%} lost<extra></extra>",
        )
    rows = max(len(by_layer) for by_layer in shares.values())
    figure = styled(figure, title=title, height=170 + 14 * rows * len(shares))
    figure.update_layout(hovermode="closest", barmode="group", legend={"y": 1.0})
    figure.update_yaxes(autorange="reversed", automargin=True)
    return figure.update_xaxes(title="share of the updates that are lost", tickformat=".0%", range=[0, 1])
