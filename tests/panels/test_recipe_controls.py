from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlab.panels import RecipeControls
from mixlab.panels.base import MODES, ErrorBox
from mixlab.recipes import PRESETS, Recipe
from tests.test_recipes import recipes

CONTROLS = ["_mode", "_scaler", "_exponent", "_slider", "_interval", "_on_overflow"]


@pytest.fixture
def controls() -> RecipeControls:
    return RecipeControls(Recipe.parse("amp-fp16"), ErrorBox())


SHARED = RecipeControls(Recipe(), ErrorBox())  # hypothesis wants no fixtures; a recipe replaces all of it


@given(recipes)
def test_a_shared_text_sets_the_controls_and_comes_back(recipe: Recipe):
    SHARED._share.value = str(recipe)
    assert SHARED.recipe == recipe
    assert SHARED._share.value == str(recipe)
    assert SHARED._scaler.value == recipe.scaler
    assert SHARED._mode.label in MODES
    if -24 <= math.log2(recipe.scale) <= 40:
        assert abs(SHARED._exponent.value - math.log2(recipe.scale)) <= 0.5
    else:
        assert recipe.scaler == "none" or f"({recipe.scale:g})" in SHARED.note.value


def test_the_share_box_follows_every_control(controls: RecipeControls):
    controls._mode.value = "bf16"
    assert controls._share.value == "bf16"
    controls._scaler.value = "static"
    controls._exponent.value = 10
    assert Recipe.parse(controls._share.value) == controls.recipe == PRESETS["bf16"].with_loss_scale(1024)
    controls._scaler.value = "dynamic"
    controls._interval.value = 50
    assert controls.recipe.growth_interval == 50
    assert controls.recipe.scale == 1024


def test_slider_and_number_box_move_together(controls: RecipeControls):
    controls._slider.value = 4
    assert (controls._exponent.value, controls._share.value) == (4, "amp-fp16,scale=16")
    controls._exponent.value = 20
    assert (controls._slider.value, controls.recipe.scale) == (20, 2.0**20)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("amp-fp17", "start with one of fp32, tf32, amp-fp16, amp-bf16, fp16, bf16"),
        ("amp-fp16,zoom=2", "the fields are weights, compute, gradients, exp_avg"),
        ("fp32,scale=2", "use scaler=static, dynamic"),
        ("", "unknown recipe ''"),
    ],
)
def test_a_wrong_text_is_answered_in_red_and_changes_nothing(controls: RecipeControls, text: str, says: str):
    errors = ErrorBox()
    controls = RecipeControls(Recipe.parse("amp-fp16"), errors)
    before = controls.recipe
    controls._share.value = text
    assert says in str(errors.last_error)
    assert 'role="alert"' in errors.value
    assert controls.recipe == before
    assert (controls._mode.value, controls._scaler.value, controls._exponent.value) == ("amp-fp16", "dynamic", 16)
    controls._share.value = "bf16"
    assert (errors.last_error, errors.value) == (None, "")
    assert controls.recipe == PRESETS["bf16"]


@pytest.mark.parametrize(
    ("text", "scale", "interval", "reason"),
    [
        ("fp32", False, False, "No scaler: the loss is not scaled"),
        ("amp-fp16,scaler=static,scale=8", True, False, "The scale is held fixed"),
        ("amp-fp16", True, True, "The scale is where the scaler starts"),
        ("amp-fp16,scale=1000", True, True, "The scale (1000) is where the scaler starts"),
        ("amp-fp16,scale=2^60", True, True, "The scale (1.15292e+18) is where"),
    ],
)
def test_what_has_no_effect_is_disabled_and_says_why(
    controls: RecipeControls, text: str, scale: bool, interval: bool, reason: str
):
    controls._share.value = text
    assert (not controls._exponent.disabled, not controls._slider.disabled) == (scale, scale)
    assert (not controls._interval.disabled) == interval
    assert reason in controls.note.value


def test_the_modes_are_the_presets():
    assert list(MODES.values()) == [*PRESETS, ""]


@pytest.mark.parametrize("name", PRESETS)
def test_a_mode_sets_its_preset(controls: RecipeControls, name: str):
    controls._mode.value = name
    assert controls.recipe == PRESETS[name]
    assert controls._mode.value == name


def test_a_storage_without_a_preset_is_custom(controls: RecipeControls):
    controls._share.value = "amp-bf16,exp_avg=bf16"
    assert controls._mode.label == "custom, see Share"
    controls._scaler.value = "megatron"
    controls._on_overflow.value = "zero"
    assert str(controls.recipe) == "amp-bf16,exp_avg=bf16,scaler=megatron,on_overflow=zero"
    assert "taken with all gradients set to zero" in controls.note.value


@pytest.mark.parametrize("control", ["_exponent", "_slider"])
def test_a_refused_number_does_not_stay_on_screen(control: str):
    errors = ErrorBox()
    controls = RecipeControls(Recipe.parse("amp-fp16,scaler=megatron"), errors)
    getattr(controls, control).value = -3
    assert controls._exponent.value == controls._slider.value == 16
    assert controls.recipe == Recipe.parse("amp-fp16,scaler=megatron")
    assert "min_scale" in str(errors.last_error)
    assert 'role="alert"' in errors.value


@given(st.lists(st.tuples(st.sampled_from(CONTROLS), st.integers(0, 10**7)), max_size=6))
@settings(max_examples=60)
def test_the_controls_always_show_the_recipe(turns: list[tuple[str, int]]):
    errors = ErrorBox()
    controls = RecipeControls(Recipe.parse("amp-fp16"), errors)
    for name, number in turns:
        control = getattr(controls, name)
        if hasattr(control, "options"):
            options = control.options.values() if isinstance(control.options, dict) else control.options
            control.value = list(options)[number % len(list(options))]
        else:
            control.value = control.min + number % (control.max - control.min + 1)
        recipe = controls.recipe
        shown = (controls._scaler.value, controls._interval.value, controls._on_overflow.value, controls._share.value)
        assert shown == (recipe.scaler, recipe.growth_interval, recipe.on_overflow, str(recipe))
        assert 2.0**controls._exponent.value == 2.0**controls._slider.value == recipe.scale
