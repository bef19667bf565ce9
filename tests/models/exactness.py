"""Traces as on a CPU against real steps of the same model; each comparison is a row of the table that a run prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mixlab import Recipe
from mixlab.memory import trace
from mixlab.memory.categories import PHASES
from tests.conftest import TRACED_PROPERTY
from tests.reference.real_allocations import steps_without_scratch

Say = Callable[[str, object], None]  # pytest's record_property


@dataclass(frozen=True)
class Architecture:
    """A model that somebody else wrote, and a batch that it trains on.

    Attributes:
        kind: What it is trained to do, and how.
        make: Returns a new model in float32.
        batch: Named arguments of the model. Its output has a loss.
    """

    kind: str
    make: Callable[[], nn.Module]
    batch: dict[str, Any]


class _Called(nn.Module):
    """Calls a model with named arguments, for tools that give a model one tensor."""

    def __init__(self, model: nn.Module, batch: dict[str, Any]) -> None:
        super().__init__()
        self.model, self.options = model, dict(batch)
        for name, value in batch.items():
            if isinstance(value, Tensor):
                self.register_buffer(name, value.clone())
                del self.options[name]

    def forward(self, _x: Tensor) -> Any:
        return self.model(**dict(self.named_buffers(recurse=False)), **self.options)


def own_loss(output: Any, _target: Tensor) -> Tensor:
    return output["loss"]


def assert_exact(
    say: Say, name: str, architecture: Architecture, recipe: str, *, apart: int = 0, reason: str = ""
) -> None:
    """Traces and really takes a step, says what came, and compares peaks and ends of all phases.

    Args:
        say: pytest's `record_property`.
        name: Name of the architecture.
        architecture: The model and its batch.
        recipe: Text of the recipe.
        apart: Bytes by which the traced peak differs from the real one. If 0, nothing differs.
        reason: Why it differs.
    """
    batch = torch.zeros(1), torch.zeros(1)

    def make() -> nn.Module:
        torch.manual_seed(0)
        return _Called(architecture.make(), architecture.batch)

    found = trace(make(), batch, recipe, loss=own_loss, optimizer="sgd", as_on="cpu")
    options = {"device": torch.device("cpu"), "loss": own_loss, "optimizer": "sgd"}
    (step,) = steps_without_scratch(make, batch, Recipe.parse(recipe), **options)
    differences = {"peak": found.peak_bytes - step.peak_bytes}
    differences |= {f"peak of {phase}": found.phase_peaks[phase] - step.phase_peaks[phase] for phase in PHASES}
    differences |= {f"after {phase}": found.after[phase] - step.after[phase] for phase in PHASES}
    row = (name, architecture.kind, recipe, f"{found.numel:,}", f"{found.peak_bytes:,}", f"{step.peak_bytes:,}")
    say(TRACED_PROPERTY, [*row, f"{differences['peak']:+,}" if differences["peak"] else "0", reason])
    if apart:
        assert differences["peak"] == apart, differences
    else:
        assert not any(differences.values()), differences
