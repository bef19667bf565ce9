"""The shipped tasks by name, and checks of what a training is made of. Nothing here needs torch."""

from __future__ import annotations

import math

from mixlab.arguments import LARGEST_SEED, did_you_mean, require_whole
from mixlab.recipes import Recipe

TASKS = ("digits-mlp", "digits-cnn", "chars-gpt")


def require_task(name: object) -> None:
    """Raises ValueError if `name` is not one of `TASKS`."""
    if not isinstance(name, str) or name not in TASKS:
        raise ValueError(f"unknown task {name!r:.60}: {did_you_mean(name, TASKS)}use one of {', '.join(TASKS)}")


def require_positive(what: str, value: object) -> None:
    """Raises ValueError, beginning with `what`, if `value` is not a positive finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{what} must be a positive finite number, got {value!r:.60}")


def check_training(task: str, recipe: str, *, seed: int, loss_weight: float, probe_every: int) -> None:
    """Checks what `load_task` and `Trainer` would refuse, before torch is imported.

    Args:
        task, loss_weight: As for `load_task`.
        recipe: The recipe's text.
        seed, probe_every: As for `Trainer`.

    Raises:
        ValueError: If the task or the recipe is unknown, or a number is out of range.
    """
    require_task(task)
    Recipe.parse(recipe)
    require_whole("Trainer: seed", seed, 0, LARGEST_SEED)
    require_positive("Task: loss_weight", loss_weight)
    require_whole("Trainer: probe_every", probe_every, 0)
