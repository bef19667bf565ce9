"""Traces as on a CPU against real steps of the same model; each comparison is a row of the table that a run prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from mixlab.batches import Batch, Loss
from mixlab.memory import trace
from mixlab.memory.categories import PHASES
from tests.conftest import TRACED_PROPERTY
from tests.reference.real_allocations import steps_without_scratch

CPU = torch.device("cpu")
Say = Callable[[str, object], None]  # pytest's record_property


@dataclass(frozen=True)
class Architecture:
    """A model that somebody else wrote, and a batch that it trains on.

    Attributes:
        kind: What it is trained to do, and how.
        make: Returns a new model in float32.
        batch: What it is called with.
        loss: As for `mixlab.memory.trace`.
    """

    kind: str
    make: Callable[[], nn.Module]
    batch: Batch
    loss: Loss | None = None


def assert_exact(
    say: Say, name: str, architecture: Architecture, recipe: str, *, apart: int = 0, reason: str = ""
) -> None:
    """Traces and really takes a step, says what came, and compares peaks and ends of all phases.

    Args:
        say: pytest's `record_property`.
        name: Name of the architecture.
        architecture: The model and its batch.
        recipe: Text of the recipe.
        apart: The largest difference, in bytes, of the peak, of a phase's peak or of what is left after a phase.
        reason: Why it differs.
    """
    batch, loss = architecture.batch, architecture.loss
    found = trace(architecture.make(), batch, recipe, loss=loss, optimizer="sgd", as_on="cpu")
    (step,) = steps_without_scratch(architecture.make, batch, recipe, device=CPU, loss=loss, optimizer="sgd")
    differences = {"peak": found.peak_bytes - step.peak_bytes}
    differences |= {f"peak of {phase}": found.phase_peaks[phase] - step.phase_peaks[phase] for phase in PHASES}
    differences |= {f"after {phase}": found.after[phase] - step.after[phase] for phase in PHASES}
    worst = max(differences.values(), key=abs)
    row = (name, architecture.kind, recipe, f"{found.numel:,}", f"{found.peak_bytes:,}", f"{step.peak_bytes:,}")
    say(TRACED_PROPERTY, [*row, f"{worst:+,}" if worst else "0", reason])
    assert worst == apart, differences
