"""Trainings whose memory is both traced and measured: models, batches and recipes by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

from mixlab.arguments import did_you_mean
from mixlab.memory import SHAPES, AttentionKind, Checkpointing, ModelShape, transformer
from mixlab.recipes import Recipe
from mixlab.training import Batch


@dataclass(frozen=True)
class CaseModel:
    """How to make a model, and its batches of random numbers.

    Attributes:
        make: Returns the model in float32 from (attention, checkpointing), which only transformers use.
        draw: Returns (inputs, targets) from (rows, generator).
    """

    make: Callable[[AttentionKind, Checkpointing], nn.Module]
    draw: Callable[[int, torch.Generator], Batch]


@dataclass(frozen=True)
class MemoryCase:
    """One training to trace and to measure.

    Attributes:
        model: A name of `MODELS`.
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
        return MODELS[self.model].make(self.attention, self.checkpointing)

    def batch(self, seed: int = 0) -> Batch:
        """Returns (inputs, targets) on the CPU."""
        return MODELS[self.model].draw(self.rows, torch.Generator().manual_seed(seed))


def _language_model(shape: ModelShape, tokens: int) -> CaseModel:
    def make(attention: AttentionKind, checkpointing: Checkpointing) -> nn.Module:
        return transformer(shape, attention=attention, checkpointing=checkpointing)

    def draw(rows: int, generator: torch.Generator) -> Batch:
        text = torch.randint(shape.vocabulary, (rows, tokens + 1), generator=generator)
        return text[:, :-1].contiguous(), text[:, 1:].contiguous()

    return CaseModel(make, draw)


def _classifier(make: Callable[[], nn.Module], row: tuple[int, ...], classes: int) -> CaseModel:
    def draw(rows: int, generator: torch.Generator) -> Batch:
        targets = torch.randint(classes, (rows,), generator=generator)
        return torch.randn(rows, *row, generator=generator), targets

    return CaseModel(lambda _attention, _checkpointing: make(), draw)


def _cnn(channels: Sequence[int], classes: int) -> nn.Module:
    """Returns groups of two convolutions with BatchNorm and ReLU; each group ends by halving width and height."""
    layers: list[nn.Module] = []
    for before, after in zip((3, *channels), channels, strict=False):
        for inputs in (before, after):
            convolution = nn.Conv2d(inputs, after, 3, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], classes))


def _mlp(widths: Sequence[int]) -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.GELU()]
    return nn.Sequential(*layers[:-1])


_LLAMA = ModelShape("llama", 12, 1024, 16, 4, 2816, 32000, False, 4096)
_SMALL_GPT2 = ModelShape("small-gpt2", 2, 64, 4, 4, 256, 512, True, 64, "gpt2")
_SMALL_LLAMA = ModelShape("small-llama", 2, 64, 4, 2, 192, 512, False, 64)

MODELS: dict[str, CaseModel] = {
    "gpt2": _language_model(SHAPES["gpt2"], 512),
    "llama": _language_model(_LLAMA, 1024),
    "cnn": _classifier(lambda: _cnn((64, 128, 256, 512), 1000), (3, 128, 128), 1000),
    "mlp": _classifier(lambda: _mlp((1024, 8192, 8192, 8192, 1000)), (1024,), 1000),
    "small-gpt2": _language_model(_SMALL_GPT2, 48),
    "small-llama": _language_model(_SMALL_LLAMA, 48),
    "small-cnn": _classifier(lambda: _cnn((32, 64), 10), (3, 8, 8), 10),
    "small-mlp": _classifier(lambda: _mlp((64, 256, 256, 10)), (64,), 10),
}

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
