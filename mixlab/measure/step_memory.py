"""Measures the memory of real training steps, to compare with traces.

On CUDA the caching allocator keeps statistics. A CPU's allocator keeps none, so torch's profiler logs its calls.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch._C._profiler import _ExperimentalConfig
from torch.autograd import (  # type: ignore[attr-defined]
    ProfilerConfig,
    ProfilerState,
    _disable_profiler_legacy,
    _enable_profiler_legacy,
)
from torch.autograd.profiler import record_function

from mixlab import emulation
from mixlab.batches import (
    Batch,
    Loss,
    loss_on,
    placed,
    require_batch,
    require_dense,
    require_gradient,
    require_gradients,
    require_loss,
    require_real,
    tensors_of,
)
from mixlab.formats import FP32
from mixlab.layers import local_part, require_values
from mixlab.loss_scaling.checked_steps import unscale_without_reading_
from mixlab.machine import usable_device
from mixlab.memory.allocation_log import freed_by_reference_counts
from mixlab.memory.categories import PHASES, Phase
from mixlab.optimizers import MakeOptimizer, OptimizerName, state_tensors
from mixlab.process import ONEDNN
from mixlab.recipes import Recipe
from mixlab.training import make_optimizer

_BLOCK = 512  # bytes; CUDA's caching allocator rounds sizes up to a multiple of this


@dataclass
class RealStep:
    """The measured memory of one step, in bytes; names as in a `mixlab.memory.Trace`.

    Attributes:
        phase_peaks: The most bytes alive in each phase.
        after: The bytes alive at the end of each phase.
        parameters, gradients, states: Counted from the tensors themselves.
        batch: The batch, the model's buffers and, if they are on the device, the optimizer's step counters.
        requested: The most bytes alive, in requested sizes; the blocks of CUDA's caching allocator may be up to 1 MiB
            larger. 0 on a CPU, like the next two.
        reserved: The most bytes that the caching allocator held, from the first step on.
        workspaces: cuBLAS's workspaces, which the caching allocator counts all the time.
    """

    phase_peaks: dict[Phase, int] = field(default_factory=dict)
    after: dict[Phase, int] = field(default_factory=dict)
    parameters: int = 0
    gradients: int = 0
    states: int = 0
    batch: int = 0
    requested: int = 0
    reserved: int = 0
    workspaces: int = 0

    @property
    def peak_bytes(self) -> int:
        """The most bytes alive in the step, workspaces included: `torch.cuda.max_memory_allocated`."""
        return max(self.phase_peaks.values())


def real_steps(
    make_model: Callable[[], nn.Module],
    batch: Batch,
    recipe: Recipe | str,
    *,
    device: torch.device | str | None = None,
    loss: Loss | None = None,
    optimizer: OptimizerName | MakeOptimizer = "adam",
    count: int = 1,
) -> list[RealStep]:
    """Takes the steps that `mixlab.memory.trace` traces, and returns the memory of each but the first.

    Each step is a `Trainer`'s, without the accuracy and gradient norm that a trainer computes for its records. It is
    taken even if gradients are inf or NaN. A CPU multiplies 16-bit numbers natively, with torch's own kernels, because
    oneDNN's allocate scratch memory that depends on the CPU. Convolutions allocate some in either case.

    Args:
        make_model: Returns a new model in float32 on the CPU.
        batch: What one call of the model takes, or (inputs, targets), on any device; see `mixlab.batches`.
        recipe: Recipe of the training, or its text.
        device: A CPU or a CUDA device; nothing else may allocate or free memory on it meanwhile. None means CUDA if
            available, else the CPU.
        loss, optimizer: As for `mixlab.memory.trace`.
        count: Steps after the first.

    Raises:
        TypeError: If `make_model` does not return a Module, `batch` is no batch of dense tensors, or `loss` no
            function.
        ValueError: If the batch is empty or has no values, nothing can be trained, or there is no such device.
        BatchError: If the model does not take the batch, or the loss is not one floating number that depends on a
            parameter; it is a TypeError and a ValueError.
    """
    recipe = Recipe.of(recipe)
    require_batch("real_steps", batch)
    require_dense("real_steps", batch)
    require_real("real_steps", batch)
    require_loss("real_steps", loss)
    device = usable_device(device)
    gc.collect()  # older garbage must not be freed while memory is counted
    account = _OnCuda(device) if device.type == "cuda" else _OnCpu()
    seen = [RealStep() for _ in range(1 + count)]
    with freed_by_reference_counts(), account:
        training = _Training(make_model, batch, recipe, device, loss, optimizer)
        gc.collect()  # garbage from making the model
        for step in seen:
            training.run(account.begin, step)
    phases = account.phases()
    for step in seen:
        for phase in PHASES:
            level = next(phases)
            step.phase_peaks[phase], step.after[phase] = level.most, level.end
            step.requested = max(step.requested, level.requested)
        step.reserved, step.workspaces = account.reserved, account.workspaces
    return seen[1:]


class _Level(NamedTuple):
    """Bytes of a phase: the most alive, those alive at its end, and the most alive in requested sizes."""

    most: int
    end: int
    requested: int = 0


class _Training:
    """A model, its batch and its optimizer on the device."""

    def __init__(
        self,
        make_model: Callable[[], nn.Module],
        batch: Batch,
        recipe: Recipe,
        device: torch.device,
        loss: Loss | None,
        optimizer: OptimizerName | MakeOptimizer,
    ) -> None:
        self.recipe, self.device, self.loss = recipe, device, loss
        self.model = _made(make_model).to(device, recipe.weights.dtype)
        self.batch = placed(batch, device, recipe.weights.dtype, new=True)  # so that the account has it on a CPU too
        self.parameters = list(self.model.parameters())
        if recipe.gradients != recipe.weights:
            for parameter in self.parameters:
                parameter.grad_dtype = recipe.gradients.dtype
        generator = torch.Generator(device)
        self.optimizer = make_optimizer(self.parameters, recipe, optimizer, generator=generator, owner="real_steps")
        self.scaler = recipe.make_scaler()
        self.compute = recipe.compute if recipe.autocast else FP32

    def run(self, begin: Callable[[str], None], seen: RealStep) -> None:
        """Takes a step, calling `begin` at the start of each phase, and counts the tensors."""
        begin("forward")
        with self._arithmetic():
            with emulation.autocast(self.device, self.compute):
                loss = loss_on(self.model, self.batch, self.loss, owner="real_steps")
            require_gradient("real_steps", loss)
            begin("backward")
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        del loss
        require_gradients("real_steps", self.parameters)
        seen.parameters = self._bytes(self.parameters)
        seen.gradients = self._bytes(parameter.grad for parameter in self.parameters)
        begin("step")
        if self.recipe.scaler != "none":
            unscale_without_reading_(self.optimizer, self.scaler.get_scale(), allow_fp16=True)
        self.optimizer.step()
        self.optimizer.zero_grad()
        begin("end")
        seen.states = self._bytes(state for _, state in state_tensors(self.optimizer))
        counters = (state.get("step") for state in self.optimizer.state.values())
        seen.batch = self._bytes([*tensors_of(self.batch), *self.model.buffers(), *counters])

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        if self.device.type == "cpu":
            with ONEDNN.held(False):
                yield
            return
        with emulation.arithmetic(self.device, self.recipe.compute):
            yield

    def _bytes(self, tensors: Iterable[Tensor | Any]) -> int:
        """Returns the bytes of the tensors on the device, each storage once, in the allocator's sizes."""
        granule = _BLOCK if self.device.type == "cuda" else 1
        storages = {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
            for tensor in map(local_part, (one for one in tensors if isinstance(one, Tensor)))
            if tensor.device.type == self.device.type
        }
        return sum(-(-size // granule) * granule for size in storages.values())


def _made(make_model: Callable[[], nn.Module]) -> nn.Module:
    if not callable(make_model) or isinstance(make_model, nn.Module):
        raise TypeError(f"real_steps: make_model must be a function that returns a new module, got {make_model!r:.60}")
    model = make_model()
    if not isinstance(model, nn.Module):
        raise TypeError(f"real_steps: make_model must return a torch.nn.Module, got {type(model).__name__}")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("real_steps: no parameter of the model requires a gradient; there is nothing to train")
    require_values(model, "real_steps")
    return model


class _OnCuda:
    """The caching allocator's statistics, minus what was allocated before."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.reserved = self.workspaces = 0
        self._phases: list[_Level] = []
        self._began = False

    def __enter__(self) -> None:
        gc.collect()
        _clear_workspaces()
        torch.cuda.empty_cache()
        self._before = torch.cuda.memory_stats(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)

    def __exit__(self, *_error: object) -> None:
        allocated = torch.cuda.memory_allocated(self.device)
        _clear_workspaces()
        self.workspaces = allocated - torch.cuda.memory_allocated(self.device)

    def begin(self, phase: str) -> None:
        """Ends the current phase, if there is one, and begins another; "end" begins none."""
        if self._began:
            most, end = self._more("allocated_bytes", "peak"), self._more("allocated_bytes", "current")
            self._phases.append(_Level(most, end, self._more("requested_bytes", "peak")))
        self.reserved = max(self.reserved, self._more("reserved_bytes", "peak"))
        torch.cuda.reset_peak_memory_stats(self.device)
        self._began = phase != "end"

    def phases(self) -> Iterator[_Level]:
        """Yields the phases of all steps, in order."""
        return iter(self._phases)

    def _more(self, what: str, when: str) -> int:
        now = torch.cuda.memory_stats(self.device)
        return int(now.get(f"{what}.all.{when}", 0) - self._before.get(f"{what}.all.current", 0))


class _OnCpu:
    """The profiler's log of this thread, from before the model was made.

    `torch.profiler` would log the same, but makes torch 2.13 write to the process's stderr.
    """

    reserved = workspaces = 0

    def __enter__(self) -> None:
        self._events: list[Any] = []
        config = ProfilerConfig(ProfilerState.CPU, False, True, False, False, False, _ExperimentalConfig())
        _enable_profiler_legacy(config)

    def __exit__(self, *error: object) -> None:
        self._events = [event for thread in _disable_profiler_legacy() for event in thread]

    def begin(self, phase: str) -> None:
        """As in `_OnCuda`."""
        with record_function(_MARK + phase):
            pass

    def phases(self) -> Iterator[_Level]:
        """As in `_OnCuda`."""
        deltas, marks = [0], []
        for event in self._events:
            if event.kind() == "memory_alloc":
                deltas.append(event.cpu_memory_usage())
            elif event.kind() == "push" and event.name().startswith(_MARK):
                marks.append((event.name().removeprefix(_MARK), len(deltas) - 1))
        levels = np.cumsum(deltas)
        for (phase, first), (_, last) in pairwise(marks):
            if phase != "end":
                yield _Level(int(levels[first : last + 1].max()), int(levels[last]))


_MARK = "mixlab: "


def _clear_workspaces() -> None:
    clear = getattr(torch._C, "_cuda_clearCublasWorkspaces", None)
    if clear is not None:
        clear()
