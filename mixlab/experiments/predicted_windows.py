"""The usable window of the loss scale over a training, predicted from probes of float32 steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mixlab.formats import Format
from mixlab.loss_scaling import ScalePolicy, ScaleWindow, hunt
from mixlab.probes import scale_window, track
from mixlab.probes.scale_windows import GRADIENTS
from mixlab.recipes import Recipe
from mixlab.training import Task, Trainer


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
            with track(trainer.model, kinds=GRADIENTS, seed=step) as probe:
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
