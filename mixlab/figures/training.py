"""Trainings side by side: their curves, what each lost layer by layer, and a table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mixlab.figures.theme import DASHES, SERIES, plain, styled
from mixlab.runs import final, first_non_finite
from mixlab.tables import html_table, text_table
from mixlab.trainer import StepRecord

Runs = Mapping[str, Sequence[StepRecord]]


def training_curves(runs: Runs) -> go.Figure:
    """Draws loss, loss scale and, where it was probed, the largest underflow of a layer over the steps of each run.

    The loss is a running mean over a twentieth of the run; where it stops being finite, its curve ends in a cross.
    Strokes on the curve of the scale mark skipped steps.
    """
    _require_runs(runs)
    probed = [worst for records in runs.values() if (worst := _largest_underflow(records)) is not None]
    titles = ["loss, running mean", "loss scale, log2", "underflow of the worst layer"][: 3 if probed else 2]
    figure = make_subplots(rows=len(titles), shared_xaxes=True, vertical_spacing=0.1, subplot_titles=titles)
    for index, (label, records) in enumerate(runs.items()):
        color, dash = series_style(index)
        line = {"color": color, "dash": dash, "width": 2}
        for row, trace in _traces(records, line):
            trace.update(name=plain(label), legendgroup=plain(label), showlegend=row == 1 and trace.mode == "lines")
            figure.add_trace(trace, row=row, col=1)
    figure = styled(figure, title="Trainings side by side", height=210 * len(titles))
    figure.update_layout(
        legend={"orientation": "v", "itemwidth": 50, "x": 1.02, "xanchor": "left", "y": 1, "yanchor": "top"}
    )
    figure.update_yaxes(tickprefix="2^", row=2, col=1)
    if probed:
        figure.update_yaxes(tickformat=".2~%", range=[0, 1.05 * max(0.01, *probed)], row=3, col=1)
    return figure.update_xaxes(title="step", row=len(titles), col=1)


def _traces(records: Sequence[StepRecord], line: Mapping[str, object]) -> Iterator[tuple[int, go.Scatter]]:
    """Yields (row, trace) for one run."""
    steps = [record.step for record in records]
    scales = _exponents(records)
    yield 1, go.Scatter(x=steps, y=_running_mean(records), mode="lines", line=line)
    yield 2, go.Scatter(x=steps, y=scales, mode="lines", line=line)
    if probed := [record for record in records if record.underflow]:
        worst = [max(record.underflow.values()) for record in probed]
        yield 3, go.Scatter(x=[record.step for record in probed], y=worst, mode="lines", line=line)
    if skipped := [index for index, record in enumerate(records) if record.skipped]:
        stroke = {"symbol": "line-ns-open", "size": 9, "color": line["color"]}
        places = {"x": [steps[index] for index in skipped], "y": [scales[index] for index in skipped]}
        yield 2, go.Scatter(**places, mode="markers", marker=stroke, hovertemplate="skipped")
    born = first_non_finite(records)
    if born is not None:
        last = records[max(born - 1, 0)]
        height = last.loss if math.isfinite(last.loss) else 1.0
        cross = {"symbol": "x", "size": 11, "color": line["color"]}
        words = diverged(records)
        yield (
            1,
            go.Scatter(
                x=[last.step],
                y=[height],
                mode="markers+text",
                text=[words],
                marker=cross,
                textposition="bottom right",
                cliponaxis=False,
            ),
        )


def underflow_map(records: Sequence[StepRecord], *, title: str) -> go.Figure:
    """Draws underflow by layer (rows) over the probed steps (columns), from 0 to 100 %."""
    probed = [record for record in records if record.underflow]
    if not probed:
        raise ValueError("underflow_map: no step of this run was probed; train with Trainer(..., probe_every=10)")
    layers = list(probed[0].underflow)
    figure = go.Figure(
        go.Heatmap(
            x=[record.step for record in probed],
            y=[plain(layer) for layer in layers],
            z=np.array([[record.underflow[layer] for record in probed] for layer in layers]),
            zmin=0,
            zmax=1,
            colorscale="Cividis",
            colorbar={"tickformat": ".0%"},
            hovertemplate="%{y}, step %{x}: %{z:.2%}<extra></extra>",
        )
    )
    figure = styled(figure, title=title, height=180 + 28 * len(layers)).update_layout(hovermode="closest")
    return figure.update_yaxes(autorange="reversed").update_xaxes(title="step")


def progress_line(records: Sequence[StepRecord], steps: int) -> str:
    """Says where a training stands, e.g. "step 120 of 300: loss 0.41, scale 2^14, 3 steps skipped, 85 steps/s"."""
    if not records:
        return f"step 0 of {steps}"
    last = records[-1]
    skipped = sum(record.skipped for record in records)
    recent = records[-20:]
    rate = len(recent) / max(sum(record.seconds for record in recent), 1e-9)
    scale = f", scale {power_of_two(last.scale)}" if last.scale != 1 else ""
    plural = "step" if skipped == 1 else "steps"
    lost = f", {skipped} {plural} skipped" if skipped else ""
    return f"step {last.step + 1} of {steps}: loss {last.loss:.3g}{scale}{lost}, {rate:.0f} steps/s"


def diverged(records: Sequence[StepRecord]) -> str:
    """Returns e.g. "NaN from step 1 on" if the loss is not finite at the end, else an empty text."""
    born = first_non_finite(records)
    if born is None:
        return ""
    return f"{'NaN' if math.isnan(records[born].loss) else records[born].loss} from step {records[born].step} on"


def series_style(index: int) -> tuple[str, str]:
    """Returns the (colour, dash) of a figure's n-th run, counted from 0; the first 36 are different."""
    turn, place = divmod(index, len(SERIES))
    return SERIES[place], DASHES[(place + turn) % len(DASHES)]


def power_of_two(value: float) -> str:
    """Returns "2^k" for a power of two, and the number itself for any other."""
    mantissa, exponent = math.frexp(value)
    return f"2^{exponent - 1}" if mantissa == 0.5 else f"{value:g}"


def curves(records: Sequence[StepRecord], *, points: int = 240) -> dict[str, Sequence[float | None]]:
    """Returns a run as short columns to draw: step, loss, accuracy, log2 of the scale, underflow.

    Runs longer than `points` are cut into at most as many pieces; of each piece, loss and accuracy are means, scale the
    last, and underflow the largest: that of the worst layer, and the mean over the layers. What is not finite, or was
    not measured, is None. The column "skipped" has one skipped step of every piece that has any.
    """
    pieces = in_pieces(records, points)
    return {
        "step": [piece[-1].step for piece in pieces],
        "loss": [finite_mean([record.loss for record in piece]) for piece in pieces],
        "accuracy": [finite_mean([record.accuracy for record in piece]) for piece in pieces],
        "scale": _exponents([piece[-1] for piece in pieces]),
        "underflow": [_largest_underflow(piece) for piece in pieces],
        "mean_underflow": [_largest_mean_underflow(piece) for piece in pieces],
        "skipped": [first for piece in pieces if (first := _first_skipped(piece)) is not None],
    }


T = TypeVar("T")


def in_pieces(items: Sequence[T], most: int) -> list[Sequence[T]]:
    """Cuts a sequence into at most `most` pieces of one length, the last one shorter."""
    size = max(1, math.ceil(len(items) / most))
    return [items[start : start + size] for start in range(0, len(items), size)]


def finite_mean(values: Sequence[float]) -> float | None:
    """Returns the mean, None if it is not finite."""
    mean = sum(values) / len(values)
    return mean if math.isfinite(mean) else None


class ComparisonTable:
    """Runs in rows: loss and accuracy at the end, skipped steps, largest underflow, time a step."""

    columns = ("run", "loss", "accuracy", "skipped", "largest underflow", "ms/step")

    def __init__(self, runs: Runs) -> None:
        _require_runs(runs)
        self.rows = [_row(label, records) for label, records in runs.items()]

    def __repr__(self) -> str:
        return text_table(self.columns, self.rows)

    def _repr_html_(self) -> str:
        return html_table(self.columns, self.rows)


def _row(label: str, records: Sequence[StepRecord]) -> tuple[str, ...]:
    loss, accuracy = final(records)
    born = first_non_finite(records)
    lost = [max(record.underflow.values()) for record in records if record.underflow]
    return (
        label,
        f"{loss:.3g}" if born is None else f"{records[born].loss} from step {records[born].step}",
        f"{accuracy:.1%}",
        f"{sum(record.skipped for record in records)} of {len(records)}",
        f"{max(lost):.2%}" if lost else "not probed",
        f"{1e3 * float(np.median([record.seconds for record in records])):.1f}",
    )


def _largest_underflow(records: Sequence[StepRecord]) -> float | None:
    return max((max(record.underflow.values()) for record in records if record.underflow), default=None)


def _largest_mean_underflow(records: Sequence[StepRecord]) -> float | None:
    means = (sum(record.underflow.values()) / len(record.underflow) for record in records if record.underflow)
    return max(means, default=None)


def _first_skipped(records: Sequence[StepRecord]) -> int | None:
    return next((record.step for record in records if record.skipped), None)


def _exponents(records: Sequence[StepRecord]) -> list[float | None]:
    """Returns log2 of each scale; None for 0 and inf, where a scaler without bounds may end."""
    return [math.log2(record.scale) if 0 < record.scale < math.inf else None for record in records]


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


def _require_runs(runs: Runs) -> None:
    empty = [label for label, records in runs.items() if not records]
    if not runs or empty:
        raise ValueError(f"no steps to show{': ' + ', '.join(empty) if empty else ''}; train the run first")
