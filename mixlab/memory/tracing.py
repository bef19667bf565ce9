"""The memory of one training step of any model, to the byte, without allocating it and without a GPU."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Optimizer

from mixlab import emulation
from mixlab.arguments import require_whole
from mixlab.batches import (
    Batch,
    BatchError,
    Loss,
    loss_on,
    map_batch,
    require_batch,
    require_dense,
    require_gradient,
    require_gradients,
    require_loss,
    require_same_device,
    tensors_of,
)
from mixlab.formats import FP32
from mixlab.loss_scaling.checked_steps import unscale_without_reading_
from mixlab.memory.allocation_log import AllocationLog, LoggedPhase, freed_by_reference_counts
from mixlab.memory.categories import BATCH, GRADIENTS, PARAMETERS
from mixlab.memory.failures import explained
from mixlab.memory.fakes import fake_input, fake_model
from mixlab.memory.kernel_choice import Kernels
from mixlab.memory.stand_ins import answered
from mixlab.memory.traceable import TraceError, check_traceable
from mixlab.memory.traced_step import Span, Trace
from mixlab.optimizers import STATE_NAMES, MakeOptimizer, OptimizerName, state_tensors
from mixlab.process import CAST_CACHE, ONLY_LIFTS_CPU_TENSORS, contained
from mixlab.recipes import Recipe
from mixlab.training import make_optimizer

AsOn = Literal["cuda", "cpu"]


@contained
def trace(
    model: nn.Module,
    batch: Batch,
    recipe: Recipe | str = "fp32",
    *,
    loss: Loss | None = None,
    optimizer: OptimizerName | MakeOptimizer = "adam",
    as_on: AsOn = "cuda",
    accumulation: int = 1,
) -> Trace:
    """Traces every allocation of one training step, with fake tensors that need no memory.

    Two steps run, and the trace reports the second: in the first the optimizer has no states yet. Each step is

        for each of `accumulation` micro-steps:
            with mixlab.autocast(...):                       # if the recipe has it
                loss_value = loss(model(inputs), targets)    # "forward"; see `mixlab.batches` for other batches
            scaler.scale(loss_value).backward()              # "backward"
        scaler.unscale_(optimizer)
        optimizer.step()                                     # "step"
        optimizer.zero_grad()

    No step is skipped for an overflow, and no reference is kept to the outputs, or to the loss once backward is done.
    Nothing is computed but what follows from integers of the batch and of buffers alone: whether a mask masks anything,
    which positions are no padding, how long a row is. Ops that depend on other values raise an error, or on the values
    of a batch on "meta"; transformers' models then build masks as for a batch with padding.

    >>> model = nn.Sequential(nn.Linear(1024, 4096), nn.ReLU(), nn.Linear(4096, 10))
    >>> batch = torch.randn(64, 1024), torch.randint(10, (64,))
    >>> traced = trace(model, batch)
    >>> traced.peak_phase, traced.peak_bytes, traced.at_peak["exp_avg"]
    ('step', 85052416, 16957952)

    Other recipes keep other states and move the peak:

    >>> trace(model, batch, "amp-bf16").at_phase_peaks["forward"]["weights cast by autocast"]
    8396800
    >>> trace(model, batch, "bf16", optimizer="sgd").peak_phase
    'backward'

    A model on "meta" may have any size. `timeline` shows the step over time, `at_peak_by_module` what made the bytes:

    >>> with torch.device("meta"):
    ...     large = nn.Sequential(nn.Linear(65536, 65536), nn.ReLU(), nn.Linear(65536, 10))
    >>> traced = trace(large, (torch.empty(8, 65536, device="meta"), torch.zeros(8, dtype=torch.long)), "bf16")
    >>> round(traced.peak_bytes / 2**30, 1), traced.at_peak_by_module
    (40.0, {'(optimizer)': 8591376896})
    >>> timeline = traced.timeline(points=100)
    >>> int(timeline["temporaries"].max())
    8591376896

    Args:
        model: A model, real or on "meta", where any size fits; it is traced in its current mode, train or eval. Neither
            the model nor its gradients, hooks or states change, and no random numbers are drawn.
        batch: What one call of the model takes, or (inputs, targets), real or on "meta"; see `mixlab.batches`.
            Floating tensors that the model is given are cast to the format of the recipe's weights, as in
            `mixlab.Trainer`.
        recipe: Recipe of the training, or its text. Its weights set the parameters' format, whatever the model's dtype.
        loss: Function of (output, targets), or of (output, batch) for a batch without targets. None takes the output's
            own loss, or else cross-entropy; see `mixlab.batches`.
        optimizer: "sgd" (with momentum), "adam", "adamw", or a function of (parameters, learning rate), as for a
            `mixlab.Task`.
        as_on: "cuda": every size is a multiple of 512 bytes, as from CUDA's caching allocator; norms, dropout and
            attention are CUDA's fused kernels (see `mixlab.memory.cuda_kernels`); torch.optim steps over all parameters
            at once (foreach), its default on CUDA. Workspaces of cuBLAS and cuDNN are left out, and recurrent
            layers are torch's own, not cuDNN's. "cpu": the step of a CPU without oneDNN, to the byte; oneDNN's kernels
            take scratch memory that depends on the CPU, and its LSTM keeps other tensors than torch's own. Left out
            are the scratch memory inside other kernels, such as a convolution's, and numbers of Python in checkpoints
            without reentrance, 8 bytes each. Both leave out the tables of states in 8 bits, one MiB in all, and take no
            maximum to be NaN and no factor of a product to be zero: their gradients depend on that. The body of a
            custom op (`torch.library.custom_op`) is traced; where it is no code of torch's, such as NumPy or Triton, or
            reads values that are not known, its results count and what it allocates on the way does not.
        accumulation: Micro-steps per step.

    Raises:
        TypeError: If `model` is not a Module, `batch` is no batch of dense tensors, `loss` is no function, or `recipe`
            is not a recipe or text.
        ValueError: If an option is unknown, the batch is empty, nothing can be trained, or an optimizer of your own
            comes with a recipe that prescribes storage.
        BatchError: If the model does not take the batch, the batch is on another device, or the loss is not one
            floating number that depends on a parameter; it is a TypeError and a ValueError.
        TraceError: If the model is compiled, TorchScript, lazy, sparse or divided over processes; an op needs values,
            has no fake kernel, or is given dtypes or numbers that no device's kernel takes; or the model fails on this
            batch.
    """
    recipe = _checked(model, batch, recipe, loss, optimizer, as_on, accumulation)
    _fill_caches(recipe)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    log = AllocationLog(mode, as_on=as_on)
    with (
        CAST_CACHE.held(True),
        freed_by_reference_counts(),
        ONLY_LIFTS_CPU_TENSORS.held(True),
        answered(counts_random_state=as_on == "cpu"),
        mode,
        Kernels(as_on),
    ):
        step = _Step(model, batch, recipe, loss, optimizer, as_on, log)
        try:
            with log:
                step.run(accumulation)
                first = len(log.spans)
                step.run(accumulation)
                log.begin("start")  # ends the last phase
        except BatchError:
            raise
        except Exception as error:
            raise TraceError(explained(error, log.failed, model)) from error
        finally:
            log.close()
    numel = sum(parameter.numel() for parameter in model.parameters())
    return Trace(recipe, as_on, numel, log.allocations(), tuple(log.entries), _phases(log.spans[first:]))


class _Step:
    """A training step on fake tensors; it tells the log the phases and the tensors' categories."""

    def __init__(
        self,
        model: nn.Module,
        batch: Batch,
        recipe: Recipe,
        loss: Loss | None,
        optimizer: OptimizerName | MakeOptimizer,
        as_on: AsOn,
        log: AllocationLog,
    ) -> None:
        assert recipe.weights.dtype is not None  # Recipe takes no other formats
        self.model, others = fake_model(model, recipe.weights.dtype)
        self.recipe = recipe
        self.loss = loss
        self.log = log
        weights = recipe.weights.dtype
        self.batch = map_batch(batch, lambda given: fake_input(given, weights), lambda one: fake_input(one, one.dtype))
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if recipe.gradients != recipe.weights:
            for parameter in self.parameters:
                parameter.grad_dtype = recipe.gradients.dtype
        self.optimizer = make_optimizer(self.model.parameters(), recipe, optimizer, owner="trace")
        if as_on == "cuda":
            _as_on_cuda(self.optimizer)
            log.host_scalars = not any(g.get("fused") or g.get("capturable") for g in self.optimizer.param_groups)
        self.scaler = recipe.make_scaler()
        self.compute = recipe.compute if recipe.autocast else FP32
        log.watch(self.model)
        for parameter in self.model.parameters():
            log.tag(parameter, PARAMETERS)
        for tensor in (*others, *tensors_of(self.batch)):
            log.tag(tensor, BATCH)

    def run(self, accumulation: int) -> None:
        for _ in range(accumulation):
            self._backward(self._forward(), accumulation)
        self.log.begin("step")
        if self.recipe.scaler != "none":
            unscale_without_reading_(self.optimizer, self.scaler.get_scale(), allow_fp16=True)
        self.optimizer.step()
        self._tag_states()
        self.optimizer.zero_grad()

    def _forward(self) -> list[Tensor]:
        """Returns the loss in a list, from which `_backward` takes it, so that nothing else holds it."""
        self.log.begin("forward")
        with emulation.autocast("cpu", self.compute):
            return [loss_on(self.model, self.batch, self.loss, owner="trace")]

    def _backward(self, loss: list[Tensor], accumulation: int) -> None:
        self.log.begin("backward")
        value = loss.pop()
        require_gradient("trace", value)
        mean = value if accumulation == 1 else value / accumulation
        _run_backward(self.scaler.scale(mean))
        del value, mean
        require_gradients("trace", self.parameters)
        for parameter in self.parameters:
            if parameter.grad is not None:
                self.log.tag(parameter.grad, GRADIENTS)

    def _tag_states(self) -> None:
        for name, state in state_tensors(self.optimizer):
            self.log.tag(state, STATE_NAMES.get(name, name))
        for state in self.optimizer.state.values():
            if isinstance(state.get("step"), Tensor) and not self.log.host_scalars:
                self.log.tag(state["step"], BATCH)


def _run_backward(loss: Tensor) -> None:
    """Runs backward inside function modes such as `Kernels`, which checkpoints need and `loss.backward()` leaves."""
    torch.autograd.Variable._execution_engine.run_backward(
        (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
    )


def _phases(spans: list[tuple[LoggedPhase, int]]) -> tuple[Span, ...]:
    """Returns all spans but the last, each ending where the next begins."""
    ends = (first for _, first in spans[1:])
    return tuple(Span(phase, first, end) for (phase, first), end in zip(spans, ends, strict=False))  # type: ignore[arg-type]


def _as_on_cuda(optimizer: Optimizer) -> None:
    """Makes an optimizer of torch.optim step as it does by default on CUDA."""
    for group in optimizer.param_groups:
        if "foreach" in group and group["foreach"] is None and not group.get("fused"):
            group["foreach"] = True


def _fill_caches(recipe: Recipe) -> None:
    """Takes a step with real tensors, so that the tables that an optimizer computes only once are real."""
    parameter = nn.Parameter(torch.zeros(1, dtype=recipe.weights.dtype))
    parameter.grad_dtype = recipe.gradients.dtype
    parameter.grad = torch.zeros(1, dtype=recipe.gradients.dtype)
    make_optimizer([parameter], recipe, generator=torch.Generator()).step()


def _checked(
    model: object,
    batch: object,
    recipe: Recipe | str,
    loss: object,
    optimizer: object,
    as_on: str,
    accumulation: object,
) -> Recipe:
    if not isinstance(model, nn.Module):
        raise TypeError(f"trace: model must be a torch.nn.Module, got {type(model).__name__}")
    require_batch("trace", batch)
    require_dense("trace", batch)
    require_loss("trace", loss)
    require_same_device("trace", model, batch)
    recipe = Recipe.of(recipe)
    if not callable(optimizer) and optimizer not in get_args(OptimizerName):
        allowed = f"one of {', '.join(get_args(OptimizerName))}, or a function of (parameters, lr)"
        raise ValueError(f"trace: optimizer must be {allowed}, got {optimizer!r}")
    if as_on not in get_args(AsOn):
        raise ValueError(f"trace: as_on must be one of {', '.join(get_args(AsOn))}, got {as_on!r}")
    require_whole("trace: accumulation", accumulation, 1)
    check_traceable(model)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("trace: no parameter of the model requires a gradient; there is nothing to train")
    return recipe
