"""The scales of several loss scalers over the steps, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mixlab.figures.theme import styled
from mixlab.loss_scaling import ScaleHistory
from mixlab.powers import power_of_two
from mixlab.reports.colours import GREY, PURPLE, SERIES
from mixlab.reports.loss_scaling import (
    LEGEND,
    Change,
    Histories,
    changes,
    domain_of,
    ending,
    levels_of,
    power_ticks,
)
from mixlab.reports.numbers import finite_log2

_SYMBOLS: dict[Change, str] = {"fell": "triangle-down", "kept": "circle-open", "grew": "triangle-up", "end": "x"}
_STRIP = 0.08  # of a lane, at its bottom: steps that overflow
_LIMIT = {"color": PURPLE, "dash": "dot", "width": 2, "shape": "hv"}


def scale_histories(histories: Histories, *, title: str, limits: Sequence[float] | None = None) -> go.Figure:
    """Draws log2 of each policy's scale over the steps, one lane per policy, and marks how it reacts to overflows.

    Args:
        histories: From `simulate` or `hunt`, by name.
        title: Title of the figure.
        limits: The largest usable scale of each step, as given to `hunt`, drawn in every lane; None draws none.

    Raises:
        ValueError: If there are no histories.
    """
    if not histories:
        raise ValueError("scale_histories: no histories to show; make some with simulate or hunt")
    titles = [f"<b>{name}</b> {ending(history)}" for name, history in histories.items()]
    figure = make_subplots(
        rows=len(titles),
        shared_xaxes=True,
        shared_yaxes="all",
        vertical_spacing=0.28 / len(titles),
        subplot_titles=titles,
    )
    for row, history in enumerate(histories.values(), start=1):
        for trace in _lane_traces(history, SERIES[(row - 1) % len(SERIES)], limits):
            figure.add_trace(trace, row=row, col=1)
        if limits is None:  # after the traces: plotly leaves out shapes on empty axes
            for step in (step for step, overflow in enumerate(history.overflows) if overflow):
                figure.add_vrect(step, step + 1, fillcolor=PURPLE, line_width=0, row=row, col=1)
    figure.update_shapes(y1=_STRIP)
    figure.add_traces(_legend_traces(histories, limits))
    height = 150 + 110 * len(titles)
    summary = f"{'; '.join(f'{name} {ending(history)}' for name, history in histories.items())}."
    figure = styled(figure, title=title, summary=summary, height=height)
    figure.update_layout(hovermode="closest", margin_t=120)
    figure.update_layout(
        legend={"y": 1 - 40 / height, "yref": "container", "yanchor": "top", "x": 0, "xanchor": "left"}
    )
    figure.update_annotations(x=0, xanchor="left", font_size=13)
    _set_axes(figure, histories, limits)
    return figure


def _set_axes(figure: go.Figure, histories: Histories, limits: Sequence[float] | None) -> None:
    """Gives all lanes the same axes, with room for every scale and limit."""
    bounds = [finite_log2(limit) for limit in (() if limits is None else limits)]
    low, high = domain_of([*bounds, *(level for history in histories.values() for level in levels_of(history))])
    places, labels = zip(*power_ticks(low, high), strict=True)
    below = 0.5 + 1.5 * _STRIP * (high - low + 1)
    figure.update_yaxes(range=[low - below, high + 0.5], tickvals=places, ticktext=labels, zeroline=False)
    longest = max(len(history.overflows) for history in histories.values())
    figure.update_xaxes(range=[0, longest + 0.6], zeroline=False).update_xaxes(title="step", row=len(histories), col=1)


def _lane_traces(history: ScaleHistory, color: str, limits: Sequence[float] | None) -> list[go.Scatter]:
    """Returns traces of the limits, of the scale, and of each kind of reaction."""
    levels = levels_of(history)
    end = len(history.overflows) + (0.0 if history.error else 0.5)
    traces = [_step_line(levels, end, {"color": color, "width": 2.5, "shape": "hv"})]
    if limits is not None:
        traces.insert(0, _step_line([finite_log2(limit) for limit in limits], float(len(limits)), _LIMIT))
    found = changes(history)
    for change in dict.fromkeys(change for _, change in found):
        steps = [step for step, other in found if other == change]
        moved = change in ("fell", "grew")  # at the end of the step
        traces.append(
            go.Scatter(
                x=[step + (1 if moved else 0.5) for step in steps],
                y=[levels[step + moved] for step in steps],
                customdata=steps,
                mode="markers",
                marker=_marker(change, color),
                hovertemplate=f"step %{{customdata}}: {LEGEND[change]}<extra></extra>",
                cliponaxis=False,
                showlegend=False,
            )
        )
    return traces


def _legend_traces(histories: Histories, limits: Sequence[float] | None) -> list[go.Scatter]:
    """Returns empty traces that explain the lanes in the legend."""
    seen = {change for history in histories.values() for _, change in changes(history)}
    nowhere = {"x": [None], "y": [None]}
    traces = [
        go.Scatter(**nowhere, mode="markers", marker=_marker(change, GREY), name=words)
        for change, words in LEGEND.items()
        if change in seen
    ]
    if limits is not None:
        traces.append(go.Scatter(**nowhere, mode="lines", line=_LIMIT, name="largest usable scale of the step"))
    return traces


def _marker(change: Change, color: str) -> dict[str, Any]:
    return {"symbol": _SYMBOLS[change], "size": 9, "color": color, "line": {"width": 1.5, "color": color}}


def _step_line(levels: Sequence[float | None], end: float, line: Mapping[str, object]) -> go.Scatter:
    """Returns a line that keeps each level for a step, and the last until `end`."""
    y = [*levels, levels[-1]] if levels else []
    names = ["" if level is None else power_of_two(2.0**level) for level in y]
    return go.Scatter(
        x=[*range(len(levels)), end],
        y=y,
        customdata=names,
        mode="lines",
        line=line,
        hovertemplate="step %{x}: %{customdata}<extra></extra>",
        showlegend=False,
    )
