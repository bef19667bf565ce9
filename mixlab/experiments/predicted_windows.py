"""The loss scales that suit a training, predicted from probes of float32 steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from operator import and_

import numpy as np

from mixlab.arguments import require_whole
from mixlab.formats import Format
from mixlab.loss_scaling import ScalePolicy, ScaleWindow, hunt
from mixlab.probes import scale_window, track
from mixlab.probes.scale_windows import GRADIENTS
from mixlab.recipes import Recipe
from mixlab.training import Task, Trainer


def predict_windows(
    task: Task, *, steps: int, fmt: Format | str = "fp16", seed: int = 0, every: int = 1, tolerance: float = 0.01
) -> list[ScaleWindow]:
    """Trains in float32 on a CPU, where nothing is lost, and returns the scale window of every n-th step.

    Args:
        task: What to train.
        steps: How many steps to train, at least 1.
        fmt: The format that gradients would be stored in, or its name.
        seed: As for `Trainer`.
        every: n, at least 1.
        tolerance: The fraction of non-zero gradients that may become zero, from 0 to 1.

    Raises:
        ValueError: If a number is out of range, or all gradients of a step are zero.
    """
    require_whole("predict_windows: steps", steps, 1)
    require_whole("predict_windows: every", every, 1)
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
    """Returns the scales that suit all of these steps: the candidates for a static scale.

    Args:
        windows: The window of each step.

    Raises:
        ValueError: If there are no windows.
    """
    if not windows:
        raise ValueError("static_window: no windows; predict_windows(task, steps=...) makes some")
    return reduce(and_, windows)


def predict_settled(windows: Sequence[ScaleWindow], policy: ScalePolicy) -> float:
    """Predicts where a dynamic scale will settle.

    Args:
        windows: The window of each step, from `predict_windows` with every=1.
        policy: The scaler's policy. Its scale should settle within the first half of the steps.

    Returns:
        log2 of the scale, as the median over the second half of the steps.

    Raises:
        ValueError: If there are no windows, the policy gives up, or its scale becomes zero or infinite.
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
