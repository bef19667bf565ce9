"""Short trainings that several claims look at, each trained once in a process."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from mixlab.experiments import Ledger, dtype_ledger
from mixlab.process import THREADS
from mixlab.training import StepRecord, Task, Trainer, load_task

SEEDS = (0, 1, 2)


@cache
def trained(
    task: str, recipe: str, *, steps: int, seed: int = 0, loss_weight: float = 1.0, lr: float | None = None
) -> tuple[StepRecord, ...]:
    """Returns the records of a training on the CPU, where 16-bit arithmetic is emulated.

    One thread is faster for networks as small as these, and gives the same numbers whatever else runs.
    """
    with THREADS.held(1):
        return tuple(Trainer(_task(task, loss_weight, lr), recipe, seed=seed, device="cpu").steps(steps))


@cache
def counted(recipe: str) -> Ledger:
    """Returns the bytes that a training of the small CNN keeps under a recipe."""
    with THREADS.held(1):
        return dtype_ledger(load_task("digits-cnn"), recipe, device="cpu")


def end(records: Sequence[StepRecord]) -> float:
    """Returns the mean loss of a training's last tenth; inf if its last loss is not finite."""
    last = [record.loss for record in records[-max(1, len(records) // 10) :]]
    return sum(last) / len(last) if all(map(math.isfinite, last)) else math.inf


def survives(records: Sequence[StepRecord]) -> bool:
    """Returns whether a training ended with a finite loss."""
    return math.isfinite(records[-1].loss)


def _task(name: str, loss_weight: float, lr: float | None) -> Task:
    task = load_task(name, loss_weight=loss_weight)
    return task if lr is None else replace(task, lr=lr)
