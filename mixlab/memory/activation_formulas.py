"""The activations that a transformer keeps from forward to backward, as formulas: bytes by layer and kind.

The formulas describe `mixlab.memory.transformer` on CUDA, op by op, and are tested against `trace`. They give bytes per
layer, token and unit of width, without dropout, for width h, feed-forward width f, a heads and sequence length s; r is
the bytes of a number between layers, and c those of a number in a product's operand:

    gpt2    2 r + c (n + 1) + 3 c + c + 2 c f / h                     n = 1, under autocast 3
    llama   2 r + c (n + m) + c (1 + 2) + c + 4 c f / h               m = 1, under autocast 2

Autocast does not cache casts of activations, so each product saves its own. Add 4 a / h for attention's log-sum-exp,
8 / h for the statistics of each LayerNorm or 4 / h for those of each RMSNorm; materialised attention has its
probabilities instead of the log-sum-exp: 4, 6 or 2 a s / h with fp32, autocast or 16 bits. The count follows
Korthikanti et al., Reducing Activation Recomputation in Large Transformer Models, 2022; their
34 + 5 a s / h assumes dropout, 16 bits everywhere, and a single product for queries, keys and values.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from mixlab.memory.choices import AttentionKind, Checkpointing, Implementation, implementation_of
from mixlab.memory.hf_activations import RecordedActivations
from mixlab.memory.kept_activations import KeptActivations
from mixlab.memory.parallel import ONE_GPU, Parallelism
from mixlab.recipes import Recipe
from mixlab.shapes import ModelShape, model_shape


@dataclass(frozen=True, repr=False)
class Activations(KeptActivations):
    """The activations that one microbatch keeps for backward on one GPU. Its repr and its HTML are a table.

    Args:
        shape: Shape of a model whose layers mixlab has itself.
        recipe: Recipe of the training; its formats decide r and c in the formulas.
        batch, seq, attention, checkpointing: As for `KeptActivations`.
        parallel: Division over GPUs. Tensor parallelism divides tensors within attention and feed-forward, and those
            between them only with `sequence` (Korthikanti et al., 2022, equations 2 and 4).

    Raises:
        TypeError, ValueError: As `KeptActivations`; also if mixlab has no such layers itself.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        implementation_of(self.shape, "mixlab")

    @property
    def probability_bytes(self) -> int:
        """Bytes of the softmax of a score; autocast computes it in fp32 from 16 bits."""
        return 4 if self.recipe.autocast else self.compute_bytes

    @property
    def between(self) -> int:
        """Elements of a tensor between layers."""
        return self.tokens * self.shape.width // (self.parallel.tensor if self.parallel.sequence else 1)

    @property
    def queries(self) -> int:
        """Elements of a layer's queries, of all heads."""
        return self.tokens * self.shape.width // self.parallel.tensor

    @property
    def hidden(self) -> int:
        """Elements of a tensor within the feed-forward network."""
        return self.tokens * self.shape.ffn // self.parallel.tensor

    @property
    def scores(self) -> int:
        """Elements of a layer's attention scores, whether they are materialised or not."""
        return self.batch * self.shape.heads * self.seq**2 // self.parallel.tensor

    @property
    def logits(self) -> int:
        """Elements of the logits."""
        return self.tokens * -(-self.shape.vocabulary // self.parallel.tensor)

    @cached_property
    def whole_layer(self) -> dict[str, int]:
        """Bytes of a layer by kind without full checkpointing; recomputing a checkpointed layer needs them too."""
        r, c = self.residual_bytes, self.compute_bytes
        llama, autocast = self.shape.lean == "llama", self.recipe.autocast
        statistics = (4 if llama else 8) * self.between // self.shape.width
        # Rotary tables are fp32 where the residual is, and so are rotated queries and keys until attention casts them.
        rotated = r if llama and self.checkpointing == "selective" else c
        parts = {
            "input": r * self.between,
            "statistics of its norm": statistics,
            "operands of queries, keys, values": c * self.between * (3 if autocast else 1),
            "queries": rotated * self.queries,
            "keys": rotated * self.queries,
            "values": c * self.queries,
            "attended": c * self.queries,
            "middle": r * self.between,
            "statistics of the middle's norm": statistics,
            "operands of the feed-forward": c * self.between * (2 if llama and autocast else 1),
        }
        if self.checkpointing != "selective":
            if self.attention == "fused":
                rows = self.seq if c == 2 else -(-self.seq // 32) * 32  # as the kernels for fp32 count them
                parts["log-sum-exp of scores"] = 4 * rows * self.batch * self.shape.heads // self.parallel.tensor
            else:
                parts["probabilities"] = self.scores * (6 if autocast else c)
        names = ("gate", "its SiLU", "up", "their product") if llama else ("hidden", "its GELU")
        return parts | dict.fromkeys(names, c * self.hidden)

    @cached_property
    def layer(self) -> dict[str, int]:
        """Bytes that each layer keeps, by kind."""
        if self.checkpointing == "full":
            return {"input": self.whole_layer["input"]}
        return self.whole_layer

    @cached_property
    def shared(self) -> dict[str, int]:
        """Bytes that all layers share, by kind."""
        parts = {}
        if self.shape.lean == "llama":
            parts["rotary tables"] = 2 * self.seq * self.shape.head_width * self.residual_bytes
        else:
            parts["positions"] = 8 * self.seq  # in int64, for their embedding's gradient
        if self.attention == "materialised":
            parts["causal mask"] = self.seq**2
        return parts

    @cached_property
    def head(self) -> dict[str, int]:
        """Bytes that the last norm and the output layer keep, by kind, without tensors as large as the logits."""
        return {
            "input of the last norm": self.residual_bytes * self.between,
            "its statistics": (4 if self.shape.lean == "llama" else 8) * self.between // self.shape.width,
            "operand of the head": self.compute_bytes * self.between,
        }

    @property
    def log_softmax(self) -> int:
        """Bytes that the loss keeps: the log-softmax, and under autocast its copy in fp32."""
        return (self.compute_bytes + (4 if self.recipe.autocast else 0)) * self.logits

    @property
    def bytes(self) -> int:
        """Bytes of all layers and the loss, as on a single GPU at the end of a forward pass."""
        rest = sum(self.shared.values()) + sum(self.head.values()) + self.log_softmax
        return self.shape.layers * self.layer_bytes + rest


def activations(
    model: ModelShape | str,
    recipe: Recipe | str,
    *,
    batch: int = 1,
    seq: int | None = None,
    attention: AttentionKind = "fused",
    checkpointing: Checkpointing = "none",
    parallel: Parallelism = ONE_GPU,
    implementation: Implementation | None = None,
) -> Activations | RecordedActivations:
    """Computes the activations that a transformer keeps from forward to backward.

    >>> activations("llama-2-7b", "amp-bf16", seq=2048).per_layer
    47.533203125
    >>> activations("llama-2-7b", "amp-bf16", seq=2048, checkpointing="full").per_layer
    4.0

    Args:
        model: A shape, or its name.
        recipe: Recipe of the training, or its text.
        batch: Rows of a microbatch on one GPU.
        seq: Tokens per row; None takes the model's context, at most 2048.
        attention, checkpointing, parallel: As for `Activations`.
        implementation: As for `estimate`.

    Raises:
        TypeError: If an argument is of another type.
        ValueError: If a value is not allowed.
    """
    shape = model_shape(model) if isinstance(model, str) else model
    if seq is None and isinstance(shape, ModelShape):
        seq = min(shape.context, 2048)
    return activations_of(shape, Recipe.of(recipe), batch, seq, attention, checkpointing, parallel, implementation)


def activations_of(
    shape: ModelShape,
    recipe: Recipe,
    batch: int,
    seq: int,
    attention: AttentionKind,
    checkpointing: Checkpointing,
    parallel: Parallelism,
    implementation: Implementation | None,
) -> Activations | RecordedActivations:
    """Returns the activations of an implementation; the arguments are those of `activations`."""
    made = isinstance(shape, ModelShape) and implementation_of(shape, implementation) == "transformers"
    kind = RecordedActivations if made else Activations
    return kind(shape, recipe, batch, seq, attention, checkpointing, parallel)
