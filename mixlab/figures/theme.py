"""One look for every figure, on light and dark pages."""

from __future__ import annotations

from html import escape
from typing import Any

import plotly.graph_objects as go

from mixlab.figures.chart import Chart
from mixlab.reports.colours import GREY, line_on

NOTHING = "rgba(0,0,0,0)"

# A legend below the figure, in the order in which things are stacked; and how an annotation points at something.
BELOW = {"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0, "xanchor": "left", "traceorder": "normal"}
ARROW = {"showarrow": True, "arrowcolor": GREY, "arrowwidth": 1.5, "arrowhead": 2}


def escaped(text: object) -> str:
    """Returns a name escaped for plotly, which then takes `<b>` and `%{x}` literally.

    >>> escaped("head.<lambda> %{y}")
    'head.&lt;lambda&gt; %&#123;y}'
    """
    return escape(str(text), quote=False).replace("%{", "%&#123;")


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
    return {"color": colour, "pattern": {**lines, "fgcolor": line_on(colour), "fgopacity": 0.6}}


def styled(figure: go.Figure, *, title: str, summary: str, height: int = 360) -> Chart:
    """Returns a figure as a chart, with the look that all figures share.

    Args:
        figure: What is drawn.
        title: Title of the figure.
        summary: What it shows, computed from the data, in a sentence or two for those who do not see it.
        height: Its height in pixels.
    """
    chart = Chart(figure)
    chart.update_layout(
        meta={"summary": escaped(summary)},
        title={"text": title, "x": 0, "xanchor": "left"},
        height=height,
        autosize=True,
        margin={"l": 60, "r": 20, "t": 60, "b": 50},
        paper_bgcolor=NOTHING,
        plot_bgcolor=NOTHING,
        font={"color": GREY, "size": 13},
        hovermode="x unified",
        hoverlabel={"bgcolor": "#111111", "bordercolor": GREY, "font": {"color": "white"}},
        modebar={"bgcolor": NOTHING, "color": GREY, "activecolor": GREY},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 1, "xanchor": "right"},
    )
    chart.update_xaxes(gridcolor="rgba(140,140,140,0.25)", zerolinecolor="rgba(140,140,140,0.5)")
    chart.update_yaxes(gridcolor="rgba(140,140,140,0.25)", zerolinecolor="rgba(140,140,140,0.5)")
    return chart
