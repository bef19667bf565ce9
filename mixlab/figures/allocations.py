"""The memory of one traced step, allocation by allocation."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from mixlab.figures.theme import ARROW, BELOW, hatched, styled
from mixlab.memory import Trace
from mixlab.reports.colours import GREY
from mixlab.reports.kinds import look, stacked


def timeline(trace: Trace, *, points: int = 400) -> go.Figure:
    """Draws the live bytes over one step by category, allocation by allocation; phases and the peak are marked.

    Args:
        trace: From `mixlab.memory.trace`.
        points: The most points to draw along the step; each is the highest of a stretch of allocations and frees.
    """
    columns = trace.timeline(points)
    place = columns.pop("place")
    scale, unit = _unit(trace.peak_bytes)
    figure = go.Figure()
    for category in stacked(columns, over_time=True):
        seen = look(category)
        figure.add_scatter(
            name=category,
            x=place,
            y=columns[category] / scale,
            stackgroup="bytes",
            mode="lines",
            line={"width": 0, "color": seen.colour},
            fillcolor=seen.colour,
            fillpattern=hatched(seen.colour, seen.pattern)["pattern"],
            hovertemplate=f"{category}: %{{y:,.2f}} {unit}<extra></extra>",
        )
    first = trace.spans[0].first
    for phase, begin, end in trace.spans:
        figure.add_vline(x=begin - first, line={"color": GREY, "width": 1, "dash": "dot"})
        middle = {"x": (begin + end) / 2 - first, "y": 1, "yref": "paper", "yanchor": "bottom"}
        figure.add_annotation(text=f"<b>{phase}</b>", showarrow=False, **middle)
    total = np.sum(list(columns.values()), axis=0)
    top = int(np.argmax(total))
    _point_at_peak(figure, trace, float(place[top]), float(total[top]) / scale)
    on = "a GPU" if trace.as_on == "cuda" else "a CPU"
    said = f"{trace.recipe} on {trace.numel:,} parameters, traced as on {on} without running; no workspaces"
    title = f"One training step: what is alive, allocation by allocation<br><sub>{said}</sub>"
    figure = styled(figure, title=title, summary=_said(trace), height=470)
    figure.update_layout(margin={"t": 95, "b": 120, "r": 30}, legend=BELOW)
    figure.update_yaxes(title=unit, range=[0, 1.35 * float(total[top]) / scale])
    last = trace.spans[-1].last - first
    return figure.update_xaxes(title="allocations and frees, in their order", showgrid=False, range=[0, last])


def _point_at_peak(figure: go.Figure, trace: Trace, x: float, y: float) -> None:
    """Names the three largest categories at the peak."""
    scale, unit = _unit(trace.peak_bytes)
    late = x > (trace.spans[-1].last - trace.spans[0].first) / 2
    figure.add_annotation(
        x=x,
        y=y,
        text=f"<b>peak {trace.peak_bytes / scale:,.2f} {unit}, in {trace.peak_phase}</b><br>{_largest(trace)}",
        ax=-40 if late else 40,
        ay=-30,
        xanchor="right" if late else "left",
        align="right" if late else "left",
        **ARROW,
    )


def _largest(trace: Trace) -> str:
    """Returns the three largest categories at the peak, with their sizes in its unit."""
    scale, _ = _unit(trace.peak_bytes)
    largest = sorted(trace.at_peak.items(), key=lambda item: -item[1])[:3]
    return ", ".join(f"{name} {size / scale:,.2f}" for name, size in largest)


def _said(trace: Trace) -> str:
    scale, unit = _unit(trace.peak_bytes)
    return f"The live bytes peak in {trace.peak_phase}, at {trace.peak_bytes / scale:,.2f} {unit}: {_largest(trace)}."


def _unit(size: int) -> tuple[int, str]:
    """Returns the largest unit in which a size is at least 1."""
    return next(((n, name) for n, name in ((2**30, "GiB"), (2**20, "MiB")) if size >= n), (2**10, "KiB"))
