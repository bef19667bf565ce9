from __future__ import annotations

import pytest

from mixlab import BF16, E4M3FN, FP32, PRESETS, Recipe
from mixlab.panels import StateControls
from mixlab.panels.knobs import STATES_AND_WEIGHTS


def knob(controls: StateControls, field: str):
    return controls.recipe_controls.controls[field]


def test_it_opens_as_it_is_told():
    controls = StateControls("lean-bf16", lr=2e-4, spike=True)
    assert (controls.recipe, controls.lr, controls.spike) == (PRESETS["lean-bf16"], 2e-4, True)
    assert controls.label == "lean-bf16, lr 0.0002, spike"
    assert [knob(controls, name).value for name in ("exp_avg", "exp_avg_sq", "weights")] == [BF16, FP32, FP32]
    assert repr(controls) == "lean-bf16, lr 0.0002, spike: 12 bytes per parameter"


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_shows(name):
    controls = StateControls(name)
    assert controls.recipe == PRESETS[name]
    assert knob(controls, "share").value == name


def test_the_bytes_follow_the_toggles():
    controls = StateControls()
    assert "16 bytes per parameter" in controls._bytes.value
    knob(controls, "exp_avg").value = knob(controls, "exp_avg_sq").value = "dynamic8"
    assert controls.bytes.bytes_per_parameter == 10 + 8 / 256
    assert "scales of exp_avg_sq" in controls._bytes.value
    knob(controls, "weights").value = BF16
    knob(controls, "update").value = "kahan"
    assert controls.bytes.bytes_per_parameter == 8 + 8 / 256
    assert "Kahan compensation" in controls._bytes.value


def test_every_way_with_the_weights_and_back():
    controls = StateControls("fp32,exp_avg_sq=bf16")
    turns = [("weights", BF16), ("update", "stochastic"), ("update", "kahan"), ("master_weights", True)]
    for field, value in [*turns, ("weights", FP32)]:
        knob(controls, field).value = value
        assert knob(controls, field).value == value == getattr(controls.recipe, field)
    assert controls.recipe == Recipe.parse("fp32,exp_avg_sq=bf16")


def test_it_has_the_knobs_of_the_cockpit():
    assert set(StateControls().recipe_controls.controls) == {*STATES_AND_WEIGHTS, "share"}


def test_rounding_needs_something_to_round():
    controls = StateControls()
    assert knob(controls, "state_rounding").disabled
    knob(controls, "exp_avg_sq").value = E4M3FN
    assert not knob(controls, "state_rounding").disabled
    knob(controls, "state_rounding").value = "stochastic"
    assert controls.recipe == Recipe.parse("fp32,exp_avg_sq=e4m3fn,state_rounding=stochastic")
    knob(controls, "exp_avg_sq").value = FP32
    assert controls.recipe == Recipe()
    assert (knob(controls, "state_rounding").value, knob(controls, "state_rounding").disabled) == ("nearest_even", True)


def test_pure_bf16_becomes_an_optimizer_of_ours():
    controls = StateControls("bf16")
    knob(controls, "exp_avg_sq").value = FP32
    assert controls.recipe.update == "nearest_even"
    assert "Update rounded: to nearest" in controls.recipe_controls.note.value


def test_who_listens_is_told():
    told = []
    controls = StateControls()
    controls.changed.append(lambda: told.append(controls.label))
    knob(controls, "exp_avg").value = BF16
    controls._lr.value = 1e-3
    controls._spike.value = True
    knob(controls, "share").value = "bf16-sr"
    assert told == [
        "fp32,exp_avg=bf16, lr 0.0001",
        "fp32,exp_avg=bf16, lr 0.001",
        "fp32,exp_avg=bf16, lr 0.001, spike",
        "bf16-sr, lr 0.001, spike",
    ]


def test_what_is_no_recipe_is_answered_and_changes_nothing():
    controls = StateControls("bf16-sr")
    knob(controls, "share").value = "bf17"
    assert "unknown recipe 'bf17'" in knob(controls, "share").error
    assert (controls.recipe, knob(controls, "share").value) == (PRESETS["bf16-sr"], "bf17")


def test_mistakes_are_named():
    for lr in (0, float("nan"), "1", True):
        with pytest.raises(ValueError, match="lr must be a positive finite number, got"):
            StateControls(lr=lr)
    with pytest.raises(ValueError, match="unknown recipe"):
        StateControls("fp17")
