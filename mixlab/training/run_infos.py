"""The description of a run, and its form on disk."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RunInfo:
    """The description of a run: what determines its weights, and where and when it was started.

    Attributes:
        task: The task's name.
        recipe: The recipe's text.
        seed, probe_every: As for `Trainer`.
        loss_weight: As for `load_task`.
        machine: A line about the machine, from `mixlab.machine.Machine.summary`.
        started: When the run was created, in UTC, ISO 8601.
        wanted_steps: How many steps it was created for; 0 if none were named. It may be trained further.
    """

    task: str
    recipe: str
    seed: int = 0
    loss_weight: float = 1.0
    probe_every: int = 0
    machine: str = ""
    started: str = ""
    wanted_steps: int = 0

    @property
    def label(self) -> str:
        """A line for a legend, such as "amp-fp16 on digits-mlp, seed 0"."""
        weight = "" if self.loss_weight == 1 else f", loss weight {self.loss_weight:g}"
        return f"{self.recipe} on {self.task}{weight}, seed {self.seed}"

    @property
    def decisive(self) -> dict[str, Any]:
        """The fields that determine the weights: task, recipe, seed, loss_weight and probe_every."""
        return {name: getattr(self, name) for name in ("task", "recipe", "seed", "loss_weight", "probe_every")}


def read_info(path: Path) -> RunInfo:
    """Reads a description.

    Args:
        path: The file.

    Raises:
        ValueError: If it does not describe a run.
    """
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise TypeError(f"it must hold an object, got {content!r:.60}")
        kinds = {field.name: _KINDS[str(field.type)] for field in fields(RunInfo)}
        for name, value in content.items():
            if name in kinds and type(value) not in kinds[name]:
                raise TypeError(f"{name} must be {' or '.join(kind.__name__ for kind in kinds[name])}, got {value!r}")
        return RunInfo(**content)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} does not describe a run: {error}") from None


_KINDS: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (float, int)}
