"""One look for every figure, on light and dark pages."""

from __future__ import annotations

from html import escape

import plotly.graph_objects as go

from mixlab.reports.colours import GREY

# A legend below the figure, in the order in which things are stacked; and how an annotation points at something.
BELOW = {"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0, "xanchor": "left", "traceorder": "normal"}
ARROW = {"showarrow": True, "arrowcolor": GREY, "arrowwidth": 1.5, "arrowhead": 2}


def escaped(text: object) -> str:
    """Returns a name escaped for plotly, which then takes `<b>` and `%{x}` literally.

    >>> escaped("head.<lambda> %{y}")
    'head.&lt;lambda&gt; %&#123;y}'
    """
    return escape(str(text), quote=False).replace("%{", "%&#123;")


def styled(figure: go.Figure, *, title: str, height: int = 360) -> go.Figure:
    """Sets the look that all figures share; returns the same figure."""
    return (
        figure.update_layout(
            title={"text": title, "x": 0, "xanchor": "left"},
            height=height,
            autosize=True,
            margin={"l": 60, "r": 20, "t": 60, "b": 50},
            paper_bgcolor="rgba(0,0,0,0)",
            plot_bgcolor="rgba(0,0,0,0)",
            font={"color": GREY, "size": 13},
            hovermode="x unified",
            legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 1, "xanchor": "right"},
        )
        .update_xaxes(gridcolor="rgba(140,140,140,0.25)", zerolinecolor="rgba(140,140,140,0.5)")
        .update_yaxes(gridcolor="rgba(140,140,140,0.25)", zerolinecolor="rgba(140,140,140,0.5)")
    )
