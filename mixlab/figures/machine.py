"""What a machine and its formats can do."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import plotly.graph_objects as go

from mixlab.figures.theme import styled
from mixlab.formats import Format
from mixlab.measure import MatmulSpeed
from mixlab.powers import power
from mixlab.reports.colours import BLUE, GREEN, GREY, ORANGE
from mixlab.reports.numbers import short_number


def matmul_speed_dots(speeds: Sequence[MatmulSpeed], machine: str) -> go.Figure:
    """Draws the speed of matrix products by format on a logarithmic axis: a dot at the median, a line over all speeds.

    Args:
        speeds: From `matmul_speeds`.
        machine: The machine on which they were measured, in one line.
    """
    figure = go.Figure(
        go.Scatter(
            x=[speed.gflops for speed in speeds],
            y=[f"{speed.format}: {speed.gflops:,.3g}" for speed in speeds],
            mode="markers",
            marker={"color": BLUE, "size": 13, "line": {"color": GREY, "width": 1}},
            error_x={
                "array": [speed.high - speed.gflops for speed in speeds],
                "arrayminus": [speed.gflops - speed.low for speed in speeds],
                "color": GREY,
                "thickness": 3,
                "width": 7,
            },
            hovertemplate="%{y} GFLOP/s<extra></extra>",
        )
    )
    size, device, count = speeds[0].size, speeds[0].device, speeds[0].count
    figure = styled(
        figure,
        title=f"Products of {size} × {size} matrices on {device}"
        f"<br><sub>median, and lowest to highest of {count}</sub><br><sub>{machine}</sub>",
        summary=f"{'; '.join(map(_said, speeds))}.",
        height=290,
    )
    figure.update_layout(hovermode="closest", margin_t=100).update_yaxes(autorange="reversed", automargin=True)
    ticks = _one_two_five(min(speed.low for speed in speeds), max(speed.high for speed in speeds))
    return figure.update_xaxes(
        type="log", title="GFLOP/s, logarithmic", tickvals=ticks, ticktext=[f"{tick:,g}" for tick in ticks]
    )


def format_limits(formats: Iterable[Format | str]) -> go.Figure:
    """Draws the range of each format on a log2 axis: subnormal values, normal values, and the numbers at both ends.

    Args:
        formats: The formats, one row each, from the top.
    """
    figure = go.Figure()
    shown = [Format.of(fmt) for fmt in formats]
    ends = [(fmt.smallest_subnormal, fmt.smallest_normal, fmt.max) for fmt in shown]
    for name, colour, pattern, low, high in (("subnormal", ORANGE, "/", 0, 1), ("normal", GREEN, "", 1, 2)):
        starts = np.log2([end[low] for end in ends])
        figure.add_bar(
            name=name,
            y=[fmt.name for fmt in shown],
            x=np.log2([end[high] for end in ends]) - starts,
            base=starts,
            orientation="h",
            marker={"color": colour, "pattern_shape": pattern},
            customdata=[f"{power(np.log2(end[low]))} to {power(np.log2(end[high]))}" for end in ends],
            hovertemplate=f"%{{y}} {name}: %{{customdata}}<extra></extra>",
        )
    for fmt, (smallest, _, largest) in zip(shown, ends, strict=True):
        for value, text, anchor, shift in (
            (smallest, f"{smallest:.2g}", "right", -2),
            (largest, short_number(largest), "left", 2),
        ):
            figure.add_annotation(
                x=np.log2(value), y=fmt.name, text=text, showarrow=False, xanchor=anchor, xshift=shift
            )
    figure = styled(figure, title="What each format can hold", summary=f"{'; '.join(map(_reach, shown))}.", height=340)
    figure.update_layout(barmode="overlay", hovermode="closest").update_yaxes(autorange="reversed", showgrid=False)
    ticks = list(range(-160, 161, 40))
    labels = [power(exponent) for exponent in ticks]
    return figure.update_xaxes(title="magnitude", range=[-200, 180], tickvals=ticks, ticktext=labels)


def _one_two_five(low: float, high: float) -> list[float]:
    """Returns the numbers 1, 2 and 5 times a power of ten from one below `low` to one above `high`, or the powers."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [step * 10.0**power for power in powers for step in ((1, 2, 5) if len(powers) <= 3 else (1,))]


def _said(speed: MatmulSpeed) -> str:
    return f"{speed.format} {speed.gflops:,.3g} GFLOP/s, from {speed.low:,.3g} to {speed.high:,.3g}"


def _reach(fmt: Format) -> str:
    return f"{fmt.name} from {fmt.smallest_subnormal:.2g}, subnormal below {fmt.smallest_normal:.2g}, to {fmt.max:.2g}"
