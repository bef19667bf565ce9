"""What autocast does to the ops of a forward pass: the formats of inputs, computation and outputs, op by op."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import plotly.graph_objects as go

from mixlab.emulation import CastTrace, TracedOp
from mixlab.figures.theme import escaped, styled
from mixlab.reports.colours import BLUE

_COLUMNS = ("inputs", "computed in", "output")
_WIDEST = 1  # the value of a cell in 32 bits or more; 0 for 16 bits


def cast_map(trace: CastTrace, *, title: str = "What autocast does to each op", most: int = 30) -> go.Figure:
    """Draws the ops in order as rows: the formats of their inputs, of their computation, and of their output.

    Blue cells have 32 bits, orange ones 16. The text in a cell names the format; the text to its right names the rule.

    Args:
        trace: From `cast_trace`.
        title: Title of the figure.
        most: The most rows. Of a longer trace, the first ops are drawn, and the title says how many there are.

    Raises:
        ValueError: If the trace is empty.
    """
    if not len(trace):
        raise ValueError("cast_map: the trace is empty; run a model with floating tensors through cast_trace")
    shown = list(trace.ops[:most])
    cells = [(_joined(op.inputs), op.computed, op.output) for op in shown]
    rows = [f"{number + 1}. {escaped(_name(op))}" for number, op in enumerate(shown)]
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
        rule = op.why.removeprefix("on no list: ")
        at = {"x": 1.01, "xref": "paper", "y": row, "xanchor": "left"}
        figure.add_annotation(text=rule, showarrow=False, font={"size": 11}, **at)
    left = len(trace) - len(shown)
    note = f"<br><sub>the first {len(shown)} of {len(trace)} ops</sub>" if left else ""
    figure = styled(figure, title=title + note, summary=_said(trace), height=130 + 24 * len(shown))
    figure.update_layout(hovermode="closest", margin={"l": 10, "r": 175, "t": 90, "b": 20})
    figure.update_yaxes(autorange="reversed", showgrid=False, automargin=True, tickfont={"size": 11})
    return figure.update_xaxes(side="top", showgrid=False, tickangle=0, tickfont={"size": 11})


def _said(trace: CastTrace) -> str:
    computed = Counter(op.computed for op in trace.ops)
    return f"Of {len(trace)} ops, {', '.join(f'{count} compute in {fmt}' for fmt, count in computed.most_common())}."


def _name(op: TracedOp) -> str:
    return f"{op.module} {op.op}" if op.module else op.op


def _joined(formats: Sequence[str]) -> str:
    return " + ".join(dict.fromkeys(formats))
