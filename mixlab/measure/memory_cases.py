"""Trainings whose memory is both traced and measured: models, batches and recipes by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mixlab.arguments import did_you_mean
from mixlab.memory import AttentionKind, Checkpointing
from mixlab.recipes import Recipe

if TYPE_CHECKING:
    from torch import nn

    from mixlab.batches import Batch


@dataclass(frozen=True)
class MemoryCase:
    """One training to trace and to measure.

    Attributes:
        model: A name of `mixlab.measure.memory_models.MODELS`.
        rows: Rows of a batch.
        recipe: Text of the recipe.
        attention, checkpointing: As for `mixlab.memory.transformer`.
    """

    model: str
    rows: int
    recipe: str
    attention: AttentionKind = "fused"
    checkpointing: Checkpointing = "none"

    @property
    def name(self) -> str:
        """Its name in records, such as "gpt2 x4 amp-bf16 full"."""
        words = [self.model, f"x{self.rows}", self.recipe]
        words += [self.attention] if self.attention != "fused" else []
        words += [self.checkpointing] if self.checkpointing != "none" else []
        return " ".join(words)

    def make_model(self) -> nn.Module:
        """Returns a new model, on torch's default device."""
        from mixlab.measure.memory_models import MODELS  # which needs torch, as the names of cases do not

        return MODELS[self.model].make(self.attention, self.checkpointing)

    def batch(self, seed: int = 0) -> Batch:
        """Returns (inputs, targets) on the CPU."""
        import torch

        from mixlab.measure.memory_models import MODELS

        return MODELS[self.model].draw(self.rows, torch.Generator().manual_seed(seed))


_RECIPES = ("fp32", "amp-bf16", "amp-fp16", "bf16", "bf16-master", "lean-bf16")


def _grid(prefix: str, **rows: int) -> tuple[MemoryCase, ...]:
    """Returns every model with every recipe, and transformers with checkpoints; `rows` are rows of a batch by model."""
    gpt2, llama = f"{prefix}gpt2", f"{prefix}llama"
    return (
        *(MemoryCase(prefix + model, rows[model], recipe) for model in rows for recipe in _RECIPES),
        *(MemoryCase(gpt2, 3 * rows["gpt2"], recipe) for recipe in ("amp-bf16", "bf16")),
        *(MemoryCase(gpt2, rows["gpt2"], recipe, checkpointing="full") for recipe in ("fp32", "amp-bf16", "bf16")),
        *(MemoryCase(llama, rows["llama"], recipe, checkpointing="full") for recipe in ("amp-fp16", "bf16-master")),
    )


_ONLY_ON_CUDA = (
    MemoryCase("cnn", 128, "tf32"),
    MemoryCase("gpt2", 4, "fp32", "materialised"),
    MemoryCase("gpt2", 4, "amp-bf16", "materialised"),
    MemoryCase("gpt2", 4, "amp-fp16", "materialised", "selective"),
)


def _recorded_on_a_cpu(case: MemoryCase) -> bool:
    """Whether the shipped record has the case: it lacks BatchNorm under autocast."""
    return not (case.model == "small-cnn" and Recipe.parse(case.recipe).autocast)


# By kind of device. On CUDA peaks are 1 to 8 GiB, so 16 GiB are enough. On a CPU all cases take half a minute together,
# and none has materialised attention: autograd keeps the factor of its scores as a tensor, which traces leave out.
CASES: dict[str, dict[str, MemoryCase]] = {
    kind: {case.name: case for case in cases}
    for kind, cases in (
        ("cuda", (*_grid("", gpt2=4, llama=4, cnn=128, mlp=2048), *_ONLY_ON_CUDA)),
        ("cpu", filter(_recorded_on_a_cpu, _grid("small-", gpt2=6, llama=2, cnn=2, mlp=16))),
    )
}


def cases(kind: str, names: Sequence[str] | None = None) -> tuple[MemoryCase, ...]:
    """Returns the cases for a kind of device.

    Args:
        kind: "cuda" or "cpu".
        names: Names of cases; None takes all.

    Raises:
        ValueError: If a name is unknown; the message offers similar ones.
    """
    known = CASES[kind]
    for name in names or ():
        if name not in known:
            raise ValueError(f"unknown case {name!r}: {did_you_mean(name, known)}There are {', '.join(known)}")
    return tuple(known.values() if names is None else (known[name] for name in names))
