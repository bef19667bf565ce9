"""The memory of a transformer's training step from closed formulas, in under a millisecond: what moves with sliders.

`mixlab.memory.tracing` has the same numbers for any model, exactly and in seconds; tests hold the two together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import get_args

from mixlab.arguments import require_whole
from mixlab.machine import Gpu
from mixlab.memory.activation_formulas import Activations, activations
from mixlab.memory.categories import PHASES, Phase
from mixlab.memory.gpus import GpuSpec, gpu_spec
from mixlab.memory.instants import Instant, Step, StepKind
from mixlab.memory.parallel import ONE_GPU, Parallelism, PipelineStage, pipeline_stages
from mixlab.memory.shapes import AttentionKind, Checkpointing, ModelShape
from mixlab.optimizers import OptimizerName
from mixlab.recipes import Recipe
from mixlab.tables import gib, html_table, text_table

# What no tensor of the program holds; models, beside which stands what the shipped record of an H100 has.
CUBLAS_WORKSPACES = 2 * 32 * 2**20  # 32 MiB a thread on Hopper and later, 8 before, forward and backward; 64 to 66 MiB
CUDA_CONTEXT = 500 * 2**20  # of the driver and loaded kernels; 300 to 600 MiB, not recorded
FRAGMENTATION = 0.08  # of the peak; reserved were 4 to 14 % more for GPTs without checkpoints, up to half with them


@dataclass(frozen=True)
class Fit:
    """Whether a training fits on a GPU. True in a condition if it does.

    Attributes:
        gpu: Which.
        needed: Bytes, with what lies outside of the program's tensors.
    """

    gpu: GpuSpec
    needed: int

    @property
    def room(self) -> int:
        """Bytes that are left; negative if it does not fit."""
        return self.gpu.usable_bytes - self.needed

    @property
    def fraction(self) -> float:
        """Of the GPU's memory that is needed."""
        return self.needed / self.gpu.usable_bytes

    def __bool__(self) -> bool:
        return self.room >= 0

    def __str__(self) -> str:
        word = "fits on" if self else "does not fit on"
        return f"{word} {self.gpu}: {gib(self.needed)} of {gib(self.gpu.usable_bytes)} GiB"


@dataclass(frozen=True)
class Estimate:
    """A training step, and the memory of the GPU that needs most. Its repr and its HTML are a table.

    The fields are what it is an estimate of; `dataclasses.replace(estimate, batch=2)` is another.

    Attributes:
        shape, recipe, batch, seq, attention, checkpointing, optimizer, step, accumulation, parallel: As for `estimate`.
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

    def __post_init__(self) -> None:
        for name, kinds in (("optimizer", OptimizerName), ("step", StepKind)):
            if getattr(self, name) not in get_args(kinds):
                raise ValueError(f"{name} must be one of {', '.join(get_args(kinds))}, got {getattr(self, name)!r}")
        require_whole("accumulation", self.accumulation, 1)
        _ = self.activations  # checks the rest

    @cached_property
    def activations(self) -> Activations:
        """What a microbatch keeps for backward."""
        return Activations(
            *(self.shape, self.recipe, self.batch, self.seq, self.attention, self.checkpointing, self.parallel)
        )

    @cached_property
    def stage(self) -> PipelineStage:
        """What the GPU that needs most holds of the model."""
        return self._worst[0]

    @cached_property
    def instants(self) -> tuple[Instant, ...]:
        """The instants of the step at which memory may peak, in order."""
        return self._worst[1]

    @cached_property
    def _worst(self) -> tuple[PipelineStage, tuple[Instant, ...]]:
        accumulates = self.accumulation > 1 or self.parallel.microbatches > 1
        steps = [
            Step(self.activations, stage, self.optimizer, self.step, accumulates)
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
        return self.peak.phase

    @property
    def peak_bytes(self) -> int:
        """Of tensors: what `torch.cuda.max_memory_allocated` would say, but for workspaces."""
        return self.peak.bytes

    @property
    def at_peak(self) -> dict[str, int]:
        """Bytes by category."""
        return self.peak.content

    @property
    def outside(self) -> dict[str, int]:
        """Bytes that no tensor of the program holds, from coarse models: see the constants of this module.

        Buffers of NCCL, which come with several GPUs, are not in it.
        """
        return {
            "cuBLAS workspaces": CUBLAS_WORKSPACES,
            "CUDA context": CUDA_CONTEXT,
            "fragmentation": int(FRAGMENTATION * self.peak_bytes),
        }

    @property
    def total_bytes(self) -> int:
        return self.peak_bytes + sum(self.outside.values())

    def fits(self, gpu: str | GpuSpec | Gpu) -> Fit:
        """Returns whether it fits on a GPU, and what is left or missing.

        Raises:
            ValueError: An unknown GPU.
        """
        return Fit(gpu_spec(gpu), self.total_bytes)

    def __repr__(self) -> str:
        return f"{self._title()}\n{text_table(('GiB', *PHASES), self._rows())}"

    def _repr_html_(self) -> str:
        return html_table(("GiB", *PHASES), self._rows(), caption=self._title(), row_heads=True)

    def _title(self) -> str:
        many = f" on {self.parallel}" if self.parallel.gpus > 1 else ""
        return (
            f"{self.shape.name}, {self.recipe}, {self.batch} x {self.seq} tokens{many}: {gib(self.peak_bytes)} GiB at "
            f"the {self.peak.name} ({self.peak_phase}), {gib(self.total_bytes)} with what lies outside of tensors"
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
) -> Estimate:
    """Returns the memory of a training step of a transformer, as `mixlab.memory.transformers` builds it, on CUDA.

    The same shape built by others may need more. Of Hugging Face's transformers, gpt2, whose activation gelu_new is
    made of several ops, needs half as much again (the estimate is 32 to 34 % below its trace), and llama a little more
    (4 to 10 % below). `mixlab.memory.trace` tells of any model that is at hand.

    >>> round(estimate("gpt2", "fp32", batch=4, seq=512).peak_bytes / 2**20)
    3768

    Args:
        model: A shape, or its name.
        recipe: Or its text.
        batch: Rows of one forward pass, on one GPU.
        seq: Tokens a row; None is the model's context, at most 2048.
        attention: "fused" or "materialised".
        checkpointing: "none", "selective" or "full".
        optimizer: "adam" (or AdamW) or "sgd" with momentum.
        step: How torch.optim takes its step: "foreach", as it does by itself on CUDA, "fused" or parameter by parameter
            ("loop"). Recipes that torch.optim does not know train with mixlab's own optimizers, parameter by parameter,
            but for "fused", which is their compiled step.
        accumulation: Forward and backward passes of a step, whose gradients add up.
        parallel: On how many GPUs, and what they divide. With more than one, gradients are views of what is sent;
            with ZeRO 3, the parameters of two layers are gathered at a time, in the format that products take, and
            those outside of layers from the forward to the backward pass. All of this is modelled, and not measured.

    Raises:
        TypeError, ValueError: Values that are not allowed, or that do not go together; a message says what does.
    """
    acts = activations(
        model, recipe, batch=batch, seq=seq, attention=attention, checkpointing=checkpointing, parallel=parallel
    )
    return Estimate(
        *(acts.shape, acts.recipe, acts.batch, acts.seq, attention, checkpointing),
        *(optimizer, step, accumulation, parallel),
    )
