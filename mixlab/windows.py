"""The usable window of the loss scale, predicted from probes of float32 steps: for a static scale, and for a hunt."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mixlab.formats import Format
from mixlab.probes import Kind, TensorStats, largest_scale_exponent, track, usable_window
from mixlab.recipes import Recipe
from mixlab.scale_policies import ScalePolicy, hunt
from mixlab.tasks import Task
from mixlab.trainer import Trainer

_GRADIENTS: tuple[Kind, ...] = ("gradient", "weight_gradient")


@dataclass(frozen=True)
class ScaleWindow:
    """Exponents of the loss scales that a 16-bit format bears.

    Attributes:
        low: Under 2^low at most the tolerated fraction of all non-zero gradients becomes zero.
        high: Under 2^high the largest gradient is finite, under 2^(high + 1) it is not.
    """

    low: int
    high: int

    @property
    def usable(self) -> bool:
        """Whether any scale is good for both ends; if not, `low` is above `high`."""
        return self.low <= self.high

    def __and__(self, other: ScaleWindow) -> ScaleWindow:
        """Returns what is good for both, e.g. for two steps of a training."""
        return ScaleWindow(max(self.low, other.low), min(self.high, other.high))

    def __str__(self) -> str:
        return f"2^{self.low} to 2^{self.high}" if self.usable else f"none (2^{self.low} is above 2^{self.high})"


def scale_window(stats: Iterable[TensorStats], fmt: Format | str, *, tolerance: float = 0.01) -> ScaleWindow:
    """Returns the window of one step, from what `track` saw of it.

    One scale serves all layers: the upper edge is that of the largest gradient of any layer, the lower one that of all
    layers' gradients together.

    Args:
        stats: Of gradients without a loss scale in them; activations, which no loss scale moves, are left out.
        fmt: In which the gradients will be computed.
        tolerance: The fraction of non-zero values that may become zero.

    Raises:
        ValueError: There is no gradient, or none that is not zero.
    """
    fmt = Format.parse(fmt) if isinstance(fmt, str) else fmt
    alive = [entry for entry in stats if entry.kind in _GRADIENTS and entry.amax > 0]
    if not alive:
        raise ValueError("scale_window: no gradient that is not zero; run forward and backward inside track(model)")
    high = min(largest_scale_exponent(entry.amax, fmt) for entry in alive)
    together = alive[0]
    for entry in alive[1:]:
        together = together + entry
    window = usable_window(together, fmt, tolerance=tolerance)
    return ScaleWindow(high + 1 if window is None else window[0], high)


def predict_windows(
    task: Task, *, steps: int, fmt: Format | str = "fp16", seed: int = 0, every: int = 1, tolerance: float = 0.01
) -> list[ScaleWindow]:
    """Trains in float32 on a CPU, where nothing is lost, and returns the window of every `every`-th step.

    Args:
        task, seed: As for `Trainer`.
        steps: How many steps to train.
        fmt, tolerance: As for `scale_window`.
        every: Steps between two probes.
    """
    for name, value in (("steps", steps), ("every", every)):
        if type(value) is not int or value < 1:
            raise ValueError(f"predict_windows: {name} must be a whole number from 1 up, got {value!r}")
    trainer = Trainer(task, Recipe(), seed=seed, device="cpu")
    windows = []
    for step in range(steps):
        if step % every == 0:
            with track(trainer.model, kinds=_GRADIENTS, seed=step) as probe:
                next(trainer.steps(1))
            windows.append(scale_window(probe, fmt, tolerance=tolerance))
        else:
            next(trainer.steps(1))
    return windows


def static_window(windows: Sequence[ScaleWindow]) -> ScaleWindow:
    """Returns the scales that serve all of these steps: the widest that a static scale can hope for.

    Raises:
        ValueError: There is no step.
    """
    if not windows:
        raise ValueError("static_window: no windows; predict_windows(task, steps=...) makes some")
    return ScaleWindow(max(window.low for window in windows), min(window.high for window in windows))


def predict_settled(windows: Sequence[ScaleWindow], policy: ScalePolicy) -> float:
    """Returns log2 of the scale, the median over the second half of the steps, at which `policy` will hunt.

    Args:
        windows: One for each step, as `predict_windows` returns them with every=1.
        policy: Of the scaler; its scale should find its way within the first half.

    Raises:
        ValueError: There is no step, the policy gives up, or its scale becomes zero or infinite.
    """
    if not windows:
        raise ValueError("predict_settled: no windows; predict_windows(task, steps=...) makes some")
    history = hunt(policy, [2.0**window.high if window.high < 1024 else math.inf for window in windows])
    owner, last = type(policy).__name__, len(history.overflows) - 1
    if history.error:
        raise ValueError(f"predict_settled: {owner} gives up at step {last} and settles nowhere: {history.error}")
    scales = history.scales[:-1]
    settled = scales[len(scales) // 2 :]
    if not all(0 < scale < math.inf for scale in settled):
        lost = next(step for step, scale in enumerate(scales) if not 0 < scale < math.inf)
        raise ValueError(
            f"predict_settled: {owner}'s scale is {scales[lost]:g} from step {lost} on and settles nowhere; no scale "
            "is good for these windows"
        )
    return float(np.median(np.log2(settled)))
