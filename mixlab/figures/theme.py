"""One look for every figure, on light and dark pages."""

from __future__ import annotations

from html import escape
from textwrap import wrap
from typing import Any

import plotly.graph_objects as go

from mixlab.figures.chart import Chart
from mixlab.reports.colours import GREY, line_on

NOTHING = "rgba(0,0,0,0)"
_LONGEST, _LONGEST_SMALL = 66, 88  # characters of a title and of a line below it that fit into 600 pixels

# A legend below the figure, in the order in which things are stacked; and how an annotation points at something.
BELOW = {
    "orientation": "h",
    "y": -0.2,
    "yanchor": "top",
    "x": 0,
    "xanchor": "left",
    "traceorder": "normal",
    "itemwidth": 44,
}
ARROW = {"showarrow": True, "arrowcolor": GREY, "arrowwidth": 1.5, "arrowhead": 2}


def escaped(text: object) -> str:
    """Returns a name escaped for plotly, which then takes `<b>` and `%{x}` literally.

    >>> escaped("head.<lambda> %{y}")
    'head.&lt;lambda&gt; %&#123;y}'
    """
    return escape(str(text), quote=False).replace("%{", "%&#123;")


def tinted(colour: str, share: float = 0.25) -> str:
    """Returns a colour that lets through most of what is behind it, for an area whose edge is drawn in full.

    Args:
        colour: Such as "#4656FF".
        share: How much of the colour there is, from 0 to 1.

    >>> tinted("#4656FF")
    'rgba(70,86,255,0.25)'
    """
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},{share:g})"


def _in_lines(title: str) -> str:
    """Returns a title in lines that fit into a narrow page; tags stay whole."""
    lines = []
    for line in title.split("<br>"):
        small = line.removeprefix("<sub>").removesuffix("</sub>")
        if small == line:
            lines += wrap(line, _LONGEST, break_long_words=False)
        else:
            lines += [f"<sub>{part}</sub>" for part in wrap(small, _LONGEST_SMALL, break_long_words=False)]
    return "<br>".join(lines)


def hatched(colour: str, pattern: str, *, hollow: bool = False) -> dict[str, Any]:
    """Returns plotly's marker of a bar with a pattern on which the ink of its colour, `ink_on`, can be read.

    Args:
        colour: Colour of the bar.
        pattern: A pattern of plotly's, "" for none.
        hollow: Whether only the outline and the pattern are drawn.
    """
    lines = {"shape": pattern, "size": 7, "solidity": 0.25}
    if hollow:
        lines |= {"fgcolor": colour, "bgcolor": NOTHING}
        return {"color": NOTHING, "line": {"color": colour, "width": 1}, "pattern": lines}
    return {"color": colour, "pattern": {**lines, "fgcolor": line_on(colour), "fgopacity": 0.5}}


def styled(figure: go.Figure, *, title: str, summary: str, height: int = 360) -> Chart:
    """Returns a figure as a chart, with the look that all figures share.

    Args:
        figure: What is drawn.
        title: Title of the figure.
        summary: What it shows, computed from the data, in a sentence or two for those who do not see it.
        height: Its height in pixels.
    """
    chart, lines = Chart(figure), _in_lines(title)
    chart.update_layout(
        meta={"summary": escaped(summary)},
        title={
            "text": lines,
            "font": {"size": 16},
            "x": 0,
            "xanchor": "left",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"t": 28 if "<br>" in lines else 14},  # plotly puts the first of several lines higher
        },
        height=height,
        autosize=True,
        margin={"l": 60, "r": 20, "t": 60, "b": 50},
        paper_bgcolor=NOTHING,
        plot_bgcolor=NOTHING,
        font={"color": GREY, "size": 13},
        hovermode="x unified",
        hoverlabel={"bgcolor": "#111111", "bordercolor": GREY, "font": {"color": "white"}},
        modebar={"bgcolor": NOTHING, "color": GREY, "activecolor": GREY},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 1, "xanchor": "right", "itemwidth": 44},
    )
    chart.update_xaxes(gridcolor="rgba(140,140,140,0.25)", zerolinecolor="rgba(140,140,140,0.5)")
    chart.update_yaxes(gridcolor="rgba(140,140,140,0.25)", zerolinecolor="rgba(140,140,140,0.5)")
    return chart
