"""Sizes of the GPT that `measure_train` trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mixlab.arguments import require_whole

if TYPE_CHECKING:
    from mixlab.training import Task


@dataclass(frozen=True)
class GPTShape:
    """Sizes of a GPT and its batches. The default is GPT-2 small, with the vocabulary rounded up to a multiple of 128.

    Attributes:
        width: Width of the residual stream.
        layers: Transformer blocks.
        heads: Attention heads of a layer; they must divide the width.
        vocabulary: Rows of the embedding, from 128 up.
        context: Tokens per row.
        batch: Rows per step.

    Raises:
        ValueError: If a size is not a whole number from 1 up, or sizes do not fit together.
    """

    width: int = 768
    layers: int = 12
    heads: int = 12
    vocabulary: int = 50304
    context: int = 1024
    batch: int = 8

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            require_whole(f"GPTShape: {name}", value, 1)
        if self.width % self.heads:
            raise ValueError(f"GPTShape: heads must divide width, got {self.heads} heads and a width of {self.width}")
        if self.vocabulary < 128:
            raise ValueError(f"GPTShape: vocabulary must hold the 128 ASCII codes, got {self.vocabulary}")

    @property
    def tokens(self) -> int:
        """Tokens per step."""
        return self.batch * self.context

    @property
    def parameters(self) -> int:
        """Parameters of the model; its head shares the token embedding's weights."""
        block = 12 * self.width**2 + 13 * self.width
        return (self.vocabulary + self.context + 2) * self.width + self.layers * block

    @property
    def flops_per_token(self) -> float:
        """FLOPs of forward and backward: 6 per parameter, and 12 * layers * width * context for attention.

        Chowdhery et al., PaLM: Scaling Language Modeling with Pathways, 2022. The position embedding counts
        too, though nothing is multiplied by it: under 1 %.
        """
        return 6.0 * self.parameters + 12.0 * self.layers * self.width * self.context

    def task(self) -> Task:
        """Returns the task: predict the next character of Python's manual, with AdamW."""

        from torch import nn  # only here: a command checks sizes before it imports torch

        from mixlab.training import Task, TinyGPT
        from mixlab.training.tasks import text_batches

        def model() -> nn.Module:
            gpt = TinyGPT(
                vocabulary=self.vocabulary,
                context=self.context,
                width=self.width,
                heads=self.heads,
                layers=self.layers,
            )
            nn.init.normal_(gpt.token.weight, std=0.02)
            gpt.head.weight = gpt.token.weight
            return gpt

        draw, held_out = text_batches(batch=self.batch, context=self.context)
        return Task(f"gpt-{self.parameters / 1e6:.0f}M", model, draw, held_out, optimizer="adamw", lr=3e-4)


SMALL = GPTShape(width=256, layers=4, heads=4, vocabulary=4096, context=128, batch=8)  # minutes on two CPU cores
