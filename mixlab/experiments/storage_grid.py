"""A training to be repeated over seeds and ways to store Adam's moments and the weights, with a spike on request."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import nn

from mixlab.arguments import require_whole
from mixlab.formats import BF16, FP16, FP32
from mixlab.recipes import STATES, Recipe
from mixlab.training import StepRecord, Task, Trainer, load_task

_LAST = 100  # steps whose mean loss is the final one


def digits_adam(lr: float = 1e-3) -> Task:
    """Returns digits with a perceptron of 64-128-128-10 units, batches of 32 rows, and Adam."""
    digits = load_task("digits-mlp")

    def model() -> nn.Module:
        return nn.Sequential(
            OrderedDict(
                hidden1=nn.Linear(64, 128),
                tanh1=nn.Tanh(),
                hidden2=nn.Linear(128, 128),
                tanh2=nn.Tanh(),
                output=nn.Linear(128, 10),
            )
        )

    def draw(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        inputs, targets = digits.draw(generator)
        return inputs[:32], targets[:32]

    return Task("digits-adam", model, draw, digits.held_out, optimizer="adam", lr=lr)


def spiked_steps(trainer: Trainer, count: int, *, at: int | None, factor: float = 1000.0) -> Iterator[StepRecord]:
    """Yields `trainer.steps(count)`, with the gradients of one step multiplied: what a broken batch does.

    Args:
        trainer: Which trains.
        count: Steps.
        at: The number of the step, counted from 0; None leaves all as they are.
        factor: Of the gradients, as backward delivers them.

    Raises:
        ValueError: A factor that is not finite, or a step that is not a whole number from 0 up.
    """
    if at is not None:
        require_whole("spiked_steps: at", at, 0)
    if not math.isfinite(factor):
        raise ValueError(f"spiked_steps: factor must be finite, got {factor!r}")
    for _ in range(count):
        spiked = list(trainer.model.parameters()) if trainer.step == at else []
        handles = [parameter.register_hook(lambda gradient: gradient * factor) for parameter in spiked]  # type: ignore[no-untyped-call]
        try:
            records = list(trainer.steps(1))
        finally:
            for handle in handles:
                handle.remove()
        yield from records


@dataclass(frozen=True)
class Setting:
    """One way to train: everything but the seed.

    Attributes:
        recipe: How weights and moments are stored.
        lr: Learning rate.
        spike: Whether the gradients of one step are multiplied by 1000.
    """

    recipe: Recipe
    lr: float = 1e-3
    spike: bool = True

    def __str__(self) -> str:
        return f"{self.recipe}, lr {self.lr:g}, {'spike' if self.spike else 'no spike'}"


def moment_settings() -> list[Setting]:
    """Returns every pair of moment formats, rounded to nearest and stochastically, with float32 weights and a spike.

    Then without one: the pairs of fp32 and bf16, and fp16, whose range v leaves at its lower end.
    """
    pairs = [Recipe(exp_avg=m, exp_avg_sq=v) for m, v in product(STATES, STATES)]
    chances = [replace(recipe, state_rounding="stochastic") for recipe in pairs if recipe != Recipe()]
    quiet = [recipe for recipe in (*pairs, *chances) if {recipe.exp_avg, recipe.exp_avg_sq} <= {FP32, BF16}]
    quiet += [Recipe(exp_avg=FP16), Recipe(exp_avg_sq=FP16)]
    return [*(Setting(recipe) for recipe in (*pairs, *chances)), *(Setting(recipe, spike=False) for recipe in quiet)]


def weight_settings() -> list[Setting]:
    """Returns fp32 weights and four ways to store bf16 ones, with float32 moments, at a small and a usual rate."""
    stored = Recipe(BF16, BF16, gradients=BF16)
    ways = [
        Recipe(),
        stored,
        replace(stored, update="stochastic"),
        replace(stored, update="kahan"),
        replace(stored, master_weights=True),
    ]
    return [Setting(recipe, lr, spike=False) for lr in (1e-4, 1e-3) for recipe in ways]


def final_loss(setting: Setting, *, steps: int = 1500, spike_at: int = 50, seed: int = 0) -> tuple[float, float]:
    """Trains digits under a setting, on a CPU, with its own arithmetic.

    The spike comes early, so that many steps follow in which exact second moments decay from it, by 1 / e in 1000.

    Args:
        setting: How.
        steps: Of the training.
        spike_at: The step whose gradients are multiplied, if the setting has a spike; one of `steps`, from 0.
        seed: Of weights, batches and rounding.

    Returns:
        (mean loss of the last 100 steps, NaN or inf if one is; held-out accuracy).

    Raises:
        ValueError: No steps, or a spike outside of them.
    """
    require_whole("final_loss: steps", steps, 1)
    require_whole("final_loss: spike_at", spike_at, 0, steps - 1)
    trainer = Trainer(digits_adam(setting.lr), setting.recipe, seed=seed, device="cpu", native=True)
    losses = [record.loss for record in spiked_steps(trainer, steps, at=spike_at if setting.spike else None)]
    last = losses[-_LAST:]
    return sum(last) / len(last), trainer.held_out()[1]
