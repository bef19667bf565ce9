"""What autocast does to the ops of a forward pass, as a picture: formats in, within and out, op by op."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from mixlab.emulation import CastTrace, TracedOp
from mixlab.figures.theme import plain, styled
from mixlab.reports import BLUE

_COLUMNS = ("given", "computed in", "handed on")
_WIDEST = 1  # the value of a cell in 32 bits or more; 0 for 16 bits


def cast_map(trace: CastTrace, *, title: str = "What autocast does to each op", most: int = 30) -> go.Figure:
    """Draws the ops in order as rows, with the formats that they were given, computed in and handed on.

    Blue cells hold 32 bits, orange ones 16; the text in a cell names the format, that at its right the rule.

    Args:
        trace: As `cast_trace` returns it.
        title: Above the figure.
        most: Rows at most; of a model with more ops the first are drawn, and the last row says how many follow.
    """
    if not len(trace):
        raise ValueError("cast_map: the trace is empty; run a model with floating tensors through cast_trace")
    shown = list(trace.ops[:most])
    cells = [(_joined(op.inputs), op.computed, op.output) for op in shown]
    rows = [f"{number + 1}. {plain(_name(op))}" for number, op in enumerate(shown)]
    figure = go.Figure(
        go.Heatmap(
            x=_COLUMNS,
            y=rows,
            z=[[_WIDEST if "32" in cell or "64" in cell else 0 for cell in row] for row in cells],
            text=cells,
            texttemplate="%{text}",
            textfont={"color": "white"},
            zmin=0,
            zmax=1,
            colorscale=[[0, "#A65E00"], [1, BLUE]],
            showscale=False,
            xgap=3,
            ygap=2,
            hovertemplate="%{y}<br>%{x}: %{text}<extra></extra>",
        )
    )
    for row, op in zip(rows, shown, strict=True):
        figure.add_annotation(
            x=1.01,
            xref="paper",
            y=row,
            text=op.why.removeprefix("on no list: "),
            showarrow=False,
            xanchor="left",
            font={"size": 11},
        )
    left = len(trace) - len(shown)
    note = f"<br><sub>the first {len(shown)} of {len(trace)} ops</sub>" if left else ""
    figure = styled(figure, title=title + note, height=130 + 24 * len(shown))
    figure.update_layout(hovermode="closest", margin={"l": 10, "r": 175, "t": 90, "b": 20})
    figure.update_yaxes(autorange="reversed", showgrid=False, automargin=True, tickfont={"size": 11})
    return figure.update_xaxes(side="top", showgrid=False, tickangle=0, tickfont={"size": 11})


def _name(op: TracedOp) -> str:
    return f"{op.module} {op.op}" if op.module else op.op


def _joined(formats: Sequence[str]) -> str:
    return " + ".join(dict.fromkeys(formats))
