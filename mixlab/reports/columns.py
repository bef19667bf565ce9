"""Trainings over their steps as short columns for a page to draw: curves, weights and optimizer states."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from mixlab.experiments import Trajectory, WatchedStep
from mixlab.probes import Histogram, Lost, Share
from mixlab.reports.colours import DASHES, SERIES
from mixlab.reports.numbers import finite_log2
from mixlab.training import StepRecord

T = TypeVar("T")

Columns = dict[str, Sequence[float | None]]


def series_style(index: int) -> tuple[str, str]:
    """Returns (colour, dash) of the n-th run in a figure; the first 36 differ from each other.

    Args:
        index: The run's place, from 0.
    """
    turn, place = divmod(index, len(SERIES))
    return SERIES[place], DASHES[(place + turn) % len(DASHES)]


def curves(records: Sequence[StepRecord], *, points: int = 240) -> dict[str, Sequence[float | None]]:
    """Returns a run as short columns to draw: step, loss, metric, log2 of the scale, underflow, skipped steps.

    A run longer than `points` is cut into at most that many pieces. For each piece, loss and metric are means, the
    scale is the last one, "underflow" is the largest of the worst layer, and "mean_underflow" the largest mean over the
    layers. A value that is not finite or was not measured is None. "skipped" lists the first skipped step of each piece
    that has one.

    Args:
        records: The run's records, step by step.
        points: The most entries of a column.
    """
    pieces = in_pieces(records, points)
    return {
        "step": [piece[-1].step for piece in pieces],
        "loss": [finite_mean([record.loss for record in piece]) for piece in pieces],
        "metric": [finite_mean([record.metric for record in piece if record.metric is not None]) for piece in pieces],
        "scale": exponents([piece[-1] for piece in pieces]),
        "underflow": [largest_underflow(piece) for piece in pieces],
        "mean_underflow": [_largest_mean_underflow(piece) for piece in pieces],
        "skipped": [first for piece in pieces if (first := _first_skipped(piece)) is not None],
    }


def in_pieces(items: Sequence[T], most: int) -> list[Sequence[T]]:
    """Cuts a sequence into at most `most` pieces of equal length; the last may be shorter."""
    size = max(1, math.ceil(len(items) / most))
    return [items[start : start + size] for start in range(0, len(items), size)]


def finite_mean(values: Sequence[float]) -> float | None:
    """Returns the mean, or None if there is no value or the mean is not finite."""
    mean = sum(values) / len(values) if values else math.nan
    return mean if math.isfinite(mean) else None


def largest_underflow(records: Sequence[StepRecord]) -> float | None:
    return max((max(record.underflow.values()) for record in _probed(records)), default=None)


def _largest_mean_underflow(records: Sequence[StepRecord]) -> float | None:
    means = (sum(record.underflow.values()) / len(record.underflow) for record in _probed(records))
    return max(means, default=None)


def _probed(records: Sequence[StepRecord]) -> list[StepRecord]:
    """Returns the steps whose underflow was measured; where the loss is not finite, gradients have no size to lose."""
    return [record for record in records if record.underflow and math.isfinite(record.loss)]


def _first_skipped(records: Sequence[StepRecord]) -> int | None:
    return next((record.step for record in records if record.skipped), None)


def exponents(records: Sequence[StepRecord]) -> list[float | None]:
    """Returns log2 of each scale; None for 0 and inf, where a scaler without bounds may end up."""
    return [finite_log2(record.scale) for record in records]


def trajectory_columns(trajectory: Trajectory, *, points: int = 300) -> Columns:
    """Returns one weight's training as columns: step, change, exp_avg, and log2 of exp_avg_sq and of update over gap.

    With more than `points` steps, every n-th is kept. Values without a finite logarithm become None.

    Args:
        trajectory: The weight's trajectory.
        points: The most entries of a column.
    """
    steps = len(trajectory.update)
    every = max(1, math.ceil(steps / points))
    places = range(0, steps, every)
    ratios = [update / gap if gap else math.nan for update, gap in zip(trajectory.update, trajectory.gap, strict=True)]
    return {
        "step": list(places),
        "change": [_finite(trajectory.weight[place + 1] - trajectory.weight[0]) for place in places],
        "exp_avg": [_finite(trajectory.exp_avg[place]) for place in places],
        "exp_avg_sq": [finite_log2(trajectory.exp_avg_sq[place]) for place in places],
        "reach": [finite_log2(abs(ratios[place])) for place in places],
    }


def watched_columns(steps: Sequence[WatchedStep], *, points: int = 240) -> Columns:
    """Returns a watched training as columns: step, loss, swallowed, stuck; and exponent, v of its last second moments.

    A training longer than `points` is cut into pieces as in `curves`: "loss" is the mean of each piece, "swallowed" and
    "stuck" are the largest shares, None if no step of the piece was watched. "exponent" lists powers of two, and "v"
    the share of the second moments from each power up to the next.

    Args:
        steps: The training's steps.
        points: The most entries of a column.
    """
    pieces = in_pieces(steps, points)
    last = next((step.second_moments for step in reversed(steps) if step.second_moments is not None), None)
    exponents, shares = _distribution(last)
    return {
        "step": [piece[-1].record.step for piece in pieces],
        "loss": [finite_mean([step.record.loss for step in piece]) for piece in pieces],
        "swallowed": [_largest(piece, lambda lost: lost.swallowed) for piece in pieces],
        "stuck": [_largest(piece, lambda lost: lost.stuck_falling) for piece in pieces],
        "exponent": exponents,
        "v": shares,
    }


def _distribution(moments: Histogram | None) -> tuple[list[float | None], list[float | None]]:
    """Returns the powers of two from the smallest value to the largest, and the share of values at each."""
    if moments is None or not moments.non_zero:
        return [], []
    counts = moments.exponent_counts()
    (filled,) = counts.nonzero()
    low, high = int(filled[0]), int(filled[-1])
    shares = counts[low : high + 1] / moments.non_zero
    return [e - 127 for e in range(low - 1, high + 2)], [0.0, *map(float, shares), 0.0]


def _largest(piece: Sequence[WatchedStep], share: Callable[[Lost], Share]) -> float | None:
    return max((share(step.lost).value for step in piece if step.lost is not None), default=None)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
