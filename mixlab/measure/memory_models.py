"""The models whose memory is traced and measured, and their batches, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

from mixlab.batches import Batch
from mixlab.memory import AttentionKind, Checkpointing, transformer
from mixlab.shapes import SHAPES, ModelShape


@dataclass(frozen=True)
class CaseModel:
    """How to make a model, and its batches of random numbers.

    Attributes:
        make: Returns the model in float32 from (attention, checkpointing), which only transformers use.
        draw: Returns (inputs, targets) from (rows, generator).
    """

    make: Callable[[AttentionKind, Checkpointing], nn.Module]
    draw: Callable[[int, torch.Generator], Batch]


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
