"""What the labs claim, on five seeds: the window of the loss scale, pure fp16's NaN, where the scale settles."""

from __future__ import annotations

import math
from functools import cache

import pytest

from mixlab import FP16, Recipe, StepRecord, Trainer, load_task, tensor_stats
from mixlab.probes import largest_scale_exponent, track

SEEDS = (0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3, 4)))


def train(recipe: str, seed: int, *, task: str = "digits-mlp", loss_weight: float = 1.0, steps: int = 300):
    trainer = Trainer(load_task(task, loss_weight=loss_weight), Recipe.parse(recipe), seed=seed, device="cpu")
    return trainer, list(trainer.steps(steps))


def accuracy(records: list[StepRecord]) -> float:
    return sum(record.metric for record in records[-30:]) / 30


@cache
def fp32_accuracy(seed: int) -> float:
    return accuracy(train("fp32", seed)[1])


@pytest.mark.parametrize("seed", SEEDS)
def test_a_scale_too_small_learns_nothing(seed):
    _, records = train("amp-fp16,scaler=static,scale=1", seed, loss_weight=1e-6, steps=100)
    assert accuracy(records) < 0.2
    assert all(record.grad_norm == 0 for record in records[1:30])
    assert not any(record.skipped for record in records)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("loss_weight", "scale"), [(1e-6, 2**12), (1e-6, 2**16), (1.0, 2**10)])
def test_inside_the_window_it_learns_as_fp32_does(seed, loss_weight, scale):
    _, records = train(f"amp-fp16,scaler=static,scale={scale}", seed, loss_weight=loss_weight)
    assert sum(record.skipped for record in records) == 0
    assert accuracy(records) > fp32_accuracy(seed) - 0.1


@pytest.mark.parametrize("seed", SEEDS)
def test_a_scale_too_large_skips_most_steps(seed):
    _, records = train("amp-fp16,scaler=static,scale=2^20", seed)
    assert sum(record.skipped for record in records) > 150
    assert accuracy(records) < fp32_accuracy(seed) - 0.2


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("task", ["digits-cnn", "chars-gpt"])
def test_pure_fp16_with_adam_gives_nan(seed, task):
    _, records = train("fp16", seed, task=task, steps=4)
    assert math.isnan(records[-1].loss)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_dynamic_scale_settles_within_a_factor_of_four_of_the_probes_prediction(seed):
    """The prediction comes from float32 gradients of a run that never saw fp16; the scaler hunts in steps of two."""
    task = load_task("digits-mlp")
    _, records = train("amp-fp16,growth_interval=10", seed)
    settled = sorted(math.log2(record.scale) for record in records[100:])
    watched = Trainer(task, Recipe.parse("fp32"), seed=seed, device="cpu")
    predictions = []
    for step, _ in enumerate(watched.steps(300)):
        if step >= 100 and step % 10 == 0:
            with track(watched.model, sample=1024, kinds=("gradient", "weight_gradient")) as probe:
                loss, _ = task.loss_and_metric(watched.model, task.batch(seed, step))
                loss.backward()
            watched.optimizer.zero_grad()
            predictions.append(largest_scale_exponent(max(stats.amax for stats in probe), FP16))
    predicted = sorted(predictions)[len(predictions) // 2]
    assert abs(settled[len(settled) // 2] - predicted) <= 2


def test_the_gradients_of_a_weighted_loss_lie_below_fp16s_floor():
    trainer = Trainer(load_task("digits-mlp", loss_weight=1e-6), Recipe.parse("fp32"), device="cpu")
    gradient = trainer.reference_gradients()["hidden1.weight"]
    histogram = tensor_stats(gradient).histogram
    assert histogram.fractions(FP16).underflow > 0.95
    assert histogram.fractions(FP16, 16).underflow < 0.05
