"""What loss scalers do with their scale: lanes side by side and a game's field, as data for a page and in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from mixlab.loss_scaling import Game, Result, ScaleHistory
from mixlab.loss_scaling.game import MOVES, READER, fewest_lost, results
from mixlab.powers import power, power_of_two
from mixlab.reports.colours import SERIES
from mixlab.reports.numbers import finite_log2

Change = Literal["fell", "kept", "grew", "end"]
Histories = Mapping[str, ScaleHistory]

LEGEND: dict[Change, str] = {
    "fell": "overflow, the scale falls",
    "kept": "overflow, the scale stays",
    "grew": "the scale grows",
    "end": "gives up",
}
_MOST_TICKS = 3


def changes(history: ScaleHistory) -> list[tuple[int, Change]]:
    """Returns the steps at which a policy reacted, each with its reaction.

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
    """Says where a policy's scale ends, and how often it fell and grew.

    >>> from mixlab.loss_scaling import TorchPolicy, simulate
    >>> ending(simulate(TorchPolicy(1024, growth_interval=2), [True, True, False, False]))
    'ends at 2⁹ (fell 2×, grew 1×)'
    """
    kinds = [change for _, change in changes(history)]
    scale = power_of_two(history.scales[-1])
    where = f"gives up at step {len(history.overflows) - 1}, at its minimum {scale}" if history.error else None
    return f"{where or f'ends at {scale}'} (fell {kinds.count('fell')}×, grew {kinds.count('grew')}×)"


def sentence(histories: Histories, overflows: Sequence[int], steps: int) -> str:
    """Describes what the lanes of a board show."""
    share = f"{len(overflows) or 'None'} of {steps} steps {'overflows' if len(overflows) == 1 else 'overflow'}"
    return f"{share}. {'; '.join(f'{name} {ending(history)}' for name, history in histories.items())}."


def presets(steps: int) -> dict[str, list[int]]:
    """Returns instructive sequences of overflowing steps, by name."""
    first = steps // 4
    return {
        "one overflow": [first],
        "a burst": list(range(first, min(first + 5, steps))),
        "every 7th step": list(range(6, steps, 7)),
        "clear": [],
    }


def board(histories: Histories, overflows: Sequence[int], steps: int) -> dict[str, Any]:
    """Returns everything that a browser needs to draw one lane per policy over the same steps, ready for JSON.

    The "levels" of a lane are log2 of its scale during each step and after the last, None for a scale of 0 or inf. Its
    "marks" are pairs of a step and a name of `LEGEND`.
    """
    low, high = domain_of(level for history in histories.values() for level in levels_of(history))
    return {
        "steps": steps,
        "overflows": list(overflows),
        "domain": [low, high],
        "ticks": power_ticks(low, high),
        "legend": LEGEND,
        "lanes": [
            {
                "name": name,
                "color": SERIES[index % len(SERIES)],
                "levels": levels_of(history),
                "marks": changes(history),
                "ending": ending(history),
                "gaveUp": bool(history.error),
            }
            for index, (name, history) in enumerate(histories.items())
        ],
        "sentence": sentence(histories, overflows, steps),
    }


def playfield(game: Game) -> dict[str, Any]:
    """Returns everything that a browser needs to draw a game, ready for JSON; it reveals nothing of later steps."""
    played = list(zip(game.exponents, game.windows, game.outcomes, strict=False))
    start, floor = game.init_exponent, game.init_exponent - 20
    seen: list[float] = [start - 8, start + 8, game.exponent - 2, game.exponent + 2, *game.exponents]
    seen += [x for _, window, _ in played for x in (max(window.low - 1, floor), max(window.high + 2, floor))]
    bottom, top = math.floor(min(seen)), math.ceil(max(seen))
    return {
        "steps": len(game.windows),
        "domain": [bottom, top],
        "ticks": power_ticks(bottom, top, most=7),
        "turns": [
            {"exponent": k, "low": max(window.low, bottom), "high": max(window.high, bottom), "outcome": outcome}
            for k, window, outcome in played
        ],
        "exponent": game.exponent,
        "choices": {} if game.over else {move: power(game.exponent + step) for move, step in MOVES.items()},
        "score": str(game),
        "news": news(game),
        "table": result_table(results(game)) if game.over else [],
    }


def news(game: Game) -> str:
    """Describes how the last step turned out, and at the end who lost the fewest steps."""
    if not game.exponents:
        return (
            f"You are the loss scaler: lose as few steps as you can. The scale is {power(game.exponent)}; halve it, "
            "keep it or double it, and the step is taken. Only then do you see which scales were usable."
        )
    window = game.windows[len(game.exponents) - 1]
    became = {
        "good": "good",
        "skipped": "overflow, so the step is skipped",
        "underflowed": "taken, but small gradients underflowed",
    }[game.outcomes[-1]]
    words = f"The last step, at {power(game.exponent)}: {became}; {window} was usable."
    return f"{words} {verdict(results(game))}" if game.over else words


def verdict(found: Sequence[Result]) -> str:
    """Says who lost the fewest steps."""
    best = fewest_lost(found)
    fewest = min(result.lost for result in found)
    reader = next(result for result in found if result.player == READER)
    names = " and ".join(filter(None, (", ".join(best[:-1]), best[-1])))
    yours = "" if READER in best else f"; you lost {reader.lost}"
    return f"Fewest lost steps: {names}, with {fewest} of {reader.steps}{yours}."


def result_table(found: Sequence[Result]) -> list[dict[str, Any]]:
    """Returns one row per player, the fewest lost steps first; the reader comes before policies with equally few."""
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


def levels_of(history: ScaleHistory) -> list[float | None]:
    return [finite_log2(scale) for scale in history.scales]


def domain_of(levels: Iterable[float | None]) -> tuple[int, int]:
    """Returns two whole exponents, at least four apart, with all levels between them."""
    known = [level for level in levels if level is not None] or [0.0]
    low, high = math.floor(min(known)), math.ceil(max(known))
    missing = max(0, 4 - (high - low))
    return low - missing // 2, high + missing - missing // 2


def power_ticks(low: int, high: int, *, most: int = _MOST_TICKS) -> list[tuple[int, str]]:
    """Returns at most `most` evenly spaced exponents with their labels."""
    step = max(1, math.ceil((high - low + 1) / most))
    return [(k, power(k)) for k in range(-(-low // step) * step, high + 1, step)]
