from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from mixlab import Recipe, Trainer, load_task
from mixlab.experiments import Trajectory, WatchedStep, watched_steps
from mixlab.probes import Histogram, Lost, Share
from mixlab.reports.columns import largest_underflow, trajectory_columns, watched_columns
from tests.panels.trainings import record


def test_a_trajectory_has_a_row_a_step():
    seen = Trajectory(Recipe(), (1.0, 1.5, math.nan), (0.5, -0.25), (4.0, 0.0), (0.5, math.nan), (1.0, math.nan))
    assert trajectory_columns(seen) == {
        "step": [0, 1],
        "change": [0.5, None],
        "exp_avg": [0.5, -0.25],
        "exp_avg_sq": [2.0, None],
        "reach": [-1.0, None],
    }


def test_a_long_trajectory_is_thinned():
    many = tuple(float(i) for i in range(1001))
    seen = Trajectory(Recipe(), many, many[1:], many[1:], many[1:], many[1:])
    columns = trajectory_columns(seen, points=100)
    assert {len(column) for column in columns.values()} == {100}
    assert columns["step"][:3] == [0, 10, 20]
    assert columns["change"][1] == 11.0


def test_underflow_ends_where_the_loss_does():
    steps = [replace(record(step, loss=loss), underflow={"layer": 0.25}) for step, loss in enumerate((1.0, math.nan))]
    assert [largest_underflow([step]) for step in steps] == [0.25, None]
    assert largest_underflow(steps) == 0.25


def test_a_watched_training_in_pieces():
    def lost(share):
        return Lost(0, "all", swallowed=Share(share, 4), stuck_falling=Share(1, 2))

    moments = Histogram.of(torch.tensor([0.25, 0.25, 1.5, 0.0]))
    steps = [
        WatchedStep(record(0, loss=2.0), lost(1), None),
        WatchedStep(record(1, loss=1.0), lost(3), moments),
        WatchedStep(record(2, loss=math.nan), None, None),
    ]
    columns = watched_columns(steps, points=2)
    assert columns["step"] == [1, 2]
    assert columns["loss"] == [1.5, None]
    assert columns["swallowed"] == [0.75, None]
    assert columns["stuck"] == [0.5, None]
    assert columns["exponent"] == [-3, -2, -1, 0, 1]
    assert columns["v"] == [0.0, pytest.approx(2 / 3), 0.0, pytest.approx(1 / 3), 0.0]
    assert watched_columns([])["v"] == []


def test_a_real_training_watched():
    trainer = Trainer(replace(load_task("digits-cnn"), lr=1e-4), Recipe.parse("bf16"), device="cpu")
    steps = list(watched_steps(trainer, trainer.steps(5), every=2))
    assert [step.lost is not None for step in steps] == [True, False, True, False, True]
    assert [step.record.step for step in steps] == [0, 1, 2, 3, 4]
    moments = steps[-1].second_moments
    assert moments.numel == sum(p.numel() for p in trainer.model.parameters())
    assert steps[2].lost.swallowed.value > 0.3
    assert len(trainer.optimizer._optimizer_step_pre_hooks) == 0


def test_an_optimizer_without_second_moments_has_no_distribution():
    trainer = Trainer(load_task("digits-mlp"), Recipe(), device="cpu")
    (step,) = watched_steps(trainer, trainer.steps(1))
    assert step.second_moments is None
    assert watched_columns([step])["exponent"] == []
