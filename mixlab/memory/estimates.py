"""The memory of a transformer's training step in a millisecond or two: fast enough for sliders.

For mixlab's own layers it is a closed form; for transformers' it is a record of their ops, with sizes only.
`mixlab.memory.trace` gives the bytes of any model in seconds; tests compare the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import get_args

from mixlab.arguments import require_whole
from mixlab.memory.activation_formulas import Activations, activations, activations_of
from mixlab.memory.categories import ACTIVATIONS, CASTS, GRADIENTS, PHASES, TEMPORARIES, Phase
from mixlab.memory.choices import AttentionKind, Checkpointing, Implementation, implementation_of
from mixlab.memory.fits import MemoryNeeds
from mixlab.memory.hf_activations import RecordedActivations
from mixlab.memory.hf_step import RecordedStep
from mixlab.memory.instants import GATHERED, Instant, Step, StepKind
from mixlab.memory.parallel import ONE_GPU, Parallelism, PipelineStage, pipeline_stages
from mixlab.optimizers import OptimizerName
from mixlab.recipes import Recipe
from mixlab.shapes import ModelShape
from mixlab.tables import gib, html_table, text_table

# What the allocator holds and cannot use, as a share of what lives only within a step. Recorded on an H100 on GPTs with
# 4 rows: 0.06 to 0.21 without full checkpoints, 0.74 to 1.00 with them (22 to 44 % of the peak); with more rows
# `replay_trace` gives 0.36 to 0.84. An allocator that runs out of memory first gives back segments that are wholly
# free, and with expandable_segments it needs less.
FRAGMENTATION: Mapping[Checkpointing, float] = {"none": 0.12, "selective": 0.12, "full": 0.6}
_WITHIN_A_STEP = frozenset({ACTIVATIONS, CASTS, GATHERED, GRADIENTS, TEMPORARIES})


@dataclass(frozen=True)
class Estimate(MemoryNeeds):
    """A training step, and the memory of the GPU that needs most. Its repr and its HTML are a table.

    The fields describe the training; `dataclasses.replace(estimate, batch=2)` is the estimate of another.

    Attributes:
        shape: Shape of the model.
        recipe: Recipe of the training.
        batch, seq, attention, checkpointing, optimizer, step, accumulation, parallel, implementation: As for
            `estimate`.
    """

    shape: ModelShape
    recipe: Recipe
    batch: int
    seq: int
    attention: AttentionKind = "fused"
    checkpointing: Checkpointing = "none"
    optimizer: OptimizerName = "adam"
    step: StepKind = "foreach"
    accumulation: int = 1
    parallel: Parallelism = ONE_GPU
    implementation: Implementation | None = None

    def __post_init__(self) -> None:
        for name, kinds in (("optimizer", OptimizerName), ("step", StepKind)):
            if getattr(self, name) not in get_args(kinds):
                raise ValueError(f"{name} must be one of {', '.join(get_args(kinds))}, got {getattr(self, name)!r}")
        require_whole("accumulation", self.accumulation, 1)
        _ = self.activations  # checks the rest

    @cached_property
    def activations(self) -> Activations | RecordedActivations:
        """The activations that a microbatch keeps for backward."""
        return activations_of(
            self.shape,
            self.recipe,
            self.batch,
            self.seq,
            self.attention,
            self.checkpointing,
            self.parallel,
            self.implementation,
        )

    @property
    def module(self) -> Implementation:
        """Whose module is estimated: `implementation`, or what its None stands for."""
        return implementation_of(self.shape, self.implementation)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the estimate leaves out or takes in another way than asked for, in words."""
        return self.activations.notes if isinstance(self.activations, RecordedActivations) else ()

    @property
    def stage(self) -> PipelineStage | None:
        """The part of the model on the GPU that needs most; None for a module of transformers, which is not divided."""
        return self._worst[0]

    @cached_property
    def instants(self) -> tuple[Instant, ...]:
        """The instants of the step at which memory may peak, in order."""
        return self._worst[1]

    @cached_property
    def _worst(self) -> tuple[PipelineStage | None, tuple[Instant, ...]]:
        accumulates = self.accumulation > 1 or self.parallel.microbatches > 1
        kept = self.activations
        if isinstance(kept, RecordedActivations):
            record = kept.record(accumulates=accumulates)
            return None, RecordedStep(
                record, self.recipe, kept.tokens, self.optimizer, self.step, accumulates, self.parallel
            ).instants()
        steps = [
            Step(kept, stage, self.optimizer, self.step, accumulates)
            for stage in pipeline_stages(self.shape, self.parallel)
        ]
        every = [(step.stage, step.instants()) for step in steps]
        return max(every, key=lambda one: _largest(one[1]).bytes)

    @cached_property
    def peak_instants(self) -> dict[Phase, Instant]:
        """The largest instant of each phase."""
        return {phase: _largest(one for one in self.instants if one.phase == phase) for phase in PHASES}

    @property
    def phase_peaks(self) -> dict[Phase, int]:
        """The most bytes of each phase."""
        return {phase: instant.bytes for phase, instant in self.peak_instants.items()}

    @property
    def at_phase_peaks(self) -> dict[Phase, dict[str, int]]:
        """Bytes by category at the peak of each phase."""
        return {phase: instant.content for phase, instant in self.peak_instants.items()}

    @property
    def peak(self) -> Instant:
        """The largest instant of the step."""
        return _largest(self.peak_instants.values())

    @property
    def peak_phase(self) -> Phase:
        """The phase of the peak."""
        return self.peak.phase

    @property
    def peak_bytes(self) -> int:
        """Peak bytes of tensors, in the sizes asked for, rounded up to 512 bytes.

        `torch.cuda.max_memory_allocated` also counts workspaces, and its blocks may be larger: by up to 2 % in records.
        """
        return self.peak.bytes

    @property
    def at_peak(self) -> dict[str, int]:
        """Bytes by category at the peak."""
        return self.peak.content

    @property
    def fragmentation(self) -> int:
        """Bytes that the caching allocator holds beyond the peak, from a rough model: see `FRAGMENTATION`."""
        passing = sum(size for name, size in self.at_peak.items() if name in _WITHIN_A_STEP)
        return int(FRAGMENTATION[self.checkpointing] * passing)

    def __repr__(self) -> str:
        return "\n".join([self._title(), text_table(("GiB", *PHASES), self._rows()), *self.notes])

    def _repr_html_(self) -> str:
        caption = "; ".join([self._title(), *self.notes])
        return html_table(("GiB", *PHASES), self._rows(), caption=caption, row_heads=True)

    def _title(self) -> str:
        many = f" on {self.parallel}" if self.parallel.gpus > 1 else ""
        model = self.shape.name + (", transformers' module" if self.module == "transformers" else "")
        return (
            f"{model}, {self.recipe}, {self.batch} x {self.seq} tokens{many}: {gib(self.peak_bytes)} GiB at "
            f"the {self.peak.name} ({self.peak_phase}), {gib(self.total_bytes)} with memory outside tensors"
        )

    def _rows(self) -> list[tuple[str, ...]]:
        names = dict.fromkeys(name for content in self.at_phase_peaks.values() for name in content)
        rows = [(name, *(gib(content.get(name, 0)) for content in self.at_phase_peaks.values())) for name in names]
        return [*rows, ("together", *(gib(sum(content.values())) for content in self.at_phase_peaks.values()))]


def _largest(instants: Iterable[Instant]) -> Instant:
    """Returns the largest instant, the first of several."""
    return max(instants, key=lambda instant: instant.bytes)


def estimate(
    model: ModelShape | str,
    recipe: Recipe | str,
    *,
    batch: int = 1,
    seq: int | None = None,
    attention: AttentionKind = "fused",
    checkpointing: Checkpointing = "none",
    optimizer: OptimizerName = "adam",
    step: StepKind = "foreach",
    accumulation: int = 1,
    parallel: Parallelism = ONE_GPU,
    implementation: Implementation | None = None,
) -> Estimate:
    """Estimates the memory of a transformer's training step on CUDA.

    Implementations of one shape differ. Mixlab's own layers (`transformer`) use fused ops throughout; those of Hugging
    Face's transformers compute norms and some activations by separate ops, which keep more. With
    `implementation="transformers"` these ops are gone through one by one, without torch, and the estimate is within 3 %
    of the trace of transformers' module with dropout as in its config. For a model of your own, use
    `mixlab.memory.trace`.

    >>> training = estimate("gpt2", "fp32", batch=4, seq=512)
    >>> round(training.peak_bytes / 2**20), training.peak.name
    (3768, 'gradient of the logits')

    An estimate knows which GPUs the training fits on; `dataclasses.replace` changes one thing:

    >>> print(training.fits("rtx-4090"))
    fits on rtx-4090: 4.50 of 23.52 GiB
    >>> from dataclasses import replace
    >>> round(replace(training, checkpointing="full").peak_bytes / 2**20)
    2686

    Several GPUs divide states and matrices:

    >>> from mixlab.memory import Parallelism
    >>> eight = estimate("llama-3-8b", "amp-bf16", checkpointing="full", parallel=Parallelism(data=8, zero=3))
    >>> bool(eight.fits("rtx-5090")), eight.peak_phase
    (True, 'backward')

    Transformers' own module of a shape needs more:

    >>> for whose in ("mixlab", "transformers"):
    ...     one = estimate("llama-3.2-1b", "bf16", batch=8, seq=1024, implementation=whose)
    ...     print(f"{one.peak_bytes / 2**30:.1f}")
    24.9
    32.0

    Args:
        model: A shape, or its name.
        recipe: Recipe of the training, or its text.
        batch: Rows of one forward pass on one GPU.
        seq: Tokens per row; None takes the model's context, at most 2048.
        attention: "fused" or "materialised", as for `transformer`.
        checkpointing: "none", "selective" or "full", as for `transformer`.
        optimizer: "sgd" (with momentum), "adam" or "adamw"; the last two need the same memory.
        step: How torch.optim steps: "foreach", its default on CUDA; "fused"; or "loop", parameter by parameter. Recipes
            that torch.optim cannot follow train with mixlab's own optimizers: there "fused" is the compiled step, and
            the other two go parameter by parameter.
        accumulation: Forward and backward passes per step, whose gradients add up.
        parallel: Division over GPUs. With more than one, gradients are views of the buffers that are sent. With ZeRO 3,
            the parameters of two layers are gathered at a time, in the format of products, and parameters outside the
            layers stay gathered from forward to backward. All of this is modelled, not measured.
        implementation: "mixlab": mixlab's own layers, of GPT-2's and Llama's kind. "transformers": the module of
            transformers 5.24, with the loss that it computes from labels; it can be divided by data and ZeRO only, and
            knows no selective checkpointing. None: mixlab's own if it has layers of this shape, else transformers'.

    Raises:
        TypeError: If an argument is of another type.
        ValueError: If a value is not allowed, or values do not go together; the message says which are allowed.
    """
    acts = activations(
        model,
        recipe,
        batch=batch,
        seq=seq,
        attention=attention,
        checkpointing=checkpointing,
        parallel=parallel,
        implementation=implementation,
    )
    return Estimate(
        acts.shape,
        acts.recipe,
        acts.batch,
        acts.seq,
        attention,
        checkpointing,
        optimizer,
        step,
        accumulation,
        parallel,
        implementation,
    )
