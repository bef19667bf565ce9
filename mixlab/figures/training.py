"""Trainings side by side: their curves, and the underflow of each layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mixlab.figures.theme import BELOW, escaped, styled
from mixlab.powers import power_of_two
from mixlab.reports import diverged
from mixlab.reports.colours import GREY
from mixlab.reports.columns import exponents, largest_underflow, series_style
from mixlab.reports.loss_scaling import domain_of, power_ticks
from mixlab.reports.training import Runs, require_runs
from mixlab.training import StepRecord, first_non_finite

_TOP = 65
_Row = Literal["loss", "scale", "underflow"]


def training_curves(runs: Runs) -> go.Figure:
    """Draws loss, loss scale and the underflow of the worst layer over the steps of each run.

    What no run has is left out: the scale if it is 1 in every step, the underflow if nothing was probed.
    The loss is a running mean over a twentieth of the run. Where it stops being finite, its curve ends in a cross, and
    the legend says where. Strokes on the curve of the scale mark skipped steps.

    Args:
        runs: The records of each run, by label.

    Raises:
        ValueError: If there are no runs, or one has no steps.
    """
    require_runs(runs)
    probed = [worst for records in runs.values() if (worst := largest_underflow(records)) is not None]
    rows = _rows(scaled=any(record.scale != 1 for records in runs.values() for record in records), probed=bool(probed))
    figure = make_subplots(rows=len(rows), shared_xaxes=True, vertical_spacing=0.1, subplot_titles=list(rows.values()))
    for index, (label, records) in enumerate(runs.items()):
        color, dash = series_style(index)
        line = {"color": color, "dash": dash, "width": 2}
        for row, trace in _traces(records, line):
            if row not in rows:
                continue
            shown = row == "loss" and trace.mode != "markers"
            ended = diverged(records)
            name = escaped(label) + (f": {ended}" if ended and shown else "")
            trace.update(name=name, legendgroup=escaped(label), showlegend=shown)
            figure.add_trace(trace, row=list(rows).index(row) + 1, col=1)
    below = 90 + 21 * math.ceil(len(runs) / 2)  # the legend has two runs a line on a narrow page
    figure = styled(figure, title="Trainings side by side", summary=_said(runs), height=_TOP + 160 * len(rows) + below)
    figure.update_layout(margin={"t": _TOP, "b": below}, legend={**BELOW, "y": -55 / (160 * len(rows))})
    if "scale" in rows:
        low, high = domain_of(level for records in runs.values() for level in exponents(records))
        places, labels = zip(*power_ticks(low, high, most=6), strict=True)
        figure.update_yaxes(range=[low - 0.5, high + 0.5], tickvals=places, ticktext=labels, row=2, col=1)
    if probed:
        figure.update_yaxes(tickformat=".2~%", range=[0, 1.05 * max(0.01, *probed)], row=len(rows), col=1)
    return figure.update_xaxes(title="step", row=len(rows), col=1)


def _said(runs: Runs) -> str:
    """Says how each run ends, how often it skipped a step, and how much underflowed at most."""
    each = []
    for label, records in runs.items():
        ended = diverged(records)
        words = [f"is {ended}" if ended else f"ends at loss {records[-1].loss:.3g}"]
        skipped, worst = sum(record.skipped for record in records), largest_underflow(records)
        words += [f"skips {skipped} of {len(records)} steps"] if skipped else []
        words += [f"its worst layer loses {worst:.2%} to underflow"] if worst else []
        each.append(f"{label} {', '.join(words)}")
    steps = max(map(len, runs.values()))
    return f"{len(runs)} run{'s' * (len(runs) > 1)} over {steps} step{'s' * (steps > 1)}: {'; '.join(each)}."


def _rows(*, scaled: bool, probed: bool) -> dict[_Row, str]:
    """Returns the rows that some run has something for, with their titles."""
    titles: dict[_Row, str] = {"loss": "loss, running mean"}
    titles |= {"scale": "loss scale"} if scaled else {}
    return titles | ({"underflow": "underflow of the worst layer"} if probed else {})


def _traces(records: Sequence[StepRecord], line: Mapping[str, object]) -> Iterator[tuple[_Row, go.Scatter]]:
    """Yields (row, trace) for one run."""
    steps = [record.step for record in records]
    scales = exponents(records)
    mode = "lines" if len(records) > 1 else "lines+markers"
    yield "loss", go.Scatter(x=steps, y=_running_mean(records), mode=mode, line=line)
    names = [power_of_two(record.scale) for record in records]
    yield (
        "scale",
        go.Scatter(x=steps, y=scales, mode=mode, line=line, customdata=names, hovertemplate="scale %{customdata}"),
    )
    if probed := [record for record in records if record.underflow]:
        worst = [max(record.underflow.values()) for record in probed]
        mode = "lines" if len(probed) > 1 else "lines+markers"
        yield "underflow", go.Scatter(x=[record.step for record in probed], y=worst, mode=mode, line=line)
    if skipped := [index for index, record in enumerate(records) if record.skipped]:
        stroke = {"symbol": "line-ns-open", "size": 9, "color": line["color"]}
        places = {"x": [steps[index] for index in skipped], "y": [scales[index] for index in skipped]}
        yield "scale", go.Scatter(**places, mode="markers", marker=stroke, hovertemplate="skipped")
    born = first_non_finite(records)
    if born is not None:
        last = records[max(born - 1, 0)]
        height = last.loss if math.isfinite(last.loss) else 1.0
        cross = {"symbol": "x", "size": 11, "color": line["color"]}
        place = {"x": [last.step], "y": [height], "cliponaxis": False}
        yield "loss", go.Scatter(**place, mode="markers", marker=cross, hovertemplate=diverged(records))


def underflow_map(records: Sequence[StepRecord], *, title: str) -> go.Figure:
    """Draws underflow by layer (rows) over the probed steps (columns), from 0 to 100 %.

    Args:
        records: The run's records, step by step.
        title: Title of the figure.

    Raises:
        ValueError: If no step was probed.
    """
    probed = [record for record in records if record.underflow]
    if not probed:
        raise ValueError("underflow_map: no step of this run was probed; train with Trainer(..., probe_every=10)")
    layers = list(probed[0].underflow)
    figure = go.Figure(
        go.Heatmap(
            x=[record.step for record in probed],
            y=[escaped(layer) for layer in layers],
            z=np.array([[record.underflow[layer] for record in probed] for layer in layers]),
            zmin=0,
            zmax=1,
            colorscale="Cividis",
            colorbar={"tickformat": ".0%", "outlinecolor": GREY},
            hovertemplate="%{y}, step %{x}: %{z:.2%}<extra></extra>",
        )
    )
    worst = {layer: max(record.underflow[layer] for record in probed) for layer in layers}
    words = ", ".join(f"{layer} {share:.2%}" for layer, share in worst.items())
    summary = f"The largest underflow of each layer, over {len(probed)} probed steps: {words}."
    figure = styled(figure, title=title, summary=summary, height=180 + 28 * len(layers))
    figure.update_layout(hovermode="closest")
    frame = {"showline": True, "linecolor": GREY, "mirror": True}  # the lowest colour is as dark as a dark page
    return figure.update_yaxes(autorange="reversed", **frame).update_xaxes(title="step", **frame)


def _running_mean(records: Sequence[StepRecord]) -> list[float | None]:
    """Returns the mean of the finite losses in a window that ends at each step; None where the loss is not finite."""
    window = max(1, len(records) // 20)
    losses = np.array([record.loss for record in records], dtype=np.float64)
    finite = np.isfinite(losses)
    means: list[float | None] = []
    for end in range(1, len(losses) + 1):
        part = slice(max(0, end - window), end)
        means.append(float(losses[part].mean(where=finite[part])) if finite[end - 1] else None)
    return means
