from __future__ import annotations

import math
import statistics
from dataclasses import replace
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlab import FP16, TASKS, Recipe, TorchPolicy, Trainer, load_task, tensor_stats, track, usable_window
from mixlab.experiments import predict_settled, predict_windows, static_window
from mixlab.formats import Format
from mixlab.loss_scaling import DeepSpeedPolicy, MegatronPolicy, ScalePolicy, ScaleWindow
from mixlab.probes import scale_window
from tests.small import SMALL_GPT

SEEDS = (0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3, 4)))


def test_the_edges_of_given_gradients():
    gradients = torch.tensor([2.0**-20, 3.0])
    window = scale_window([tensor_stats(gradients)], "fp16")
    assert window == ScaleWindow(-4, 14)  # 2^-24 is the smallest fp16 value; 3 * 2^14 fits, 3 * 2^15 does not
    assert window.usable
    assert str(window) == "2⁻⁴ to 2¹⁴"


def test_a_range_too_wide_for_the_format_has_no_window():
    window = scale_window([tensor_stats(torch.tensor([1e-20, 1e20]))], FP16)
    assert not window.usable
    assert "none" in str(window)


def test_all_layers_share_the_scale_and_activations_do_not_count():
    stats = [tensor_stats(torch.tensor([value]), layer=str(value)) for value in (1.0, 64.0)]
    activation = tensor_stats(torch.tensor([1e30]), kind="activation")
    assert scale_window([*stats, activation], FP16).high == 9
    assert static_window([ScaleWindow(0, 9), ScaleWindow(3, 12)]) == ScaleWindow(3, 9)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: scale_window([], "fp16"), "no non-zero gradient"),
        (lambda: scale_window([tensor_stats(torch.zeros(3))], "fp16"), "no non-zero gradient"),
        (lambda: static_window([]), "no windows; predict_windows"),
        (lambda: predict_windows(load_task("digits-mlp"), steps=0), "steps must be a whole number from 1 up, got 0"),
        (lambda: predict_windows(load_task("digits-mlp"), steps=1, every=0), "every must be a whole number"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", TASKS)
def test_a_static_scale_at_the_predicted_edges(name, seed):
    """One fp16 step at the weights of the probed one: finite at the upper edge, inf at most one binade above it, and
    at the lower edge about the tolerated share of weight gradients is zero that fp32 keeps.
    """
    task = load_task(name)
    probed = Trainer(task, Recipe(), seed=seed, device="cpu")
    list(probed.steps(3))
    with track(probed.model, sample=None, kinds=("gradient", "weight_gradient")) as probe:
        probed.backward()
    window = scale_window(probe, FP16)
    assert window.usable

    def step_at(exponent: int):
        recipe = Recipe.parse(f"amp-fp16,scaler=static,scale=2^{exponent}")
        trainer = Trainer(task, recipe, seed=seed, device="cpu", probe_every=1)
        trainer.model.load_state_dict(probed.model.state_dict())
        trainer.step = probed.step
        return next(trainer.steps(1))

    probed.optimizer.zero_grad()
    assert not step_at(window.high - 1).skipped
    assert step_at(window.high + 2).skipped
    below, inside = step_at(window.low - 8), step_at(window.low)
    assert max(below.underflow.values()) > 5 * max(inside.underflow.values())
    assert statistics.mean(inside.underflow.values()) < 0.05


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("task", "steps"),
    [
        (load_task("digits-mlp"), 120),
        (load_task("digits-cnn"), 120),
        (SMALL_GPT, 60),
        pytest.param(load_task("chars-gpt"), 30, marks=pytest.mark.slow),
    ],
    ids=["digits-mlp", "digits-cnn", "small chars-gpt", "chars-gpt"],
)
def test_where_the_dynamic_scaler_settles_is_predicted_within_a_factor_of_two(task, steps, seed):
    """The prediction comes from float32 gradients of a run that never saw fp16."""
    recipe = Recipe.parse("amp-fp16,growth_interval=5")
    predicted = predict_settled(predict_windows(task, steps=steps, seed=seed), recipe.scale_policy())
    records = list(Trainer(task, recipe, seed=seed, device="cpu").steps(steps))
    settled = statistics.median(math.log2(record.scale) for record in records[steps // 2 :])
    assert abs(settled - predicted) <= 1


def test_probing_every_few_steps_gives_fewer_windows():
    task = load_task("digits-mlp")
    whole, few = (predict_windows(task, steps=6, every=every) for every in (1, 3))
    assert few == whole[::3]
    assert predict_settled([ScaleWindow(0, 10)] * 60, replace(TorchPolicy(), growth_interval=3)) in (10, 11)


def test_a_policy_that_settles_nowhere_is_named_never_nan():
    low = [ScaleWindow(-3, -2)] * 6
    at_once = DeepSpeedPolicy(1.0, hysteresis=1)
    with pytest.raises(ValueError, match=r"DeepSpeedPolicy gives up at step 0 and settles nowhere: the loss"):
        predict_settled(low, at_once)
    with pytest.raises(ValueError, match=r"DeepSpeedPolicy gives up at step 2"):
        predict_settled(low, replace(at_once, init_scale=4.0))
    with pytest.raises(ValueError, match=r"TorchPolicy's scale is 0 from step 2 on and settles nowhere"):
        predict_settled([ScaleWindow(-300, -290)] * 6, TorchPolicy(1.0, backoff_factor=2.0**-80))
    with pytest.raises(ValueError, match=r"MegatronPolicy's scale is inf from step 1 on"):
        predict_settled([ScaleWindow(0, 2000)] * 4, MegatronPolicy(2.0**127, growth_interval=1))
    with pytest.raises(ValueError, match=r"no windows; predict_windows"):
        predict_settled([], TorchPolicy())


@given(
    high=st.integers(-160, 1100),
    kind=st.sampled_from(get_args(ScalePolicy)),
    start=st.integers(0, 24),
    steps=st.integers(1, 30),
)
@settings(max_examples=100)
def test_a_settled_scale_is_a_number_or_refused_in_words(high, kind, start, steps):
    try:
        settled = predict_settled([ScaleWindow(-400, high)] * steps, kind(2.0**start, growth_interval=1))
    except ValueError as error:
        assert "settles nowhere" in str(error)  # noqa: PT017
    else:
        assert math.isfinite(settled)


@pytest.mark.parametrize("fmt", ["fp16", "bf16", "e5m2", "e4m3fn"])
@pytest.mark.parametrize("magnitude", [1e-30, 1e-3, 1.0, 1e30])
def test_any_tolerance_gives_a_window_in_which_as_much_is_lost_and_not_below(fmt, magnitude):
    stats = tensor_stats(torch.logspace(-6, 0, 50) * magnitude)
    fmt = Format.parse(fmt)
    for tolerance in (0.0, 0.3, 0.98, 1.0):
        window = usable_window(stats, fmt, tolerance=tolerance)
        if not window.usable:
            continue
        low, high = window.low, window.high
        assert -512 <= low <= high
        assert stats.histogram.fractions(fmt, low).underflow <= tolerance
        assert low == -512 or stats.histogram.fractions(fmt, low - 1).underflow > tolerance
    assert window == ScaleWindow(-512, high)
