"""Weights and optimizer states over the steps, as columns to draw."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from mixlab.figures.training import finite_mean, in_pieces
from mixlab.histograms import Histogram
from mixlab.microscope import Trajectory
from mixlab.track_updates import Lost, Share, WatchedStep

Columns = dict[str, Sequence[float | None]]


def trajectory_columns(trajectory: Trajectory, *, points: int = 300) -> Columns:
    """Returns one weight's training as columns: step, change, exp_avg, and log2 of exp_avg_sq and of update over gap.

    Of more than `points` steps, every n-th. What is zero or not finite has no logarithm and is None.
    """
    steps = len(trajectory.update)
    every = max(1, math.ceil(steps / points))
    places = range(0, steps, every)
    ratios = [update / gap if gap else math.nan for update, gap in zip(trajectory.update, trajectory.gap, strict=True)]
    return {
        "step": list(places),
        "change": [_finite(trajectory.weight[place + 1] - trajectory.weight[0]) for place in places],
        "exp_avg": [_finite(trajectory.exp_avg[place]) for place in places],
        "exp_avg_sq": [_log2(trajectory.exp_avg_sq[place]) for place in places],
        "reach": [_log2(ratios[place]) for place in places],
    }


def watched_columns(steps: Sequence[WatchedStep], *, points: int = 240) -> Columns:
    """Returns a watched training as columns: step, loss, swallowed, stuck; and exponent, v of its last second moments.

    As `mixlab.figures.training.curves`: of each piece the mean loss, and the largest shares, None if no step of it was
    watched. "exponent" counts powers of two, and "v" is the share of the second moments that begin there.
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


def _log2(value: float) -> float | None:
    return math.log2(abs(value)) if value != 0 and math.isfinite(value) else None
