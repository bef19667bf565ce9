"""Dtype ledgers side by side: bytes by kind of tensor and format."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go

from mixlab.experiments import Ledger
from mixlab.figures.theme import escaped, hatched, styled
from mixlab.reports.kinds import look, stacked


def ledger_bars(ledgers: Mapping[str, Ledger], *, whole: bool = False) -> go.Figure:
    """Draws one bar per ledger: bytes per parameter by kind, labelled with the format.

    Args:
        ledgers: Ledgers of one model, by label.
        whole: Whether to add the tensors that live only until backward uses them: casts and activations.

    Raises:
        ValueError: If there are no ledgers.
    """
    if not ledgers:
        raise ValueError("ledger_bars: no ledgers; dtype_ledger(task, recipe) makes one")
    figure = go.Figure()
    seen = {entry.what for ledger in ledgers.values() for entry in (ledger.entries if whole else ledger.states)}
    for what in stacked(seen):
        sizes = [ledger.bytes_of(what) / ledger.numel for ledger in ledgers.values()]
        figure.add_bar(
            name=what,
            x=sizes,
            y=[escaped(label) for label in ledgers],
            orientation="h",
            marker=hatched(look(what).colour, look(what).pattern),
            text=[ledger.format_of(what) if size else "" for ledger, size in zip(ledgers.values(), sizes, strict=True)],
            textposition="inside",
            insidetextanchor="middle",
            insidetextfont={"color": look(what).ink},
            textangle=0,
            hovertemplate="%{y}, " + what + ": %{x:.3g} bytes per parameter (%{text})<extra></extra>",
        )
    for label, ledger in ledgers.items():
        total = ledger.bytes / ledger.numel if whole else ledger.bytes_per_parameter
        words = f"<b>{total:.3g}</b>{'' if ledger.stepped else ', no step taken'}"
        figure.add_annotation(x=total, y=escaped(label), text=words, showarrow=False, xanchor="left", xshift=4)
    first = next(iter(ledgers.values()))
    kept = "all that is kept at the end of forward" if whole else "parameters, gradients and optimizer states"
    title = f"Bytes per parameter: {kept}<br><sub>{first.task}, {first.numel:,} parameters, counted as stored</sub>"
    summary = f"{'; '.join(_said(label, ledger, whole) for label, ledger in ledgers.items())}."
    figure = styled(figure, title=title, summary=summary, height=230 + 32 * len(ledgers))
    figure.update_layout(
        barmode="stack",
        hovermode="closest",
        margin={"t": 95, "b": 90},
        legend={"y": -0.12, "yanchor": "top", "x": 0, "xanchor": "left", "traceorder": "normal"},
    )
    return figure.update_yaxes(autorange="reversed", automargin=True).update_xaxes(title="", side="top", showgrid=False)


def _said(label: str, ledger: Ledger, whole: bool) -> str:
    kinds = stacked(entry.what for entry in (ledger.entries if whole else ledger.states))
    parts = (f"{kind} {ledger.bytes_of(kind) / ledger.numel:.3g} in {ledger.format_of(kind)}" for kind in kinds)
    return f"{label}: {', '.join(parts)}"
