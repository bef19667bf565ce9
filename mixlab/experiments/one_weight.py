"""One weight under the microscope: the gradients of a training, replayed with weights and states stored in other ways.

All replays get the same gradients, those of a float32 training. So what differs between two of them is the storage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mixlab.formats import Format
from mixlab.optimizers import Adam, AdamW, read_state
from mixlab.recipes import Recipe
from mixlab.training import Task, Trainer

_ADAMS = (Adam, torch.optim.Adam)  # AdamW is one of them, ours and torch's


@dataclass(frozen=True, eq=False)
class Recording:
    """What one parameter saw in a float32 training.

    Attributes:
        task: What was trained, with Adam or AdamW.
        parameter: Its name.
        start: Its first value, float32.
        gradients: Of each step, in its shape, float32.
        seed: Of the training.
        element: The index, in the flattened parameter, of the weight to follow.
    """

    task: Task
    parameter: str
    start: Tensor
    gradients: tuple[Tensor, ...]
    seed: int
    element: int

    def at(self, lr: float) -> Recording:
        """Returns the same gradients for a replay at another learning rate."""
        return replace(self, task=replace(self.task, lr=lr))


@dataclass(frozen=True)
class Trajectory:
    """One weight and its moments over the steps of a replay, as they are stored.

    Attributes:
        recipe: How.
        weight: Before the first step, and after each.
        exp_avg, exp_avg_sq: After each step.
        update: What each step would have added to the weight in exact arithmetic, from the stored moments.
        gap: From each step's weight to the next value of the weights' format that its update points at.
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
        """How far the weight would have gone, all updates added up."""
        return math.fsum(self.update)

    @property
    def gone(self) -> float:
        """How far it has gone."""
        return self.weight[-1] - self.weight[0]


def record_gradients(task: Task, *, steps: int = 300, seed: int = 0, parameter: str | None = None) -> Recording:
    """Trains in float32 on a CPU and keeps every gradient of one parameter, and the index of a typical weight of it.

    Args:
        task: With Adam or AdamW.
        steps: From 1 up.
        seed: Of weights and batches.
        parameter: Its name; None takes the first of at least two dimensions.

    Raises:
        ValueError: Another optimizer, no steps, or a parameter that the model does not have.
    """
    if type(steps) is not int or steps < 1:
        raise ValueError(f"record_gradients: steps must be a whole number from 1 up, got {steps!r}")
    trainer = Trainer(task, Recipe(), seed=seed, device="cpu")
    if not isinstance(trainer.optimizer, _ADAMS):
        raise ValueError(
            f"record_gradients: task {task.name} trains with {type(trainer.optimizer).__name__}, which has no second "
            'moment; take dataclasses.replace(task, optimizer="adam", lr=1e-3)'
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


def replay(recording: Recording, recipe: Recipe, *, spike_at: int | None = None, spike: float = 1000.0) -> Trajectory:
    """Steps through the recorded gradients under a recipe, and follows the recording's weight.

    >>> from mixlab.training import load_task
    >>> recording = record_gradients(load_task("digits-cnn"), steps=20)
    >>> len(replay(recording, Recipe.parse("fp32,exp_avg_sq=bf16")).exp_avg_sq)
    20

    Args:
        recording: Of gradients.
        recipe: How weights, gradients and states are stored; how the training would compute has no part in it.
        spike_at: The step, counted from 0, whose gradients are multiplied by `spike`; None leaves them all.

    Raises:
        TypeError, ValueError: No recipe; a step that was not recorded; a factor that is not finite.
    """
    if not isinstance(recipe, Recipe):
        raise TypeError(f"replay: recipe must be a Recipe, got {recipe!r}; Recipe.parse(text) makes one")
    steps = len(recording.gradients)
    if spike_at is not None and (type(spike_at) is not int or not 0 <= spike_at < steps):
        raise ValueError(f"replay: spike_at must be a whole number from 0 to {steps - 1}, got {spike_at!r}")
    if not math.isfinite(spike):
        raise ValueError(f"replay: spike must be a finite factor, got {spike!r}")
    model = _Alone(recording.start.to(recipe.weights.dtype, copy=True))
    if recipe.gradients != recipe.weights:
        model.weight.grad_dtype = recipe.gradients.dtype
    generator = torch.Generator().manual_seed(recording.seed)
    optimizer = recording.task.make_optimizer(model, recipe, generator=generator)
    weight, moments, update, gap = [float(model.weight.detach().flatten()[recording.element])], [], [], []
    for step, gradient in enumerate(recording.gradients):
        model.weight.grad = (gradient * spike if step == spike_at else gradient).to(recipe.gradients.dtype)
        optimizer.step()
        exp_avg, exp_avg_sq = (
            float(read_state(optimizer, model.weight, name).flatten()[recording.element])
            for name in ("exp_avg", "exp_avg_sq")
        )
        moments.append((exp_avg, exp_avg_sq))
        update.append(_update(optimizer, step + 1, weight[-1], exp_avg, exp_avg_sq))
        gap.append(_gap(recipe.weights, weight[-1], update[-1]))
        weight.append(float(model.weight.detach().flatten()[recording.element]))
    first, second = zip(*moments, strict=True)
    return Trajectory(recipe, tuple(weight), first, second, tuple(update), tuple(gap))


class _Alone(nn.Module):
    """A model of one parameter."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)


def _update(optimizer: Optimizer, step: int, weight: float, exp_avg: float, exp_avg_sq: float) -> float:
    """Returns what Adam adds to a weight in a step counted from 1 (Kingma and Ba, Adam, 2015, algorithm 1).

    Of AdamW with its decay (Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019, algorithm 2).
    """
    group = optimizer.param_groups[0]
    lr, (beta1, beta2) = float(group["lr"]), group["betas"]
    root = math.sqrt(exp_avg_sq / (1 - beta2**step)) if exp_avg_sq >= 0 else math.nan
    step_size = lr / (1 - beta1**step)
    update = -step_size * exp_avg / (root + group["eps"]) if math.isfinite(root) else math.nan
    decay = group["weight_decay"] * lr * weight if isinstance(optimizer, AdamW | torch.optim.AdamW) else 0.0
    return update - decay


def _gap(fmt: Format, weight: float, update: float) -> float:
    if not math.isfinite(weight) or not math.isfinite(update):
        return math.nan
    return abs((fmt.next_up(weight) if update > 0 else fmt.next_down(weight)) - weight)


def _typical(start: Tensor, gradients: Sequence[Tensor]) -> int:
    """Returns the flat index of the median gradient in mean magnitude, among the larger half of the weights.

    Large weights are where updates are lost first. Gradients that are always zero do not count, unless all are.
    """
    size = torch.stack([gradient.abs() for gradient in gradients]).mean(0).flatten()
    weight = start.abs().flatten()
    chosen = (weight >= weight.median()) & (size > 0)
    indices = chosen.nonzero().flatten() if bool(chosen.any()) else torch.arange(len(size))
    return int(indices[size[indices].argsort()[len(indices) // 2]])
