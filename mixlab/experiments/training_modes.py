"""Training modes side by side, measured: speed, memory, stability."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from mixlab.arguments import require_whole
from mixlab.experiments.ledger import Ledger, dtype_ledger
from mixlab.process import THREADS, measuring_threads
from mixlab.recipes import Recipe
from mixlab.training import StepRecord, Task, Trainer

_ROUNDS = (5, 30)  # of native steps: at least and at most
_BUDGET_S = 4.0  # for the rounds after the fewest


@dataclass(frozen=True)
class ModeResult:
    """How one recipe trained one task.

    Attributes:
        recipe: The recipe.
        ledger: The tensors it keeps.
        runs: The records of one training for each seed: emulated on a CPU, native on CUDA.
        step_s: The time of each timed step in seconds, in this machine's native arithmetic. The n-th steps of all
            recipes were taken one after another.
    """

    recipe: Recipe
    ledger: Ledger
    runs: tuple[tuple[StepRecord, ...], ...]
    step_s: tuple[float, ...]

    @property
    def finite(self) -> int:
        """How many runs ended with a finite loss."""
        return sum(math.isfinite(run[-1].loss) for run in self.runs)

    @property
    def loss(self) -> tuple[float, float | None]:
        """Mean and standard deviation, over the finite runs, of the mean loss of a run's last tenth.

        The loss is that on the training batches. The deviation is None for a single finite run; both are NaN if no run
        is finite.
        """
        ends = [np.mean([record.loss for record in run[-max(1, len(run) // 10) :]]) for run in self.runs]
        finite = [float(end) for end in ends if math.isfinite(end)]
        if not finite:
            return math.nan, math.nan
        return float(np.mean(finite)), float(np.std(finite, ddof=1)) if len(finite) > 1 else None

    @property
    def skipped(self) -> float:
        """The share of steps that were skipped."""
        return sum(record.skipped for run in self.runs for record in run) / sum(map(len, self.runs))

    def times_faster_than(self, other: ModeResult) -> tuple[float, float, float]:
        """Returns how many times faster a step is than another recipe's: first quartile, median, third quartile.

        Steps that were taken one after another are compared with each other, so a machine that slows down for a while
        slows down both.

        Args:
            other: A result of the same call of `measure_modes`.
        """
        ratios = [theirs / ours for theirs, ours in zip(other.step_s, self.step_s, strict=True)]
        low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        return float(low), float(middle), float(high)


def measure_modes(
    task: Task,
    recipes: Mapping[str, Recipe | str],
    *,
    steps: int,
    seeds: Iterable[int] = range(5),
    device: torch.device | str | None = None,
) -> dict[str, ModeResult]:
    """Trains a task under each recipe once for each seed, counts the bytes that it keeps, and times native steps.

    Native steps are timed in turns, one of each recipe after the other, so that all meet the same machine; on a CPU,
    with all threads that torch would use. A recipe that stands under several labels trains once, for all of them.

    Args:
        task: What to train.
        recipes: Recipes, or their texts, by label; at least one.
        steps: The steps of each training, at least 1.
        seeds: The seed of each training; at least one. They are taken one by one, each for all recipes.
        device: Where; None means CUDA if available, else the CPU.

    Returns:
        A result for each label, in the order of `recipes`.

    Raises:
        ValueError: If there are no recipes, no seeds, or `steps` is not a whole number from 1 up.
    """
    require_whole("measure_modes: steps", steps, 1)
    wanted = {label: Recipe.of(recipe) for label, recipe in recipes.items()}
    if not wanted:
        raise ValueError("measure_modes: recipes must hold at least one recipe")
    taken: list[int] = []
    runs: dict[Recipe, list[tuple[StepRecord, ...]]] = {recipe: [] for recipe in wanted.values()}
    for seed in seeds:
        taken.append(seed)
        for recipe, trained in runs.items():
            trained.append(tuple(Trainer(task, recipe, seed=seed, device=device).steps(steps)))
    if not taken:
        raise ValueError("measure_modes: seeds must hold at least one seed")
    ledgers = {recipe: dtype_ledger(task, recipe, seed=taken[0], device=device) for recipe in runs}
    with THREADS.held(measuring_threads()):
        trainers = [Trainer(task, recipe, seed=taken[0], device=device, native=True) for recipe in wanted.values()]
        seconds = zip(*_timed_in_turns(trainers), strict=True)
    return {
        label: ModeResult(recipe, ledgers[recipe], tuple(runs[recipe]), step_s)
        for (label, recipe), step_s in zip(wanted.items(), seconds, strict=True)
    }


def _timed_in_turns(trainers: list[Trainer]) -> Iterator[tuple[float, ...]]:
    """Yields rounds of one step of each trainer, after a round that does not count: each step's time in seconds."""
    fewest, most = _ROUNDS
    for trainer in trainers:
        next(trainer.steps(1))
    started_s = time.perf_counter()
    for done in range(most):
        if done >= fewest and time.perf_counter() - started_s > _BUDGET_S:
            return
        yield tuple(next(trainer.steps(1)).seconds for trainer in trainers)
