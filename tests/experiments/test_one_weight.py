from __future__ import annotations

from dataclasses import replace

import pytest

from mixlab import PRESETS, Recipe, Trainer, load_task
from mixlab.experiments import Recording, follow_weight, record_gradients
from mixlab.optimizers import smallest_effective_lr

NEAREST = Recipe.parse("bf16-sr,update=nearest,exp_avg=fp32,exp_avg_sq=fp32")
TASK = replace(load_task("digits-cnn"), lr=1e-4)


@pytest.fixture(scope="module")
def recording() -> Recording:
    return record_gradients(TASK, steps=300)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_a_float32_replay_is_the_training_itself(optimizer):
    task = replace(TASK, optimizer=optimizer)
    recording = record_gradients(task, steps=20, parameter="output.weight")
    trainer = Trainer(task, Recipe(), device="cpu")
    parameter = dict(trainer.model.named_parameters())["output.weight"]
    weights = [float(parameter.detach().flatten()[recording.element]) for _ in trainer.steps(20)]
    seen = follow_weight(recording, Recipe())
    assert seen.weight[1:] == tuple(weights)
    state = trainer.optimizer.state[parameter]
    assert seen.exp_avg_sq[-1] == float(state["exp_avg_sq"].flatten()[recording.element])
    assert seen.exp_avg[-1] == float(state["exp_avg"].flatten()[recording.element])
    moves = [new - old for old, new in zip(seen.weight, seen.weight[1:], strict=False)]
    for move, update in zip(moves, seen.update, strict=True):
        assert update == pytest.approx(move, abs=1e-7)


def test_a_bf16_weight_stands_still_where_its_updates_are_below_half_a_gap(recording):
    seen = follow_weight(recording, NEAREST)
    assert seen.moved == 0
    assert max(abs(update) / gap for update, gap in zip(seen.update, seen.gap, strict=True)) < 0.5
    assert TASK.lr < smallest_effective_lr("bf16", seen.weight[0])
    assert abs(seen.wanted) > 10 * abs(seen.gone)


@pytest.mark.parametrize("name", ["bf16-master", "bf16-kahan", "bf16-sr"])
def test_what_repairs_gets_there(recording, name):
    exact, seen = follow_weight(recording, Recipe()), follow_weight(recording, PRESETS[name])
    gap = max(seen.gap)
    deviation = sum(gap * abs(update) for update in seen.update) ** 0.5 if name == "bf16-sr" else 0.0
    assert seen.moved > 0
    assert abs(seen.gone - exact.gone) <= gap + 4 * deviation  # four sigma


def test_a_second_moment_in_bf16_never_comes_down_after_a_spike(recording):
    exact = follow_weight(recording, Recipe(), spike_at=20)
    stuck = follow_weight(recording, Recipe.parse("fp32,exp_avg_sq=bf16"), spike_at=20)
    assert exact.exp_avg_sq[20] > 1000 * exact.exp_avg_sq[19]
    assert exact.exp_avg_sq[-1] < 0.95 * exact.exp_avg_sq[20]
    assert stuck.exp_avg_sq[-1] == stuck.exp_avg_sq[20]


@pytest.mark.parametrize("v", ["fp16", "bf16", "e4m3fn", "dynamic8"])
def test_the_weight_goes_where_its_updates_lead_whatever_v_is_stored_in(recording, v):
    """The optimizer divides by this step's v, not by the stored one, which in fp16 is mostly zero here."""
    short = replace(recording, gradients=recording.gradients[:100])
    seen = follow_weight(short, Recipe.parse(f"fp32,exp_avg_sq={v}"))
    assert seen.wanted == pytest.approx(seen.gone, rel=1e-3)
    assert max(map(abs, seen.update)) < 0.1


def test_replays_repeat_and_all_recipes_replay(recording):
    for name, recipe in PRESETS.items():
        seen = follow_weight(recording, recipe)
        assert (len(seen.weight), len(seen.update), seen.recipe) == (301, 300, recipe), name
    for name in ("fp32", "bf16-sr"):
        assert follow_weight(recording, PRESETS[name]) == follow_weight(recording, PRESETS[name])


def test_the_weight_is_a_typical_one_of_the_larger_half(recording):
    assert recording.parameter == "conv1.weight"
    weights = recording.start.abs().flatten()
    sizes = sum(gradient.abs() for gradient in recording.gradients).flatten()
    large = (weights >= weights.median()) & (sizes > 0)
    assert large[recording.element]
    assert 0.4 < float((sizes[large] < sizes[recording.element]).float().mean()) < 0.6


def test_mistakes_are_named(recording):
    with pytest.raises(ValueError, match="trains with SGD, which has no second moment; use dataclasses.replace"):
        record_gradients(load_task("digits-mlp"))
    with pytest.raises(ValueError, match="steps must be a whole number from 1 up, got 0"):
        record_gradients(TASK, steps=0)
    with pytest.raises(ValueError, match=r"no parameter 'fc'; it has conv1.weight, conv1.bias"):
        record_gradients(TASK, parameter="fc")
    with pytest.raises(TypeError, match="a recipe must be a Recipe or its text"):
        follow_weight(recording, 16)
    with pytest.raises(ValueError, match="spike_at must be a whole number from 0 to 299, got 300"):
        follow_weight(recording, Recipe(), spike_at=300)
    with pytest.raises(ValueError, match="spike must be a finite factor, got inf"):
        follow_weight(recording, Recipe(), spike_at=1, spike=float("inf"))
