from __future__ import annotations

import math

import pytest
import torch

from mixlab import Recipe
from mixlab.measure import Record, measure_optimizer, shipped
from mixlab.measure.optimizers import STORAGE_RECIPES
from mixlab.memory import model_states
from mixlab.optimizers import BACKENDS, Backend

SMALL = {"numel": 4096, "rounds": 2}


def test_a_record_holds_what_was_measured(tmp_path):
    parts: list[float] = []
    record = measure_optimizer(
        recipes=["fp32", "fp32,exp_avg=dynamic8"],
        backends=["torch fused"],
        modes=["eager"],
        command="as typed",
        progress=parts.append,
        **SMALL,
    )
    assert (record.kind, record.command, record.parameters["numel"]) == ("optimizer", "as typed", 4 * 32 * 32 + 32)
    cases = ["torch fused", "fp32 eager", "fp32,exp_avg=dynamic8 eager"]
    whats = ["step", "ratio", "states", "speed"]
    assert [one.name for one in record.series] == ["copy_", *(f"{case}, {what}" for case in cases for what in whats)]
    assert len(record["fp32 eager, step"].samples) == 2
    assert record["fp32 eager, states"].samples == (8.0,)
    moved_bytes = (3 * 4 + 2 * 8) * record.parameters["numel"]
    seconds, speed = record["fp32 eager, step"].samples[0], record["fp32 eager, speed"].samples[0]
    assert speed == pytest.approx(moved_bytes / seconds / 1e9)
    assert parts[-1] == 1
    record.save(tmp_path / "record.json")
    assert Record.load(tmp_path / "record.json") == record


@pytest.mark.parametrize("text", STORAGE_RECIPES[::7] + STORAGE_RECIPES[-8:])
def test_recipes_are_measured_with_the_bytes_that_are_counted(text):
    record = measure_optimizer(recipes=[text], backends=[], modes=["eager"], **SMALL)
    states = model_states(Recipe.parse(text), [1024] * 4 + [32])
    kept = states.bytes - states.parts["parameters"] - states.parts["gradients"]
    assert record[f"{text} eager, states"].median == kept / states.numel


def test_the_recipes_are_all_pairs_and_all_ways():
    assert len(STORAGE_RECIPES) == len(set(STORAGE_RECIPES)) == 36 + 5 + 8
    assert {str(Recipe.parse(text)) for text in STORAGE_RECIPES} == set(STORAGE_RECIPES)


def test_both_modes_of_every_recipe_are_measured():
    record = measure_optimizer(recipes=["fp32", "bf16-sr"], backends=[], **SMALL)
    cases = [one.name.removesuffix(", step") for one in record.series if one.name.endswith(", step")]
    assert cases == ["fp32 eager", "fp32 compiled", "bf16-sr eager", "bf16-sr compiled"]


def test_what_does_not_run_here_is_a_note(monkeypatch):
    def refuse(*_arguments, **_knobs):
        raise RuntimeError("no kernel image for this device\nand a stack")

    broken = Backend("optimi", "torch", torch.float32, "fp32", refuse)
    monkeypatch.setitem(BACKENDS, "optimi", broken)
    record = measure_optimizer(recipes=["fp32"], backends=["optimi"], modes=["eager"], **SMALL)
    assert record.parameters["optimi"] == "does not run here: no kernel image for this device"
    assert record["fp32 eager, step"].median > 0


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"numel": 10}, "numel must be a whole number from 64 up, got 10"),
        ({"rounds": 0}, "rounds must be a whole number from 1 up, got 0"),
        ({"modes": ["fast"]}, "modes must be eager, compiled or both, got fast"),
        ({"recipes": ["fp17"]}, "unknown recipe 'fp17'"),
        ({"backends": ["apex"]}, "unknown optimizer backend 'apex'"),
        ({"recipes": [], "backends": []}, "nothing to measure"),
        ({"device": "tpu"}, "tpu"),
    ],
)
def test_mistakes_are_named(wrong, words):
    with pytest.raises(ValueError, match=words):
        measure_optimizer(**wrong)


def test_the_shipped_record_is_whole():
    (record,) = (one for one in shipped("optimizer") if not one.machine["gpus"])
    assert record["torch fused, ratio"].median == pytest.approx(1, rel=0.2)
    assert record["bf16-kahan eager, states"].median == 6
    numel = record.parameters["numel"]
    vector = math.isqrt(numel // 4)  # beside four square matrices; torchao keeps small parameters in fp32
    expected = ((2 + 2 * 4 / 256) * (numel - vector) + 8 * vector) / numel
    assert record["torchao 8-bit, states"].median == pytest.approx(expected, rel=1e-12)
    assert numel > 24e6


def test_a_shipped_record_of_a_gpu_shows_speed_in_proportion_to_bytes():
    record = next(one for one in shipped("optimizer") if one.machine["gpus"])
    assert record.parameters["numel"] > 3e8  # so that a launch takes no part of the time
    assert record["fp32 compiled, ratio"].median < 1.1
    fast = ("fp32", "fp32,exp_avg=bf16", "fp32,exp_avg=bf16,exp_avg_sq=bf16", "bf16-master")
    for recipe in fast:
        assert record[f"{recipe} compiled, speed"].median > 0.8 * record["copy_"].median, recipe
    both = "fp32,exp_avg={0},exp_avg_sq={0} compiled, step"
    steps = [record[name].median for name in ("fp32 compiled, step", both.format("bf16"), both.format("e4m3fn"))]
    assert steps == sorted(steps, reverse=True)
