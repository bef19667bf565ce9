"""What a training loses with moments or weights in fewer bits, from a record of `mixlab measure states`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mixlab.experiments import GridSetting, weight_settings
from mixlab.figures.theme import styled
from mixlab.formats import FP32
from mixlab.measure import Record
from mixlab.optimizers import StateRounding
from mixlab.recipes import STATES, Recipe, StateName
from mixlab.reports.colours import GREY, ink_on

# From pale blue over orange to dark red, ever darker, so that it also reads in grey; steep at first, because 1.2 times
# the loss should show. A loss that is no worse than in fp32 is palest.
_SCALE = ((0.0, "#DCEAF4"), (0.05, "#FBE3B5"), (0.2, "#F3B04E"), (0.5, "#D55E00"), (1.0, "#4D1204"))
_WORST = 10.0  # the ratio at the dark end
_ROUNDINGS: tuple[StateRounding, ...] = ("nearest_even", "stochastic")
_WEIGHTS = ("fp32", "bf16,<br>nearest", "bf16,<br>stochastic", "bf16,<br>Kahan sum", "bf16,<br>fp32 master")


@dataclass(frozen=True)
class _Cell:
    """A setting's training loss at its end, divided by fp32's with the same seed: median, lowest and highest."""

    ratio: float
    text: str
    hover: str


def moment_map(record: Record, *, spike: bool = True) -> go.Figure:
    """Draws the training loss at the end for every pair of moment formats, as a multiple of fp32's, seed by seed.

    The upper map rounds to nearest, the lower one stochastically. Rows are formats of m, columns formats of v. A cell
    holds the median over the seeds and, below it, the lowest and the highest; darker is worse; diverged runs are
    counted. Formats that the record lacks have no row or column.

    Args:
        record: From `mixlab measure states`.
        spike: Whether to show the runs in which one gradient was multiplied by 1000.

    Raises:
        ValueError: If the record lacks a run with both moments in fp32, or such a run diverged.
    """
    settings = {
        (m, v, rounding): _moments(m, v, rounding, spike) for m in STATES for v in STATES for rounding in _ROUNDINGS
    }
    known = {key for key, setting in settings.items() if _is_recorded(record, setting)}
    m_formats, v_formats = ([state for state in STATES if state in {key[i] for key in known}] for i in (0, 1))
    base = _base(record, GridSetting(Recipe(), spike=spike))
    titles = ["moments rounded to nearest", "moments rounded stochastically"]
    high = 2 * len(m_formats) + 2  # cells, with what stands between the maps
    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=1.82 / high, subplot_titles=titles)
    for place, rounding in enumerate(_ROUNDINGS, start=1):
        rows = [[_cell(record, settings[m, v, rounding], base) for v in v_formats] for m in m_formats]
        figure.add_trace(_heat(rows, list(map(str, v_formats)), list(map(str, m_formats))), row=place, col=1)
    after = ", after a gradient spike" if spike else ", without a gradient spike"
    spiked = f", gradients × 1000 at step {record.parameters['spike at step']}" if spike else ""
    figure = _finished(figure, f"Training loss as a multiple of fp32's{after}", record, spiked, rows=high)
    figure.update_xaxes(title="second moment v", showticklabels=True)
    return figure.update_yaxes(title="first moment m")


def weight_map(record: Record) -> go.Figure:
    """Draws the training loss at the end of five ways to store weights, at two learning rates, as a multiple of fp32's.

    Args:
        record: From `mixlab measure states`.

    Raises:
        ValueError: If the record lacks a run in fp32 without a spike, or such a run diverged.
    """
    settings = weight_settings()
    rates = sorted({setting.lr for setting in settings})
    rows = [
        [
            _cell(record, setting, _base(record, GridSetting(Recipe(), setting.lr, spike=False)))
            for setting in settings
            if setting.lr == rate
        ]
        for rate in rates
    ]
    figure = go.Figure(_heat(rows, list(_WEIGHTS), [f"lr {rate:g}" for rate in rates]))
    title = "Training loss by the weights' storage, as a multiple of fp32's"
    return _finished(figure, title, record, rows=len(rates)).update_xaxes(title="weights, with fp32 moments")


def _moments(m: StateName, v: StateName, rounding: StateRounding, spike: bool) -> GridSetting:
    rounded = {m, v} != {FP32}
    recipe = Recipe(exp_avg=m, exp_avg_sq=v, state_rounding=rounding if rounded else "nearest_even")
    return GridSetting(recipe, spike=spike)


def _losses(record: Record, setting: GridSetting) -> tuple[float, ...]:
    name = f"{setting}, loss"
    return next((series.samples for series in record.series if series.name == name), ())


def _diverged(record: Record, setting: GridSetting) -> str:
    """Returns words such as "2 of 5 runs", or "" if all runs stayed finite."""
    return str(record.parameters.get(str(setting), "")).removeprefix("diverged: ")


def _is_recorded(record: Record, setting: GridSetting) -> bool:
    return bool(_losses(record, setting) or _diverged(record, setting))


def _base(record: Record, setting: GridSetting) -> tuple[float, ...]:
    losses = _losses(record, setting)
    if not losses or _diverged(record, setting):
        raise ValueError(
            f"the record has no loss of {setting!s} in every seed to compare with; mixlab measure states makes one"
        )
    return losses


def _cell(record: Record, setting: GridSetting, base: Sequence[float]) -> _Cell:
    diverged = _diverged(record, setting)
    if diverged:
        words = f"{setting}: {diverged} diverged"
        return _Cell(math.inf, f"<b>NaN</b><br>{_small(diverged.removesuffix(' runs'))}", words)
    losses = _losses(record, setting)
    if not losses:
        return _Cell(math.nan, "", f"{setting}: not recorded")
    ratios = [loss / other for loss, other in zip(losses, base, strict=True)]
    middle, low, high = (_short(number) for number in (float(np.median(ratios)), min(ratios), max(ratios)))
    words = f"{setting}: loss {np.median(losses):.3g}, {low} to {high} times fp32's, {len(losses)} seeds"
    return _Cell(float(np.median(ratios)), f"<b>{middle}</b><br>{_small(f'{low}–{high}')}", words)


def _short(ratio: float) -> str:
    """Returns a ratio in at most five characters."""
    if ratio < 9999.5:
        return f"{ratio:.2f}" if ratio < 9.995 else f"{ratio:.0f}"
    digit, _, exponent = f"{ratio:.0e}".partition("e")
    return f"{digit}e{int(exponent)}"


def _small(text: str) -> str:
    return f'<span style="font-size:11px">{text}</span>'


def _ink(shade: float | None) -> str:
    """Returns the ink that reads best on the colour of a cell."""
    place = (shade or 0.0) / math.log(_WORST)
    (low, below), (high, above) = next(pair for pair in pairwise(_SCALE) if place <= pair[1][0])
    share = (place - low) / (high - low)
    parts = (round((1 - share) * int(below[at : at + 2], 16) + share * int(above[at : at + 2], 16)) for at in (1, 3, 5))
    return ink_on("#" + "".join(f"{part:02X}" for part in parts))


def _heat(rows: Sequence[Sequence[_Cell]], columns: Sequence[str], labels: Sequence[str]) -> go.Heatmap:
    def shade(cell: _Cell) -> float | None:
        return None if math.isnan(cell.ratio) else math.log(min(max(cell.ratio, 1.0), _WORST))

    def inked(cell: _Cell) -> str:
        return f'<span style="color:{_ink(shade(cell))}">{cell.text}</span>' if cell.text else ""

    return go.Heatmap(
        z=[[shade(cell) for cell in row] for row in rows],
        x=list(columns),
        y=list(labels),
        text=[[inked(cell) for cell in row] for row in rows],
        texttemplate="%{text}",
        textfont={"size": 11},
        customdata=[[cell.hover for cell in row] for row in rows],
        hovertemplate="%{customdata}<extra></extra>",
        zmin=0,
        zmax=math.log(_WORST),
        colorscale=_SCALE,
        showscale=False,
        xgap=1,
        ygap=1,
    )


def _said(figure: go.Figure) -> str:
    """Says of each map how many runs diverged, and which of the other settings is worst."""
    names = [f"{note.text}: " for note in figure.layout.annotations] or [""]
    return " ".join(name + _spread(heat) for name, heat in zip(names, figure.data, strict=True))


def _spread(heat: go.Heatmap) -> str:
    cells = [cell for row in zip(heat.z, heat.customdata, strict=True) for cell in zip(*row, strict=True)]
    recorded = [(shade, text) for shade, text in cells if shade is not None]
    finite = [(shade, text) for shade, text in recorded if not text.endswith("diverged")]
    words = f"{len(recorded)} settings, {len(recorded) - len(finite) or 'none'} with diverged runs"
    return f"{words}; the worst without is {max(finite)[1]}." if finite else f"{words}."


def _finished(figure: go.Figure, title: str, record: Record, more: str = "", *, rows: int) -> go.Figure:
    """Styles the figure, and writes below it where the numbers come from, in lines that fit into 600 pixels."""
    runs = f"{record.parameters['seeds']} seeds, {record.parameters['steps']} steps each{more}"
    words = "in a cell: the median over the seeds, below it the lowest–highest; losses at the end of training"
    figure = styled(figure, title=title, summary=_said(figure), height=230 + 44 * rows)
    figure.update_layout(hovermode="closest", margin={"t": 85, "b": 160, "l": 90, "r": 15}, font={"color": GREY})
    figure.add_annotation(
        text=f"{words}<br>{runs}<br>{record.summary}",
        font={"size": 11},
        align="left",
        showarrow=False,
        xref="paper",
        yref="paper",
        x=0,
        y=0,
        xanchor="left",
        yanchor="top",
        xshift=-85,
        yshift=-80,
    )
    return figure.update_yaxes(autorange="reversed", showgrid=False).update_xaxes(
        showgrid=False, tickfont={"size": 12}, tickangle=0, title={"standoff": 12}
    )
