from __future__ import annotations

import pytest

from mixlab import load_task
from mixlab.panels import StepThrough


@pytest.fixture(scope="module")
def task():
    return load_task("digits-mlp", loss_weight=1e-4)


@pytest.fixture
def panel(task) -> StepThrough:
    return StepThrough(task, steps=3)


def enabled(panel: StepThrough) -> tuple[bool, bool]:
    return not panel._back.disabled, not panel._next.disabled


def test_next_goes_through_all_stages_and_back_again(panel):
    assert repr(panel).startswith("StepThrough: step 3 under amp-fp16, stage 1 of 8, cast: Weights are stored in fp32")
    assert enabled(panel) == (False, True)
    names = []
    for _ in range(8):
        names.append(panel.stages[panel.index].name)
        panel._next.click()
    assert names == ["cast", "forward", "scaled loss", "backward", "unscale", "check", "step", "update"]
    assert enabled(panel) == (True, False)
    panel._back.click()
    assert panel.index == 6
    assert panel.last_error is None


def test_the_page_shows_where_it_stands_and_what_every_tensor_holds(panel):
    panel.next()
    page = panel._page.value
    assert (panel._track.names[:2], panel._track.index) == (["cast", "forward"], 1)
    for card in panel.stages[1].cards:
        assert card.name in page
        assert f"{card.value:.6g}" in page
    assert "magnitude, on the range of fp16" in page


def test_the_next_step_goes_on_training(panel):
    panel.next()
    panel._again.click()
    assert panel.status.startswith("step 4 under amp-fp16, stage 1 of 8")


def test_another_recipe_starts_again_and_follows_the_same_weight(panel):
    element = panel._follow["element"]
    panel._recipe.value = "bf16"
    assert panel.status.startswith("step 3 under bf16, stage 1 of 8, cast: Weights are stored in bf16")
    assert panel._scale.disabled
    assert panel._follow["element"] == element
    panel._recipe.value = "fp16-master"
    assert not panel._scale.disabled
    assert panel._scale.value == "2^16"


def test_another_scale_is_taken(panel):
    panel._scale.value = "2^40"
    assert str(panel.recipe) == "amp-fp16,scale=2^40"
    for _ in range(5):
        panel.next()
    assert "will be skipped" in panel.status
    assert panel.last_error is None


def test_a_recipe_of_ones_own_may_be_shown(task):
    panel = StepThrough(task, recipe="amp-fp16,scaler=static,scale=8", steps=0)
    assert panel._scale.value == "2^3"
    assert str(panel.recipe) == "amp-fp16,scaler=static,scale=8"


def test_an_error_of_a_training_is_shown_and_kept(task):
    panel = StepThrough(task, recipe="amp-fp16,scaler=deepspeed,min_scale=65536,hysteresis=1", steps=0)
    assert panel.last_error is None
    panel._scale.value = "2^10"
    assert "min_scale must be a positive number up to init_scale=1024" in str(panel.last_error)
    assert "min_scale must be" in panel._scale.error
    panel._scale.value = "2^17"
    assert panel.last_error is None
    assert panel._scale.error == ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"recipe": "amp-fp17"}, "unknown recipe 'amp-fp17'"),
        ({"parameter": "head"}, "unknown parameter 'head'"),
        ({"element": 10**6}, "element must be a whole number from 0 to 4095, got 1000000"),
        ({"steps": -1}, "must be a whole number from 0 up, got -1"),
    ],
)
def test_bad_input_is_named(task, options, words):
    with pytest.raises(ValueError, match=words):
        StepThrough(task, **{"steps": 1, **options})


def test_a_stage_that_is_pressed_is_shown(panel):
    panel._track.index = 4
    assert panel.index == 4
    assert "unscale" in panel.status
    assert enabled(panel) == (True, True)
    panel._again.click()
    assert panel._track.index == 0


def test_a_refused_scale_stays_with_its_reason_and_is_not_used():
    panel = StepThrough(load_task("digits-mlp"), recipe="amp-fp16,scaler=megatron", steps=1)
    panel._scale.value = "2^-3"
    assert "min_scale" in str(panel.last_error)
    assert "min_scale" in panel._scale.error
    assert panel._scale.error.endswith("Still in use: 2^16")
    assert panel._scale.value == "2^-3"
    assert panel.recipe.scale == 2.0**16
