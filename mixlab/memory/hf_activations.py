"""The activations that a module of Hugging Face's transformers keeps, from a recorded pass."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from mixlab.formats import FP32
from mixlab.memory.choices import AttentionKind, Checkpointing
from mixlab.memory.hf_record import PassRecord, Setup, recorded
from mixlab.memory.hf_writings import writing_of
from mixlab.memory.kept_activations import KeptActivations
from mixlab.memory.parallel import ONE_GPU, Parallelism
from mixlab.memory.tape import Formats
from mixlab.recipes import Recipe
from mixlab.shapes import ModelShape

_SPREAD = ("ernie4_5_moe", "qwen2_moe", "qwen3_moe")  # types whose files say which layers have experts


@dataclass(frozen=True, repr=False)
class RecordedActivations(KeptActivations):
    """The activations that a module of transformers keeps, by the part of the layer that made them.

    "fused" is `attn_implementation="sdpa"`, "materialised" is "eager"; "full" is `gradient_checkpointing_enable`. A few
    model types have eager attention only, and take it whatever is asked for. Routing to experts changes no byte.

    Args:
        shape, recipe, batch, seq, attention, checkpointing, parallel: As for `KeptActivations`.

    Raises:
        TypeError, ValueError: As `KeptActivations`; also if `checkpointing` is "selective", which transformers does not
            have, or the layers are divided over GPUs, which is modelled for mixlab's own layers only.
    """

    # As in the base; the pages of the docs look for the types of a dataclass's arguments in its own module.
    shape: ModelShape
    recipe: Recipe
    batch: int
    seq: int
    attention: AttentionKind = "fused"
    checkpointing: Checkpointing = "none"
    parallel: Parallelism = ONE_GPU

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.checkpointing == "selective":
            raise ValueError("checkpointing=selective is not in transformers, whose layers are recomputed in full")
        for name in ("tensor", "pipeline"):
            if getattr(self.parallel, name) > 1:
                raise ValueError(
                    f"{name}={getattr(self.parallel, name)}: {name} parallelism is modelled for mixlab's own layers of "
                    f"GPT-2 and Llama, not for those of transformers; divide {self.shape.name} by data and ZeRO"
                )

    def record(self, *, accumulates: bool) -> PassRecord:
        """Returns the recorded pass.

        Args:
            accumulates: Whether gradients of an earlier pass exist.
        """
        return recorded(
            Setup(
                self.shape,
                self._formats,
                self.batch,
                self.seq,
                self.attention == "materialised",
                self.checkpointing == "full",
                accumulates,
            )
        )

    @property
    def _formats(self) -> Formats:
        gradient = 4 if self.recipe.gradients == FP32 else 2
        return Formats(self.residual_bytes, self.compute_bytes, gradient, self.recipe.autocast)

    @property
    def notes(self) -> tuple[str, ...]:
        """What differs from a training as asked for, in words."""
        writing, found = writing_of(self.shape.style), []
        if writing.only_eager and self.attention == "fused":
            found.append(f"transformers has only eager attention for {self.shape.style}: all scores are counted")
        if self.shape.window is not None and self.seq > self.shape.window:
            found.append(
                f"rows beyond the sliding windows of {self.shape.window} tokens take attention with a mask, which is "
                "not counted: trace them, bytes may be a quarter off and more"
            )
        experts = self.shape.experts
        if experts and 0 < experts.dense_layers < self.shape.layers and self.shape.style in _SPREAD:
            found.append(
                "layers without experts are counted as the first ones: if they stand between others, the peak may be "
                "up to 6 % higher"
            )
        if experts and experts.shared and self.checkpointing == "full":
            found.append("layers of experts with a shared one are counted up to 10 % high where they are recomputed")
        return tuple(found)

    @cached_property
    def layer(self) -> dict[str, int]:
        """Bytes that a layer keeps, by the part that made them; with experts, a layer that has them."""
        record = self.record(accumulates=False)
        return dict(record.layers[record.order[-1]].made_by)

    @cached_property
    def in_layers(self) -> dict[str, int]:
        """Bytes that all layers together keep, by the part that made them."""
        record, found = self.record(accumulates=False), Counter[str]()
        for place, count in Counter(record.order).items():
            found.update({part: count * size for part, size in record.layers[place].made_by.items()})
        return dict(found)

    @cached_property
    def outside(self) -> dict[str, int]:
        """Bytes that are kept outside the layers, by the part that made them."""
        record = self.record(accumulates=False)
        return dict(record.embedding.made_by + record.head.made_by)

    @property
    def bytes(self) -> int:
        """Bytes of all layers and the loss, at the end of a forward pass."""
        return sum(self.in_layers.values()) + sum(self.outside.values())
