"""Adam's moments and the weights in fewer bits, on a real training: in short, and in full as recorded."""

from __future__ import annotations

from dataclasses import replace
from statistics import mean

import pytest
import torch

from mixlab import PRESETS, Recipe, Trainer, load_task
from mixlab.experiments import GridSetting, final_loss, moment_settings, spiked_steps, weight_settings
from mixlab.experiments.storage_grid import digits_adam
from mixlab.measure import measure_states, shipped
from mixlab.optimizers import largest_stalled_significand, read_state

V_BF16 = Recipe.parse("fp32,exp_avg_sq=bf16")
NEAREST = Recipe.parse("bf16-master,gradients=bf16,master_weights=false")


on_two_seeds = pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])


def loss(recipe: Recipe, *, seed: int, steps: int, **change) -> float:
    """Returns the final loss of a short run."""
    return final_loss(GridSetting(recipe, **change), steps=steps, seed=seed)[0]


def recorded(text: str, *, lr: float = 1e-3, spike: bool = True) -> tuple[float, ...]:
    """Returns the final losses in the shipped record, one a seed."""
    (record,) = shipped("states")
    assert record.parameters["seeds"] == 5
    return record[f"{GridSetting(Recipe.parse(text), lr, spike)}, loss"].samples


def ratios(text: str, base: str = "fp32", **where) -> list[float]:
    """Returns a recipe's recorded final loss over that of the same seed under another."""
    return [loss / other for loss, other in zip(recorded(text, **where), recorded(base, **where), strict=True)]


@on_two_seeds
def test_a_second_moment_in_bf16_hurts_after_a_spike_and_stochastic_rounding_repairs_it(seed):
    chance, first = replace(V_BF16, state_rounding="stochastic"), Recipe.parse("fp32,exp_avg=bf16")
    exact, stuck, *others = (loss(recipe, steps=600, seed=seed) for recipe in (Recipe(), V_BF16, chance, first))
    assert stuck > 1.03 * exact
    for other in others:
        assert abs(other / exact - 1) < 0.003


@on_two_seeds
def test_bf16_weights_stall_at_a_small_learning_rate_and_each_remedy_repairs_it(seed):
    where = {"steps": 300, "lr": 1e-4, "spike": False, "seed": seed}
    exact, stalled = loss(Recipe(), **where), loss(NEAREST, **where)
    assert stalled > 1.2 * exact
    for way in ("bf16-master,gradients=bf16", "bf16-sr,exp_avg=fp32,exp_avg_sq=fp32", "bf16-kahan"):
        assert abs(loss(Recipe.parse(way), **where) / exact - 1) < 0.02


def test_after_the_spike_exact_second_moments_decay_and_those_in_bf16_stand():
    """At beta2 = 0.999 every bf16 value rounds back to itself; exact ones fall to 0.999^200 = 0.819 of the spike.

    A scaled block of 8-bit numbers falls as a whole: its scale is kept in fp32 and follows the largest.
    """
    assert largest_stalled_significand("bf16", 0.999) == 2
    left = {}
    for recipe in (Recipe(), V_BF16, Recipe.parse("fp32,exp_avg_sq=e5m2")):
        trainer = Trainer(digits_adam(), recipe, device="cpu", native=True)
        for record in spiked_steps(trainer, 251, at=50):
            if record.step in (50, 250):
                kept = [read_state(trainer.optimizer, p, "exp_avg_sq") for p in trainer.model.parameters()]
                left.setdefault(recipe, []).append(torch.cat([v.flatten() for v in kept]))
    exact, stuck, scaled = ((late / early)[early > 0] for early, late in left.values())
    assert float(exact.median()) == pytest.approx(0.999**200, abs=0.002)
    assert float(scaled.median()) == pytest.approx(0.999**200, abs=0.002)
    assert float((stuck == 1).float().mean()) > 0.85
    assert float((stuck < 1).float().mean()) < 0.01


def test_the_record_says_so_in_every_seed():
    assert min(ratios("fp32,exp_avg_sq=bf16")) > 1.05
    assert min(ratios("fp32,exp_avg_sq=bf16", spike=False)) > 1
    for harmless in ("exp_avg=bf16", "exp_avg_sq=bf16,state_rounding=stochastic"):
        for spike in (True, False):
            assert all(abs(ratio - 1) < 0.03 for ratio in ratios(f"fp32,{harmless}", spike=spike))
    both = "fp32,exp_avg=bf16,exp_avg_sq=bf16"
    assert min(ratios(both)) > 1.05
    assert all(abs(ratio - 1) < 0.03 for ratio in ratios(f"{both},state_rounding=stochastic"))


def test_the_record_shows_the_weights_stall_and_their_remedies():
    for lr, least in ((1e-4, 3), (1e-3, 1.5)):
        where = {"lr": lr, "spike": False}
        assert min(ratios("bf16-master,gradients=bf16,master_weights=false", **where)) > least
        for way in (
            "bf16-master,gradients=bf16",
            "bf16-kahan,exp_avg=fp32,exp_avg_sq=fp32",
            "bf16-sr,exp_avg=fp32,exp_avg_sq=fp32",
        ):
            assert abs(mean(ratios(way, **where)) - 1) < 0.05


def test_a_spike_multiplies_the_gradients_of_one_step_and_nothing_else():
    task = digits_adam()
    plain, spiked = (Trainer(task, Recipe(), device="cpu") for _ in range(2))
    calm = [record.grad_norm for record in plain.steps(3)]
    wild = [record.grad_norm for record in spiked_steps(spiked, 3, at=1, factor=8.0)]
    assert wild[0] == calm[0]
    assert wild[1] == pytest.approx(8 * calm[1], rel=1e-6)
    assert wild[2] < 2 * calm[2]
    again = Trainer(task, Recipe(), device="cpu")
    assert [r.loss for r in spiked_steps(again, 3, at=None)] == [
        r.loss for r in Trainer(task, Recipe(), device="cpu").steps(3)
    ]


def test_a_spike_that_overflows_is_skipped_like_any_other():
    trainer = Trainer(load_task("digits-cnn"), PRESETS["amp-fp16"], device="cpu")
    records = list(spiked_steps(trainer, 4, at=2, factor=1e38))
    assert [record.skipped for record in records] == [False, False, True, False]


def test_the_grid_has_every_pair_once():
    settings = moment_settings()
    assert len(set(settings)) == len(settings) == 36 + 35 + 4 + 3 + 2
    assert len(weight_settings()) == 10
    assert str(settings[0]) == "fp32, lr 0.001, spike"


def test_a_record_of_a_few_settings():
    parts: list[float] = []
    settings = [GridSetting(Recipe(), 1e-2), GridSetting(Recipe.parse("fp16"), 1e-2)]
    record = measure_states(settings=settings, steps=6, spike_at=2, seeds=2, seed=3, progress=parts.append)
    assert record.kind == "states"
    assert record.parameters["fp16, lr 0.01, spike"] == "diverged: 2 of 2 runs"
    series = record["fp32, lr 0.01, spike, loss"]
    assert series.samples == tuple(final_loss(settings[0], steps=6, spike_at=2, seed=seed)[0] for seed in (3, 4))
    assert [one.name for one in record.series] == ["fp32, lr 0.01, spike, loss", "fp32, lr 0.01, spike, accuracy"]
    assert parts == sorted(parts)
    assert parts[-1] == 1


def test_mistakes_are_named():
    trainer = Trainer(digits_adam(), Recipe(), device="cpu")
    with pytest.raises(ValueError, match="at must be a whole number from 0 up, got -1"):
        next(spiked_steps(trainer, 1, at=-1))
    with pytest.raises(ValueError, match="factor must be finite, got nan"):
        next(spiked_steps(trainer, 1, at=0, factor=float("nan")))
    with pytest.raises(ValueError, match="steps must be a whole number from 1 up, got 0"):
        final_loss(GridSetting(Recipe()), steps=0)
    with pytest.raises(ValueError, match="spike_at must be a whole number from 0 to 4, got 5"):
        final_loss(GridSetting(Recipe()), steps=5, spike_at=5)
    for wrong, words in (({"seeds": 0}, "seeds must be"), ({"steps": 0}, "steps must be"), ({"settings": []}, "empty")):
        with pytest.raises(ValueError, match=words):
            measure_states(**wrong)


def test_batches_are_32_rows_of_digits():
    inputs, targets = digits_adam().batch(0, 0)
    assert (inputs.shape, targets.shape) == (torch.Size([32, 64]), torch.Size([32]))
