"""What loss scalers do with their scale: four lanes side by side, a game's field, and the words that repeat both."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mixlab.figures.theme import styled
from mixlab.loss_scaling import Game, Result, ScaleHistory
from mixlab.loss_scaling.game import MOVES, READER, fewest_lost, results
from mixlab.reports import GREY, PURPLE, SERIES, power_of_two

Change = Literal["fell", "kept", "grew", "end"]
Histories = Mapping[str, ScaleHistory]

LEGEND: dict[Change, str] = {
    "fell": "overflow, the scale falls",
    "kept": "overflow, the scale stays",
    "grew": "the scale grows",
    "end": "gives up",
}
_SYMBOLS: dict[Change, str] = {"fell": "triangle-down", "kept": "circle-open", "grew": "triangle-up", "end": "x"}
_LIMIT = {"color": PURPLE, "dash": "dot", "width": 2, "shape": "hv"}
_MOST_TICKS = 3


def changes(history: ScaleHistory) -> list[tuple[int, Change]]:
    """Returns the steps that say something about a policy, each with what it did there.

    >>> from mixlab.loss_scaling import MegatronPolicy, simulate
    >>> changes(simulate(MegatronPolicy(1024, growth_interval=1), [True, True, False]))
    [(0, 'kept'), (1, 'fell'), (2, 'grew')]
    """
    found: list[tuple[int, Change]] = []
    for step, overflow in enumerate(history.overflows):
        if step + 1 == len(history.scales):
            found.append((step, "end"))
        elif overflow:
            found.append((step, "fell" if history.scales[step + 1] < history.scales[step] else "kept"))
        elif history.scales[step + 1] > history.scales[step]:
            found.append((step, "grew"))
    return found


def ending(history: ScaleHistory) -> str:
    """Returns in words where a policy's scale ends, and how often it fell and grew.

    >>> from mixlab.loss_scaling import TorchPolicy, simulate
    >>> ending(simulate(TorchPolicy(1024, growth_interval=2), [True, True, False, False]))
    'ends at 2^9 (fell 2×, grew 1×)'
    """
    kinds = [change for _, change in changes(history)]
    scale = power_of_two(history.scales[-1])
    where = f"gives up at step {len(history.overflows) - 1}, at its minimum {scale}" if history.error else None
    return f"{where or f'ends at {scale}'} (fell {kinds.count('fell')}×, grew {kinds.count('grew')}×)"


def sentence(histories: Histories, overflows: Sequence[int], steps: int) -> str:
    """Returns in words what the lanes show."""
    share = f"{len(overflows) or 'None'} of {steps} steps {'overflows' if len(overflows) == 1 else 'overflow'}"
    return f"{share}. {'; '.join(f'{name} {ending(history)}' for name, history in histories.items())}."


def presets(steps: int) -> dict[str, list[int]]:
    """Returns sequences of overflows worth a look, by name."""
    first = steps // 4
    return {
        "one overflow": [first],
        "a burst": list(range(first, min(first + 5, steps))),
        "every 7th step": list(range(6, steps, 7)),
        "clear": [],
    }


def board(histories: Histories, overflows: Sequence[int], steps: int) -> dict[str, Any]:
    """Returns all that a browser needs to draw one lane a policy over the same steps, ready for JSON.

    A lane's `levels` are log2 of its scale during each step and after the last; None for a scale of 0. Its `marks` are
    pairs of a step and a name of `LEGEND`.
    """
    low, high = _domain(level for history in histories.values() for level in _levels(history))
    return {
        "steps": steps,
        "overflows": list(overflows),
        "domain": [low, high],
        "ticks": _ticks(low, high),
        "legend": LEGEND,
        "lanes": [
            {
                "name": name,
                "color": SERIES[index % len(SERIES)],
                "levels": _levels(history),
                "marks": changes(history),
                "ending": ending(history),
                "gaveUp": bool(history.error),
            }
            for index, (name, history) in enumerate(histories.items())
        ],
        "sentence": sentence(histories, overflows, steps),
    }


def scale_histories(histories: Histories, *, title: str, limits: Sequence[float] | None = None) -> go.Figure:
    """Draws log2 of the scale of each policy over the steps, a lane each, with what it did at the overflows.

    Args:
        histories: By name, of `simulate` or `hunt`.
        title: Of the figure.
        limits: The largest scale that each step bears, as given to `hunt`; drawn in every lane.

    Raises:
        ValueError: There is no history.
    """
    if not histories:
        raise ValueError("scale_histories: no histories to show; make some with simulate or hunt")
    titles = [f"<b>{name}</b> {ending(history)}" for name, history in histories.items()]
    figure = make_subplots(
        rows=len(titles),
        shared_xaxes=True,
        shared_yaxes="all",
        vertical_spacing=0.28 / len(titles),
        subplot_titles=titles,
    )
    longest = max(len(history.overflows) for history in histories.values())
    for row, history in enumerate(histories.values(), start=1):
        for trace in _lane_traces(history, SERIES[(row - 1) % len(SERIES)], limits):
            figure.add_trace(trace, row=row, col=1)
        if limits is None:  # after the traces: plotly leaves out shapes on empty axes
            for step in (step for step, overflow in enumerate(history.overflows) if overflow):
                figure.add_vrect(step, step + 1, fillcolor=PURPLE, opacity=0.25, line_width=0, row=row, col=1)
    figure.add_traces(_legend_traces(histories, limits))
    height = 150 + 110 * len(titles)
    styled(figure, title=title, height=height).update_layout(hovermode="closest", margin_t=120)
    figure.update_layout(title={"y": 1, "yref": "container", "yanchor": "top", "pad": {"t": 14}})
    figure.update_layout(
        legend={"y": 1 - 40 / height, "yref": "container", "yanchor": "top", "x": 0, "xanchor": "left"}
    )
    figure.update_annotations(x=0, xanchor="left", font_size=13)
    bounds = [_exponent(limit) for limit in (() if limits is None else limits)]
    low, high = _domain([*bounds, *(level for history in histories.values() for level in _levels(history))])
    ticks = _ticks(low, high)
    figure.update_yaxes(
        range=[low - 0.5, high + 0.5],
        tickvals=[at for at, _ in ticks],
        ticktext=[label for _, label in ticks],
        zeroline=False,
    )
    figure.update_xaxes(range=[0, longest + 0.6], zeroline=False)
    return figure.update_xaxes(title="step", row=len(titles), col=1)


def playfield(game: Game) -> dict[str, Any]:
    """Returns all that a browser needs to draw a game, ready for JSON; nothing of the steps to come."""
    played = list(zip(game.exponents, game.windows, game.outcomes, strict=False))
    start, floor = game.init_exponent, game.init_exponent - 20
    seen: list[float] = [start - 8, start + 8, game.exponent - 2, game.exponent + 2, *game.exponents]
    seen += [x for _, window, _ in played for x in (max(window.low - 1, floor), max(window.high + 2, floor))]
    bottom, top = math.floor(min(seen)), math.ceil(max(seen))
    return {
        "steps": len(game.windows),
        "domain": [bottom, top],
        "ticks": _ticks(bottom, top, most=7),
        "turns": [
            {"exponent": k, "low": max(window.low, bottom), "high": max(window.high, bottom), "outcome": outcome}
            for k, window, outcome in played
        ],
        "exponent": game.exponent,
        "choices": {} if game.over else {move: f"2^{game.exponent + step}" for move, step in MOVES.items()},
        "score": str(game),
        "news": news(game),
        "table": result_table(results(game)) if game.over else [],
    }


def news(game: Game) -> str:
    """Returns in words what became of the last step, and at the end who lost the fewest."""
    if not game.exponents:
        return (
            f"You are the loss scaler: lose as few steps as you can. The scale is 2^{game.exponent}; halve it, keep it "
            "or double it, and the step is taken. Only then do you see which scales it could bear."
        )
    window = game.windows[len(game.exponents) - 1]
    became = {
        "good": "good",
        "skipped": "overflow, so the step is skipped",
        "underflowed": "taken, but small gradients underflowed",
    }[game.outcomes[-1]]
    words = f"The last step, at 2^{game.exponent}: {became}; {window} was usable."
    return f"{words} {verdict(results(game))}" if game.over else words


def verdict(found: Sequence[Result]) -> str:
    """Returns in words who lost the fewest steps."""
    best = fewest_lost(found)
    fewest = min(result.lost for result in found)
    reader = next(result for result in found if result.player == READER)
    names = " and ".join(filter(None, (", ".join(best[:-1]), best[-1])))
    yours = "" if READER in best else f"; you lost {reader.lost}"
    return f"Fewest lost steps: {names}, with {fewest} of {reader.steps}{yours}."


def result_table(found: Sequence[Result]) -> list[dict[str, Any]]:
    """Returns one row a player, the fewest lost steps first; the reader before those who did as well."""
    best = fewest_lost(found)
    return [
        {
            "player": result.player,
            "cells": [result.lost, result.score.skipped, result.score.underflowed, result.score.good],
            "note": result.note,
            "best": result.player in best,
        }
        for result in sorted(found, key=lambda result: result.lost)
    ]


def _lane_traces(history: ScaleHistory, color: str, limits: Sequence[float] | None) -> list[go.Scatter]:
    """Returns the limits, the scale, and one trace for each thing that the policy did."""
    levels = _levels(history)
    end = len(history.overflows) + (0.0 if history.error else 0.5)
    traces = [_step_line(levels, end, {"color": color, "width": 2.5, "shape": "hv"})]
    if limits is not None:
        traces.insert(0, _step_line([_exponent(limit) for limit in limits], float(len(limits)), _LIMIT))
    found = changes(history)
    for change in dict.fromkeys(change for _, change in found):
        steps = [step for step, other in found if other == change]
        moved = change in ("fell", "grew")  # at the end of the step
        traces.append(
            go.Scatter(
                x=[step + (1 if moved else 0.5) for step in steps],
                y=[levels[step + moved] for step in steps],
                customdata=steps,
                mode="markers",
                marker=_marker(change, color),
                hovertemplate=f"step %{{customdata}}: {LEGEND[change]}<extra></extra>",
                cliponaxis=False,
                showlegend=False,
            )
        )
    return traces


def _legend_traces(histories: Histories, limits: Sequence[float] | None) -> list[go.Scatter]:
    """Returns empty traces that explain in the legend what the lanes hold."""
    seen = {change for history in histories.values() for _, change in changes(history)}
    nowhere = {"x": [None], "y": [None]}
    traces = [
        go.Scatter(**nowhere, mode="markers", marker=_marker(change, GREY), name=words)
        for change, words in LEGEND.items()
        if change in seen
    ]
    if limits is not None:
        traces.append(go.Scatter(**nowhere, mode="lines", line=_LIMIT, name="largest scale that the step bears"))
    return traces


def _marker(change: Change, color: str) -> dict[str, Any]:
    return {"symbol": _SYMBOLS[change], "size": 9, "color": color, "line": {"width": 1.5, "color": color}}


def _step_line(levels: Sequence[float | None], end: float, line: Mapping[str, object]) -> go.Scatter:
    """Returns a line that keeps each level for a step, and the last until `end`."""
    y = [*levels, levels[-1]] if levels else []
    hover = "step %{x}: 2^%{y:.3g}<extra></extra>"
    return go.Scatter(x=[*range(len(levels)), end], y=y, mode="lines", line=line, hovertemplate=hover, showlegend=False)


def _levels(history: ScaleHistory) -> list[float | None]:
    return [_exponent(scale) for scale in history.scales]


def _exponent(scale: float) -> float | None:
    """Returns log2 of a scale; None for those that no chart has room for, 0 and inf."""
    return math.log2(scale) if 0 < scale < math.inf else None


def _domain(levels: Iterable[float | None]) -> tuple[int, int]:
    """Returns whole exponents around all levels, at least four apart."""
    known = [level for level in levels if level is not None] or [0.0]
    low, high = math.floor(min(known)), math.ceil(max(known))
    missing = max(0, 4 - (high - low))
    return low - missing // 2, high + missing - missing // 2


def _ticks(low: int, high: int, *, most: int = _MOST_TICKS) -> list[tuple[int, str]]:
    """Returns at most `most` exponents with their labels, at equal distances."""
    step = max(1, math.ceil((high - low + 1) / most))
    return [(k, f"2^{k}") for k in range(-(-low // step) * step, high + 1, step)]
