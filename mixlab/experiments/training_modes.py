"""The textbook's comparison of training modes, measured: speed, memory, stability."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mixlab.arguments import require_whole
from mixlab.experiments.ledger import Ledger, dtype_ledger
from mixlab.recipes import Recipe
from mixlab.training import StepRecord, Task, Trainer


@dataclass(frozen=True)
class ModeResult:
    """How one recipe trained one task.

    Attributes:
        recipe: The recipe.
        ledger: The tensors it keeps.
        runs: The records of one training for each seed: emulated on a CPU, native on CUDA.
        step_s: The median time of a step in seconds, in this machine's native arithmetic.
    """

    recipe: Recipe
    ledger: Ledger
    runs: tuple[tuple[StepRecord, ...], ...]
    step_s: float

    @property
    def finite(self) -> int:
        """How many runs ended with a finite loss."""
        return sum(math.isfinite(run[-1].loss) for run in self.runs)

    @property
    def loss(self) -> tuple[float, float]:
        """Mean and standard deviation, over the finite runs, of the mean loss of a run's last tenth."""
        ends = [np.mean([record.loss for record in run[-max(1, len(run) // 10) :]]) for run in self.runs]
        finite = [float(end) for end in ends if math.isfinite(end)]
        spread = float(np.std(finite, ddof=1)) if len(finite) > 1 else 0.0
        return (float(np.mean(finite)), spread) if finite else (math.nan, math.nan)

    @property
    def skipped(self) -> float:
        """The share of steps that were skipped."""
        return sum(record.skipped for run in self.runs for record in run) / sum(map(len, self.runs))


def measure_mode(
    task: Task,
    recipe: Recipe | str,
    *,
    steps: int,
    seeds: Sequence[int] = range(5),
    device: torch.device | str | None = None,
) -> ModeResult:
    """Trains the task under the recipe once for each seed, counts the bytes it keeps, and times native steps.

    Args:
        task: What to train.
        recipe: The recipe to train under, or its text.
        steps: The steps of each training, at least 1.
        seeds: The seed of each training; at least one.
        device: Where; None means CUDA if available, else the CPU.

    Raises:
        ValueError: If there are no steps or no seeds.
        RuntimeError: As `dtype_ledger` does.
    """
    recipe = Recipe.of(recipe)
    require_whole("measure_mode: steps", steps, 1)
    if not len(seeds):
        raise ValueError("measure_mode: seeds must hold at least one seed")
    runs = tuple(tuple(Trainer(task, recipe, seed=seed, device=device).steps(steps)) for seed in seeds)
    ledger = dtype_ledger(task, recipe, seed=seeds[0], device=device)
    return ModeResult(recipe, ledger, runs, _native_step_s(task, recipe, seeds[0], device))


def _native_step_s(task: Task, recipe: Recipe, seed: int, device: torch.device | str | None) -> float:
    trainer = Trainer(task, recipe, seed=seed, device=device, native=True)
    seconds: list[float] = []
    started_s = time.perf_counter()
    while len(seconds) < 3 or (len(seconds) < 30 and time.perf_counter() - started_s < 0.5):
        seconds.append(next(trainer.steps(1)).seconds)
    return float(np.median(seconds[1:]))
