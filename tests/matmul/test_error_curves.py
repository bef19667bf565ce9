from __future__ import annotations

import math

import pytest
import torch

from mixlab import load_task
from mixlab.formats import accumulate
from mixlab.matmul import (
    OPERAND_SAMPLES,
    Summation,
    dot,
    error_bound,
    error_growth,
    operand_sample,
    sum_limits,
    sums_at,
)


def test_points_are_the_errors_of_dot_products():
    sample = operand_sample("normal", length=700, rows=31)
    how = [Summation("fp16"), Summation("bf16", "pairwise"), "h100"]
    growth = error_growth(sample.x, sample.y, [700, 10], operands=["fp16", "bf16"], summations=how)
    assert [point.length for point in growth.points] == [10, 700] * 6
    assert len(growth.curves()) == 6
    point = growth.points[1]
    x, y = sample.x.double(), sample.y.double()
    size = (x * y).abs().sum(1)
    error = (dot(x, y, operands="fp16", summation=how[0]) - (x * y).sum(1)).abs() / size
    assert point.median_error == error.median().item()
    assert point.max_error == error.max().item() < point.bound
    a, b = x.half().double(), y.half().double()
    assert point.max_sum_error == pytest.approx(
        ((dot(x, y, operands="fp16", summation=how[0]) - (a * b).sum(1)).abs() / (a * b).abs().sum(1)).max().item()
    )
    assert point.sum_bound == error_bound(how[0], 700)
    assert point.condition == pytest.approx((size / (x * y).sum(1).abs()).median().item())
    assert all(each.max_sum_error <= each.sum_bound and each.max_error <= each.bound for each in growth.points)


def test_overflow_and_halts_are_counted():
    ones = torch.ones(4, 4096)
    x = ones * torch.tensor([[1.0], [0.5], [1.0], [60.0]])  # halt at 2048 and 1024, go to and fro, leave the range
    x[2, ::2] = -1
    growth = error_growth(x, ones, [4096], summations=[Summation("fp16")])
    point = growth.points[0]
    assert (point.overflow_fraction, point.stall_fraction) == (0.25, 0.5)
    assert point.max_error == 0.5
    text = repr(growth)
    assert "25% overflowed, 50% stood still in the second half" in text
    assert "fp16, fp16 sequential  4,096" in text


def test_a_point_without_a_finite_sum_has_no_error():
    big = torch.full((2, 64), 60_000.0)
    point = error_growth(big, big, [64], summations=[Summation("fp16")]).points[0]
    assert point.overflow_fraction == 1
    assert math.isnan(point.median_error)
    assert point.stall_fraction == 0


@pytest.mark.parametrize("value", [1e-3, 0.3, 5.0, 300.0])
def test_sums_halt_and_overflow_where_single_additions_do(value: float):
    """`accumulate` adds one value at a time."""
    steps = 3000
    sums = accumulate(value, steps, "fp16", overflow="inf")
    limits = sum_limits(torch.full((1, steps), value), torch.ones(1, steps), operands="fp16")
    before = torch.cat([torch.zeros(1, dtype=torch.float64), sums[:-1]])
    moved = torch.nonzero(sums != before).max().item() + 1
    infinite = torch.nonzero(sums.isinf())
    assert limits.overflowed_at.item() == (infinite.min().item() + 1 if len(infinite) else 0)
    assert limits.last_moved_at.item() == moved
    assert limits.stalled.item() == (not len(infinite) and 2 * moved <= steps)


def test_the_halt_of_sums_at_is_that_of_sum_limits():
    sample = operand_sample("positive", length=9000, rows=16)
    limits = sum_limits(sample.x, sample.y, operands="fp16")
    _, moved = sums_at(sample.x, sample.y, [9000], operands="fp16", summation=Summation("fp16"))
    assert torch.equal(moved[0], limits.last_moved_at)
    assert limits.overflowed_at.max() == 0


def test_positive_products_stand_still_in_fp16_and_not_in_fp32():
    """Products of two uniform numbers are below 1, so an fp16 sum cannot pass 2048."""
    sample = operand_sample("positive", length=30_000, rows=8)
    halted = dot(sample.x, sample.y, operands="fp16", summation=Summation("fp16"))
    assert (halted <= 2048).all()
    assert sum_limits(sample.x, sample.y, operands="fp16").stalled.all()
    assert not sum_limits(sample.x, sample.y, operands="fp16", accumulator="fp32").stalled.any()


def test_activations_are_the_layers():
    sample = operand_sample("activations", length=512, rows=20)
    weight = load_task("chars-gpt").seeded_model(0).get_submodule("blocks.1.contract").weight
    assert all((row == weight).all(1).any() for row in sample.y)
    assert sample.x.shape == (20, 512)


def test_weight_gradients_are_the_models():
    """Over one batch, the dot product of activations and output gradients is an entry of the weights' gradient."""
    sample = operand_sample("weight-gradient", length=1024, rows=25)
    task = load_task("chars-gpt")
    model = task.seeded_model(0)
    loss, _ = task.loss_and_metric(model, task.batch(0, 0))
    loss.backward()
    gradient = model.get_submodule("blocks.1.contract").weight.grad.double()
    products = dot(sample.x, sample.y)
    nearest = (gradient.flatten()[None] - products[:, None]).abs().amin(1)
    assert (nearest <= 1e-5 * gradient.abs().max()).all()


def test_samples_depend_on_the_seed_alone():
    for name in OPERAND_SAMPLES[:3]:
        one, same, other = (operand_sample(name, length=16, rows=3, seed=seed) for seed in (1, 1, 2))
        assert torch.equal(one.x, same.x)
        assert torch.equal(one.y, same.y)
        assert not torch.equal(one.x, other.x)
        assert one.what == same.what


def test_training_first_changes_the_operands():
    fresh, trained = (operand_sample("activations", length=8, rows=4, steps=steps) for steps in (0, 1))
    assert not torch.equal(fresh.y, trained.y)
    assert "trained for one step" in trained.what


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: operand_sample("gaussian"), "unknown operands 'gaussian'"),
        (lambda: operand_sample("activation"), "did you mean activations"),
        (lambda: operand_sample("normal", length=0), "length must be a whole number from 1 up, got 0"),
        (lambda: operand_sample("activations", length=513), "length must be a whole number from 1 to 512, got 513"),
        (lambda: operand_sample("normal", rows=-1), "rows must be a whole number from 1 up, got -1"),
        (lambda: operand_sample("normal", seed=True), "seed must be a whole number"),
        (lambda: operand_sample("activations", length=8, steps=-1), "steps must be a whole number from 0 up, got -1"),
        (lambda: error_growth(torch.ones(1, 4), torch.ones(1, 4), []), "must be lists of at least one"),
        (lambda: error_growth(torch.ones(1, 4), torch.ones(1, 4), [2], operands="fp16"), "must be lists"),
        (lambda: error_growth(torch.ones(1, 4), torch.ones(1, 4), [5]), "a whole number from 1 to 4, got 5"),
        (lambda: error_growth(torch.ones(1, 4), torch.ones(1, 3), [2]), r"got \(1, 4\) and \(1, 3\)"),
        (lambda: error_growth(torch.full((1, 4), math.nan), torch.ones(1, 4), [2]), "x must be finite, got NaN or inf"),
        (lambda: error_growth(torch.ones(1, 4), torch.full((1, 4), math.inf), [2]), "y must be finite"),
        (lambda: error_growth([1.0], torch.ones(1, 4), [1]), "x must be a floating tensor, got list"),
        (lambda: sum_limits(torch.full((1, 4), math.inf), torch.ones(1, 4)), "x must be finite"),
        (lambda: sum_limits(torch.ones(1, 4), torch.ones(1, 4), accumulator="fp99"), "unknown format 'fp99'"),
        (lambda: sum_limits(torch.ones(4), torch.ones(4)), r"must both be \(rows, K\)"),
    ],
)
def test_bad_input_is_refused_in_words(call, words: str):
    with pytest.raises((TypeError, ValueError), match=words):
        call()
