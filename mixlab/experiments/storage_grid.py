"""A small training to repeat over seeds and formats of weights and moments, with an optional gradient spike."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import nn

from mixlab.arguments import require_whole
from mixlab.batches import Batch, map_batch
from mixlab.formats import BF16, FP16, FP32
from mixlab.recipes import STATES, Recipe
from mixlab.training import StepRecord, Task, Trainer, load_task

_LAST = 100  # steps; the final loss is their mean


def digits_adam(lr: float = 1e-3) -> Task:
    """Returns a task: digits with a perceptron of 64-128-128-10 units, batches of 32 rows, and Adam.

    Args:
        lr: Learning rate.
    """
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

    def draw(generator: torch.Generator) -> Batch:
        return map_batch(digits.draw(generator), lambda tensor: tensor[:32])

    return Task("digits-adam", model, draw, digits.held_out, optimizer="adam", lr=lr)


def spiked_steps(trainer: Trainer, count: int, *, at: int | None, factor: float = 1000.0) -> Iterator[StepRecord]:
    """Yields `trainer.steps(count)`, with the gradients of one step multiplied, as if by a broken batch.

    Args:
        trainer: The trainer.
        count: How many steps to train.
        at: The step whose gradients are multiplied, counted from 0; None for no spike.
        factor: The factor, applied to gradients as backward delivers them.

    Raises:
        ValueError: If a number is out of range, or the factor is not finite.
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
class GridSetting:
    """One way to train: everything but the seed.

    Args:
        recipe: How weights and moments are stored.
        lr: Learning rate.
        spike: Whether the gradients of one step are multiplied by 1000.
    """

    recipe: Recipe
    lr: float = 1e-3
    spike: bool = True

    def __str__(self) -> str:
        return f"{self.recipe}, lr {self.lr:g}, {'spike' if self.spike else 'no spike'}"


def moment_settings() -> list[GridSetting]:
    """Returns the settings that compare moment formats, with float32 weights.

    With a spike: every pair of formats, rounded to nearest and stochastically. Without a spike: the pairs of fp32 and
    bf16, and fp16, in which second moments underflow.
    """
    pairs = [Recipe(exp_avg=m, exp_avg_sq=v) for m, v in product(STATES, STATES)]
    chances = [replace(recipe, state_rounding="stochastic") for recipe in pairs if recipe != Recipe()]
    quiet = [recipe for recipe in (*pairs, *chances) if {recipe.exp_avg, recipe.exp_avg_sq} <= {FP32, BF16}]
    quiet += [Recipe(exp_avg=FP16), Recipe(exp_avg_sq=FP16)]
    return [
        *(GridSetting(recipe) for recipe in (*pairs, *chances)),
        *(GridSetting(recipe, spike=False) for recipe in quiet),
    ]


def weight_settings() -> list[GridSetting]:
    """Returns the settings that compare weight formats: fp32, and bf16 stored in four ways.

    Moments are in float32, and there is no spike. The learning rate is 1e-4 or 1e-3.
    """
    stored = Recipe(BF16, BF16, gradients=BF16)
    ways = [
        Recipe(),
        stored,
        replace(stored, update="stochastic"),
        replace(stored, update="kahan"),
        replace(stored, master_weights=True),
    ]
    return [GridSetting(recipe, lr, spike=False) for lr in (1e-4, 1e-3) for recipe in ways]


def final_loss(setting: GridSetting, *, steps: int = 1500, spike_at: int = 50, seed: int = 0) -> tuple[float, float]:
    """Trains digits under a setting, in a CPU's native arithmetic.

    The spike comes early, so that exact second moments have many steps to decay: by a factor of e in 1000 steps.

    Args:
        setting: How to train.
        steps: How many steps to train, at least 1.
        spike_at: The step of the spike, counted from 0, if the setting has one.
        seed: Seed of weights, batches and rounding.

    Returns:
        (mean loss of the last 100 steps, NaN or inf if any of them is; held-out accuracy).

    Raises:
        ValueError: If there are no steps, or `spike_at` is not one of them.
    """
    require_whole("final_loss: steps", steps, 1)
    require_whole("final_loss: spike_at", spike_at, 0, steps - 1)
    trainer = Trainer(digits_adam(setting.lr), setting.recipe, seed=seed, device="cpu", native=True)
    losses = [record.loss for record in spiked_steps(trainer, steps, at=spike_at if setting.spike else None)]
    last = losses[-_LAST:]
    _, accuracy = trainer.held_out()
    assert accuracy is not None  # of digits
    return sum(last) / len(last), accuracy
