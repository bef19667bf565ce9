"""Which updates of a training step survive the rounding of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go
import torch
from torch import Tensor

from mixlab.figures.theme import escaped, styled, tinted
from mixlab.formats import Format
from mixlab.powers import power
from mixlab.probes import swallowed_in_all
from mixlab.reports.colours import BLUE, DASHES, GREY, SERIES
from mixlab.reports.numbers import share_words


def update_sizes(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], formats: Iterable[Format | str]
) -> go.Figure:
    """Draws the sizes of one step's updates relative to their weights, and where each format loses them.

    Among normal values, an update below half of a format's unit roundoff times the weight is lost for certain, and one
    above the unit roundoff survives. In the band between, it depends on where the weight lies between two powers of
    two. The share above a band is counted by rounding, as `mixlab.probes.swallowed` does.

    Args:
        before: All weights before the step, by name, in float32.
        after: The same weights after the step.
        formats: The formats to draw a band for.

    Raises:
        ValueError: If no weight was updated.
    """
    weights = torch.cat([weight.float().flatten() for weight in before.values()])
    updates = torch.cat([weight.float().flatten() for weight in after.values()]) - weights
    moving = (updates != 0) & (weights != 0)
    if not bool(moving.any()):
        raise ValueError("update_sizes: no weight was updated; take a step that is not skipped between the two")
    ratios = (updates[moving].abs() / weights[moving].abs()).log2().cpu().numpy()
    edges = np.arange(np.floor(ratios.min()), np.ceil(ratios.max()) + 0.5, 0.5)
    counts, edges = np.histogram(ratios, bins=edges if len(edges) > 1 else 2)
    figure = go.Figure(
        go.Bar(
            x=(edges[:-1] + edges[1:]) / 2,
            y=counts / counts.sum(),
            width=np.diff(edges),
            marker={"color": tinted(BLUE, 0.15), "line": {"color": BLUE, "width": 1.5}},
            customdata=[f"{2.0**low:.2g} to {2.0**high:.2g}" for low, high in pairwise(edges)],
            hovertemplate="%{customdata} times the weight: %{y:.2%} of the updates<extra></extra>",
        )
    )
    for index, fmt in enumerate(map(Format.of, formats)):
        _draw_band(figure, fmt, swallowed_in_all(before, after, fmt), index)
    note = "left of a band updates are lost, right of it kept; in it, that depends on the weight"
    lost = {str(fmt): share_words(swallowed_in_all(before, after, fmt)) for fmt in map(Format.of, formats)}
    summary = f"The median update is {2.0 ** float(np.median(ratios)):.2g} of its weight"
    summary += "".join(f"; {fmt} loses {share}" for fmt, share in lost.items()) + "."
    title = f"One step's updates, relative to their weights<br><sub>{note}</sub>"
    figure = styled(figure, title=title, summary=summary, height=400)
    figure.update_layout(hovermode="closest", showlegend=False, bargap=0, margin={"t": 135})
    figure.update_yaxes(tickformat=".0%", title="share of the updates")
    low, high = int(edges[0]), int(np.ceil(edges[-1]))
    ticks = range(low, high + 1, max(1, round((high - low) / 10)))
    figure.update_xaxes(tickvals=list(ticks), ticktext=[power(k) for k in ticks])
    return figure.update_xaxes(title="update / weight", zeroline=False)


def _draw_band(figure: go.Figure, fmt: Format, lost: float, index: int) -> None:
    """Draws the band from half of a format's unit roundoff to all of it, and writes above it the share that is lost."""
    right = math.log2(fmt.unit_roundoff)
    figure.add_vrect(
        x0=right - 1,
        x1=right,
        line={"color": GREY, "dash": DASHES[index % len(DASHES)], "width": 2.5},
        annotation={
            "text": f"{fmt} loses {share_words(lost)}",
            "x": right - 0.5,
            "yref": "paper",
            "y": 1.02 + 0.08 * index,
            "yanchor": "bottom",
            "xanchor": "center",
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
    each = (f"{label} from {min(by.values()):.1%} to {max(by.values()):.1%}" for label, by in shares.items() if by)
    summary = f"Shares of lost updates over {rows} parameters: {'; '.join(each)}."
    figure = styled(figure, title=title, summary=summary, height=170 + 14 * rows * len(shares))
    figure.update_layout(hovermode="closest", barmode="group", legend_y=1.0)
    figure.update_yaxes(autorange="reversed", automargin=True)
    return figure.update_xaxes(title="share of the updates that are lost", tickformat=".0%", range=[0, 1])
