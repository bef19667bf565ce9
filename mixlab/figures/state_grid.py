"""What a training loses with moments or weights in fewer bits, as maps of a record of `mixlab measure states`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mixlab.figures.theme import GREY, styled
from mixlab.recipes import STATES, Recipe
from mixlab.records import Record
from mixlab.state_grid import Setting, weight_settings

# From white over orange to dark red; light to dark in grey too. What is not worse than fp32 is as good as white.
_SCALE = [[0.0, "#FFFFFF"], [0.25, "#FDD9A0"], [0.5, "#F0963C"], [0.75, "#C23B22"], [1.0, "#5E0F13"]]
_WORST = 30.0  # the ratio at the dark end
_WEIGHTS = ("fp32", "bf16, nearest", "bf16, stochastic", "bf16, Kahan sum", "bf16, fp32 master")


@dataclass(frozen=True)
class _Cell:
    """A setting's final loss over that of fp32 with the same seed: the median, the lowest, the highest."""

    ratio: float
    text: str
    hover: str


def moment_map(record: Record, *, spike: bool = True) -> go.Figure:
    """Draws the final loss of every pair of moment formats, as a multiple of that with both in fp32, seed by seed.

    Left: rounded to nearest, right: stochastically. Rows are formats of m, columns of v. A cell says the median over
    the seeds, and below it the lowest and highest; a darker cell is worse; runs that diverged are counted.

    Args:
        record: Of `mixlab measure states`.
        spike: Whether a gradient was multiplied by 1000.

    Raises:
        ValueError: The record has no run with both moments in fp32.
    """
    names = [str(state) for state in STATES]
    figure = make_subplots(
        cols=2,
        shared_yaxes=True,
        horizontal_spacing=0.03,
        subplot_titles=["moments rounded to nearest", "rounded stochastically"],
    )
    base = _losses(record, Setting(Recipe(), spike=spike))
    for column, rounding in enumerate(("nearest", "stochastic"), start=1):
        rows = [[_cell(record, _moments(m, v, rounding, spike), base) for v in STATES] for m in STATES]
        figure.add_trace(_heat(rows, names, names), row=1, col=column)
    after = ", after a gradient × 1000" if spike else ""
    title = f"Final loss, as a multiple of fp32's{after}<br><sub>{_summary(record)}</sub>"
    figure = _finished(figure, title, height=470)
    figure.update_xaxes(title="second moment v")
    return figure.update_yaxes(title="first moment m", row=1, col=1)


def weight_map(record: Record) -> go.Figure:
    """Draws the final loss of five ways to store weights at two learning rates, as a multiple of that in fp32.

    Raises:
        ValueError: The record has no run in fp32 without a spike.
    """
    settings = weight_settings()
    rates = sorted({setting.lr for setting in settings})
    rows = [
        [
            _cell(record, setting, _losses(record, Setting(Recipe(), setting.lr, spike=False)))
            for setting in settings
            if setting.lr == rate
        ]
        for rate in rates
    ]
    title = f"Final loss by the weights' storage, as a multiple of fp32's<br><sub>{_summary(record)}</sub>"
    figure = _finished(go.Figure(_heat(rows, list(_WEIGHTS), [f"lr {rate:g}" for rate in rates])), title, height=270)
    return figure.update_xaxes(title="weights, with fp32 moments")


def _moments(m: object, v: object, rounding: str, spike: bool) -> Setting:
    recipe = Recipe(exp_avg=m, exp_avg_sq=v)  # type: ignore[arg-type]
    if recipe != Recipe() and rounding == "stochastic":
        recipe = Recipe(exp_avg=m, exp_avg_sq=v, state_rounding="stochastic")  # type: ignore[arg-type]
    return Setting(recipe, spike=spike)


def _losses(record: Record, setting: Setting) -> tuple[float, ...]:
    found = [series.samples for series in record.series if series.name == f"{setting}, loss"]
    if not found:
        raise ValueError(f"the record has no runs of {setting!s}; mixlab measure states makes one that has")
    return found[0]


def _cell(record: Record, setting: Setting, base: Sequence[float]) -> _Cell:
    diverged = str(record.parameters.get(str(setting), ""))
    if diverged:
        return _Cell(math.inf, f"<b>NaN</b><br>{diverged.removeprefix('diverged: ')}", f"{setting}: {diverged}")
    try:
        losses = _losses(record, setting)
    except ValueError:
        return _Cell(math.nan, "", f"{setting}: not recorded")
    ratios = [loss / other for loss, other in zip(losses, base, strict=True)]
    middle, low, high = float(np.median(ratios)), min(ratios), max(ratios)
    words = f"{setting}: loss {np.median(losses):.3g}, {low:.3g} to {high:.3g} times that of fp32, {len(losses)} seeds"
    return _Cell(middle, f"<b>{middle:.3g}</b><br>{low:.2g}–{high:.2g}", words)


def _heat(rows: Sequence[Sequence[_Cell]], columns: Sequence[str], labels: Sequence[str]) -> go.Heatmap:
    def shade(cell: _Cell) -> float | None:
        return None if math.isnan(cell.ratio) else math.log(min(max(cell.ratio, 1.0), _WORST))

    return go.Heatmap(
        z=[[shade(cell) for cell in row] for row in rows],
        x=list(columns),
        y=list(labels),
        text=[[cell.text for cell in row] for row in rows],
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


def _summary(record: Record) -> str:
    return f"{record.parameters['seeds']} seeds, {record.parameters['steps']} steps each; {record.summary}"


def _finished(figure: go.Figure, title: str, height: int) -> go.Figure:
    figure = styled(figure, title=title, height=height)
    figure.update_layout(hovermode="closest", margin={"t": 100, "b": 70, "l": 90}, font={"color": GREY})
    return figure.update_yaxes(autorange="reversed", showgrid=False).update_xaxes(showgrid=False)
