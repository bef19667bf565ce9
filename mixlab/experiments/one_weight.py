"""One weight under the microscope: the gradients of a training, replayed with weights and states in other formats.

All replays get the same gradients, recorded in a float32 training, so two replays differ only in their storage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mixlab.arguments import require_whole
from mixlab.formats import Format
from mixlab.optimizers import Adam, AdamW, read_state
from mixlab.recipes import Recipe
from mixlab.training import Task, Trainer

_ADAMS = (Adam, torch.optim.Adam)  # AdamW is a subclass of Adam, here and in torch


@dataclass(frozen=True, eq=False)
class Recording:
    """The gradients that one parameter received in a float32 training.

    Attributes:
        task: The task that was trained, with Adam or AdamW.
        parameter: The parameter's name.
        start: Its initial value, float32.
        gradients: The gradient of each step, float32, in the parameter's shape.
        seed: The training's seed.
        element: The index of the weight to follow, in the flattened parameter.
    """

    task: Task
    parameter: str
    start: Tensor
    gradients: tuple[Tensor, ...]
    seed: int
    element: int

    def at(self, lr: float) -> Recording:
        """Returns the same gradients, to be replayed at another learning rate.

        Args:
            lr: The learning rate.
        """
        return replace(self, task=replace(self.task, lr=lr))


@dataclass(frozen=True)
class Trajectory:
    """One weight and its moments over the steps of a replay, as stored.

    Attributes:
        recipe: How they are stored.
        weight: The weight before the first step and after each step.
        exp_avg, exp_avg_sq: The moments after each step.
        update: What each step would add to the weight in exact arithmetic, from the weight and the moments as stored
            before the step, and its gradient: by moments that are not yet rounded.
        gap: The distance from each step's weight to the next value of its format, in the update's direction.
    """

    recipe: Recipe
    weight: tuple[float, ...]
    exp_avg: tuple[float, ...]
    exp_avg_sq: tuple[float, ...]
    update: tuple[float, ...]
    gap: tuple[float, ...]

    @property
    def moved(self) -> int:
        """How many steps changed the stored weight."""
        return sum(old != new for old, new in zip(self.weight, self.weight[1:], strict=False))

    @property
    def wanted(self) -> float:
        """How far the weight would have moved: the sum of all updates."""
        return math.fsum(self.update)

    @property
    def gone(self) -> float:
        """How far the stored weight has moved."""
        return self.weight[-1] - self.weight[0]


def record_gradients(task: Task, *, steps: int = 300, seed: int = 0, parameter: str | None = None) -> Recording:
    """Trains in float32 on a CPU, records every gradient of one parameter, and picks a typical weight in it to follow.

    Args:
        task: A task with Adam or AdamW.
        steps: How many steps to train, at least 1.
        seed: Seed of weights and batches.
        parameter: The parameter's name; None takes the first with at least two dimensions.

    Raises:
        ValueError: If the task uses another optimizer, there are no steps, or the model has no such parameter.
    """
    require_whole("record_gradients: steps", steps, 1)
    trainer = Trainer(task, Recipe(), seed=seed, device="cpu")
    if not isinstance(trainer.optimizer, _ADAMS):
        raise ValueError(
            f"record_gradients: task {task.name} trains with {type(trainer.optimizer).__name__}, which has no second "
            'moment; use dataclasses.replace(task, optimizer="adam", lr=1e-3)'
        )
    parameters = dict(trainer.model.named_parameters())
    name = parameter or next((name for name, p in parameters.items() if p.dim() > 1), next(iter(parameters)))
    if name not in parameters:
        raise ValueError(
            f"record_gradients: task {task.name} has no parameter {name!r}; it has {', '.join(parameters)}"
        )
    start = parameters[name].detach().clone()
    gradients = []
    for _ in range(steps):
        trainer.backward()
        gradients.append(trainer.unscale()[name].detach().clone())
        trainer.update()
    return Recording(task, name, start, tuple(gradients), seed, _typical(start, gradients))


def follow_weight(
    recording: Recording, recipe: Recipe | str, *, spike_at: int | None = None, spike: float = 1000.0
) -> Trajectory:
    """Replays the recorded gradients with the recipe's storage, and follows one weight.

    >>> from mixlab.training import load_task
    >>> recording = record_gradients(load_task("digits-cnn"), steps=20)
    >>> len(follow_weight(recording, "fp32,exp_avg_sq=bf16").exp_avg_sq)
    20

    Args:
        recording: The gradients, and which weight to follow.
        recipe: How weights, gradients and states are stored, as a recipe or its text; the recipe's compute format is
            ignored.
        spike_at: The step, counted from 0, whose gradients are multiplied by `spike`; None for no spike.
        spike: The factor.

    Raises:
        TypeError, ValueError: If `recipe` is not a recipe, `spike_at` not a recorded step, or `spike` not finite.
    """
    recipe = Recipe.of(recipe)
    steps = len(recording.gradients)
    if spike_at is not None:
        require_whole("follow_weight: spike_at", spike_at, 0, steps - 1)
    if not math.isfinite(spike):
        raise ValueError(f"follow_weight: spike must be a finite factor, got {spike!r}")
    model = _Alone(recording.start.to(recipe.weights.dtype, copy=True))
    if recipe.gradients != recipe.weights:
        model.weight.grad_dtype = recipe.gradients.dtype
    generator = torch.Generator().manual_seed(recording.seed)
    optimizer = recording.task.make_optimizer(model, recipe, generator=generator)
    weight, update, gap = [float(model.weight.detach().flatten()[recording.element])], [], []
    moments: list[tuple[float, float]] = []
    for step, gradient in enumerate(recording.gradients):
        received = (gradient * spike if step == spike_at else gradient).to(recipe.gradients.dtype)
        model.weight.grad = received
        before = moments[-1] if moments else (0.0, 0.0)
        update.append(_update(optimizer, step + 1, weight[-1], float(received.flatten()[recording.element]), *before))
        gap.append(_gap(recipe.weights, weight[-1], update[-1]))
        optimizer.step()
        moments.append(_moments(optimizer, model.weight, recording.element))
        weight.append(float(model.weight.detach().flatten()[recording.element]))
    first, second = zip(*moments, strict=True)
    return Trajectory(recipe, tuple(weight), first, second, tuple(update), tuple(gap))


class _Alone(nn.Module):
    """A model of one parameter."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)


def _moments(optimizer: Optimizer, weight: nn.Parameter, element: int) -> tuple[float, float]:
    """Returns m and v of one weight, as stored."""
    m, v = (float(read_state(optimizer, weight, name).flatten()[element]) for name in ("exp_avg", "exp_avg_sq"))
    return m, v


def _update(
    optimizer: Optimizer, step: int, weight: float, gradient: float, exp_avg: float, exp_avg_sq: float
) -> float:
    """Returns Adam's change of a weight at `step`, counted from 1 (Kingma and Ba, Adam, 2015, algorithm 1).

    The moments are those before the step. For AdamW this includes the decay (Loshchilov and Hutter, Decoupled Weight
    Decay Regularization, 2019).
    """
    group = optimizer.param_groups[0]
    lr, (beta1, beta2), decoupled = float(group["lr"]), group["betas"], isinstance(optimizer, AdamW | torch.optim.AdamW)
    gradient += 0.0 if decoupled else group["weight_decay"] * weight
    exp_avg = beta1 * exp_avg + (1 - beta1) * gradient
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * gradient * gradient
    root = math.sqrt(exp_avg_sq / (1 - beta2**step)) if exp_avg_sq >= 0 else math.nan
    step_size = lr / (1 - beta1**step)
    update = -step_size * exp_avg / (root + group["eps"]) if math.isfinite(root) else math.nan
    decay = group["weight_decay"] * lr * weight if decoupled else 0.0
    return update - decay


def _gap(fmt: Format, weight: float, update: float) -> float:
    if not math.isfinite(weight) or not math.isfinite(update):
        return math.nan
    return abs((fmt.next_up(weight) if update > 0 else fmt.next_down(weight)) - weight)


def _typical(start: Tensor, gradients: Sequence[Tensor]) -> int:
    """Returns the flat index of a typical weight: the one with the median mean gradient in the larger half of weights.

    Large weights lose updates first. Weights whose gradient is always zero are left out, unless all are.
    """
    size = torch.stack([gradient.abs() for gradient in gradients]).mean(0).flatten()
    weight = start.abs().flatten()
    chosen = (weight >= weight.median()) & (size > 0)
    indices = chosen.nonzero().flatten() if bool(chosen.any()) else torch.arange(len(size))
    return int(indices[size[indices].argsort()[len(indices) // 2]])
