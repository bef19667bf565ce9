from __future__ import annotations

import pytest

from mixlab import BF16, E4M3FN, FP32, PRESETS, Recipe
from mixlab.panels import StateControls
from mixlab.panels.state_controls import _WEIGHTS


def test_it_opens_as_it_is_told():
    controls = StateControls("lean-bf16", lr=2e-4, spike=True)
    assert (controls.recipe, controls.lr, controls.spike) == (PRESETS["lean-bf16"], 2e-4, True)
    assert controls.label == "lean-bf16, lr 0.0002, spike"
    assert (controls._exp_avg.value, controls._exp_avg_sq.value, controls._weights.value) == (BF16, FP32, "fp32")
    assert repr(controls) == "lean-bf16, lr 0.0002, spike: 12 bytes per parameter"


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_shows(name):
    controls = StateControls(name)
    assert controls.recipe == PRESETS[name]
    assert controls._share.value == name


def test_the_bytes_follow_the_toggles():
    controls = StateControls()
    assert "16 bytes per parameter" in controls._bytes.value
    controls._exp_avg.value = controls._exp_avg_sq.value = "dynamic8"
    assert controls.bytes.bytes_per_parameter == 10 + 8 / 256
    assert "scales of exp_avg_sq" in controls._bytes.value
    controls._weights.value = "bf16, Kahan sum"
    assert controls.bytes.bytes_per_parameter == 8 + 8 / 256
    assert "Kahan compensation" in controls._bytes.value


def test_every_way_with_the_weights_and_back():
    controls = StateControls("fp32,exp_avg_sq=bf16")
    for way in (*_WEIGHTS, "fp32"):
        controls._weights.value = way
        assert controls.errors.last_error is None
        assert controls._weights.value == way
    assert controls.recipe == Recipe.parse("fp32,exp_avg_sq=bf16")


def test_rounding_needs_something_to_round():
    controls = StateControls()
    assert controls._rounding.disabled
    controls._exp_avg_sq.value = E4M3FN
    assert not controls._rounding.disabled
    controls._rounding.value = "stochastic"
    assert controls.recipe == Recipe.parse("fp32,exp_avg_sq=e4m3fn,state_rounding=stochastic")
    controls._exp_avg_sq.value = FP32
    assert controls.recipe == Recipe()
    assert (controls._rounding.value, controls._rounding.disabled) == ("nearest_even", True)


def test_pure_bf16_becomes_an_optimizer_of_ours():
    controls = StateControls("bf16")
    assert controls._weights.value == "as Share says"
    controls._exp_avg_sq.value = FP32
    assert controls.errors.last_error is None
    assert controls.recipe.update == "nearest_even"
    assert controls._weights.value == "bf16, rounded to nearest"


def test_who_listens_is_told():
    told = []
    controls = StateControls()
    controls.changed.append(lambda: told.append(controls.label))
    controls._exp_avg.value = BF16
    controls._lr.value = 1e-3
    controls._spike.value = True
    controls._share.value = "bf16-sr"
    assert told == [
        "fp32,exp_avg=bf16, lr 0.0001",
        "fp32,exp_avg=bf16, lr 0.001",
        "fp32,exp_avg=bf16, lr 0.001, spike",
        "bf16-sr, lr 0.001, spike",
    ]


def test_what_is_no_recipe_is_answered_and_changes_nothing():
    controls = StateControls("bf16-sr")
    controls._share.value = "bf17"
    assert "unknown recipe 'bf17'" in str(controls.errors.last_error)
    assert (controls.recipe, controls._share.value) == (PRESETS["bf16-sr"], "bf16-sr")


def test_mistakes_are_named():
    for lr in (0, float("nan"), "1", True):
        with pytest.raises(ValueError, match="lr must be a positive finite number, got"):
            StateControls(lr=lr)
    with pytest.raises(ValueError, match="unknown recipe"):
        StateControls("fp17")
