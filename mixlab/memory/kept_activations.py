"""A training whose activations are counted, checked, and shown as a table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import get_args

from mixlab.arguments import require_whole
from mixlab.formats import BF16, FP16
from mixlab.memory.choices import AttentionKind, Checkpointing
from mixlab.memory.parallel import ONE_GPU, Parallelism
from mixlab.recipes import Recipe
from mixlab.shapes import ModelShape
from mixlab.tables import html_table, text_table


@dataclass(frozen=True)
class KeptActivations(ABC):
    """The activations that one microbatch keeps for backward on one GPU. Its repr and its HTML are a table.

    Args:
        shape: Shape of the model.
        recipe: Recipe of the training; its formats decide the bytes of a number.
        batch: Rows of the microbatch.
        seq: Tokens per row.
        attention: "fused" or "materialised", as for `transformer`.
        checkpointing: "none", "selective" or "full", as for `transformer`.
        parallel: Division over GPUs.

    Raises:
        TypeError: If `shape`, `recipe` or `parallel` is of another type.
        ValueError: If a value is not allowed, or the sequence is longer than the model has positions.
    """

    shape: ModelShape
    recipe: Recipe
    batch: int
    seq: int
    attention: AttentionKind = "fused"
    checkpointing: Checkpointing = "none"
    parallel: Parallelism = ONE_GPU

    def __post_init__(self) -> None:
        if not isinstance(self.shape, ModelShape):
            raise TypeError(f"shape must be a ModelShape, got {self.shape!r:.60}; model_shape(name) returns one")
        if not isinstance(self.recipe, Recipe):
            raise TypeError(f"recipe must be a Recipe, got {self.recipe!r}; Recipe.parse(text) makes one")
        require_whole("batch", self.batch, 1)
        require_whole("seq", self.seq, 1)
        if self.shape.design.positions == "learned" and self.seq > self.shape.context:
            raise ValueError(
                f"seq={self.seq} is longer than {self.shape.name}, which has an embedding for each of "
                f"{self.shape.context} positions; use at most that, or a shape with rotary embeddings"
            )
        for name, kinds in (("attention", AttentionKind), ("checkpointing", Checkpointing)):
            if getattr(self, name) not in get_args(kinds):
                raise ValueError(f"{name} must be one of {', '.join(get_args(kinds))}, got {getattr(self, name)!r}")
        if not isinstance(self.parallel, Parallelism):
            raise TypeError(f"parallel must be a Parallelism, got {self.parallel!r}")
        self.parallel.check(self.shape)

    @property
    def tokens(self) -> int:
        """Tokens of the microbatch."""
        return self.batch * self.seq

    @property
    def residual_bytes(self) -> int:
        """Bytes of a number between layers: r."""
        return 2 if self.recipe.weights in (FP16, BF16) else 4

    @property
    def compute_bytes(self) -> int:
        """Bytes of a number in a product's operand: c."""
        return 2 if self.recipe.compute in (FP16, BF16) else 4

    @property
    @abstractmethod
    def layer(self) -> dict[str, int]:
        """Bytes that a layer keeps, by kind; with experts, a layer that has them."""

    @property
    @abstractmethod
    def bytes(self) -> int:
        """Bytes of all layers and the loss, as on a single GPU at the end of a forward pass."""

    @property
    def layer_bytes(self) -> int:
        """Bytes that one layer keeps."""
        return sum(self.layer.values())

    @property
    def per_layer(self) -> float:
        """Bytes of a layer per token and unit of width, as Korthikanti et al., 2022, state them."""
        return self.layer_bytes / (self.tokens * self.shape.width)

    def __repr__(self) -> str:
        return f"{self._title()}\n{text_table(_COLUMNS, self._rows())}"

    def _repr_html_(self) -> str:
        return html_table(_COLUMNS, self._rows(), caption=self._title())

    def _title(self) -> str:
        return f"{self.shape.name}, {self.recipe}: {self.per_layer:.4g} bytes per layer, token and unit of width"

    def _rows(self) -> list[tuple[str, str]]:
        unit = self.tokens * self.shape.width
        return [(name, f"{size / unit:.4g}") for name, size in self.layer.items()]


_COLUMNS = ("kept by a layer", "bytes per token and unit of width")
