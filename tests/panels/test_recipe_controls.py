from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlab.formats import BF16, E4M3FN, FP16, FP32
from mixlab.panels import RecipeControls
from mixlab.panels.base import MODES
from mixlab.panels.knobs import FIELDS, MORE, SIMPLE
from mixlab.panels.text_box import TextBox
from mixlab.recipes import PRESETS, Recipe
from tests.test_recipes import recipes


@pytest.fixture
def controls() -> RecipeControls:
    return RecipeControls("amp-fp16")


SHARED = RecipeControls(Recipe())  # hypothesis wants no fixtures; a recipe replaces all of it


def values(controls: RecipeControls) -> dict[str, Any]:
    return {
        name: shown.taken if isinstance(shown, TextBox) else shown.value for name, shown in controls.controls.items()
    }


def error_at(controls: RecipeControls, field: str) -> str:
    """Returns the words at a control; the row of a dropdown holds it and its errors."""
    shown = controls.controls[field]
    return shown.error if isinstance(shown, TextBox) else controls.rows[field].children[1].value


def test_every_field_of_a_recipe_has_a_control(controls: RecipeControls):
    names = {field.name for field in fields(Recipe)}
    assert set(FIELDS) == names
    assert set(controls.controls) == {*names, "mode", "share"}
    assert sorted([*SIMPLE, *(field for group in MORE.values() for field in group)]) == sorted(names)


@given(recipes)
def test_a_shared_text_sets_all_controls_and_comes_back(recipe: Recipe):
    SHARED.share.value = str(recipe)
    assert SHARED.share.error == ""
    shown = values(SHARED)
    assert {name: shown[name] for name in FIELDS} == {name: getattr(recipe, name) for name in FIELDS}
    assert SHARED.share.value == str(recipe)
    assert SHARED.controls["mode"].label in MODES


def test_the_share_box_follows_every_control(controls: RecipeControls):
    knobs = controls.controls
    knobs["mode"].value = "bf16"
    assert controls.share.value == "bf16"
    knobs["scaler"].value = "static"
    knobs["scale"].value = "2^10"
    assert Recipe.parse(controls.share.value) == controls.recipe == PRESETS["bf16"].with_loss_scale(1024)
    knobs["scaler"].value = "dynamic"
    knobs["growth_interval"].value = "50"
    assert (controls.recipe.growth_interval, controls.recipe.scale) == (50, 1024)


def test_slider_and_keys_move_the_scale(controls: RecipeControls):
    scale = controls.controls["scale"]
    scale._moved(scale, {"to": 4}, None)
    assert (scale.value, controls.share.value) == ("2^4", "amp-fp16,scale=16")
    scale._moved(scale, {"by": 1}, None)
    assert (scale._place, controls.recipe.scale) == (5, 32.0)
    scale.value = "1000"
    assert (scale.value, scale._place, controls.recipe.scale) == ("1000", 10, 1000.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("amp-fp17", "start with one of fp32, tf32, amp-fp16, amp-bf16, fp16, bf16"),
        ("amp-fp16,zoom=2", "the fields are weights, compute, gradients, exp_avg"),
        ("fp32,scale=2", "use scaler=static, dynamic"),
        ("", "unknown recipe ''"),
    ],
)
def test_a_wrong_text_stays_with_its_reason_and_changes_nothing(controls: RecipeControls, text: str, says: str):
    before = values(controls)
    controls.share.value = text
    assert says in controls.share.error
    assert controls.share.error.endswith("Still in use: amp-fp16")
    assert (controls.share.value, values(controls)) == (text, before)
    with pytest.raises(ValueError, match="Share holds .* which was refused; mend it first"):
        controls.require_readable()
    controls.controls["mode"].value = "bf16"
    assert (controls.share.value, controls.share.error) == ("bf16", "")
    controls.require_readable()


@pytest.mark.parametrize("typed", ["abc", "-1", "0", "1.5", "1e999", "nan", "", "9" * 400])
def test_a_wrong_number_stays_with_its_reason_and_changes_nothing(controls: RecipeControls, typed: str):
    box = controls.controls["growth_interval"]
    box.value = typed
    assert (box.value, controls.recipe) == (typed, PRESETS["amp-fp16"])
    assert "whole number" in box.error
    with pytest.raises(ValueError, match="Growth interval holds"):
        controls.require_readable()


@pytest.mark.parametrize("typed", ["-1", "0", "1e999", "nan", "2^128", "1e-50"])
def test_a_wrong_loss_scale_is_refused_in_the_words_of_its_box(controls: RecipeControls, typed: str):
    box = controls.controls["scale"]
    box.value = typed
    assert (box.value, controls.recipe) == (typed, PRESETS["amp-fp16"])
    words = f"Loss scale must be a positive number that float32 can hold, got {typed!r}"
    assert box.error == f"{words}. Still in use: 2^16"


def test_a_contradiction_is_answered_at_its_control(controls: RecipeControls):
    controls.controls["mode"].value = "bf16"
    controls.controls["gradients"].value = FP16
    assert "needs gradients=bf16 or gradients=fp32" in error_at(controls, "gradients")
    assert controls.controls["gradients"].value == BF16
    controls.controls["gradients"].value = FP32
    assert (error_at(controls, "gradients"), controls.recipe.gradients) == ("", FP32)


def test_what_else_moves_is_said(controls: RecipeControls):
    controls.controls["mode"].value = "fp16"
    assert controls.note.value == ""
    controls.controls["exp_avg_sq"].value = BF16
    assert "Changed with it: Update rounded: to nearest." in controls.note.value
    controls.controls["scaler"].value = "static"
    assert controls.note.value == ""


@pytest.mark.parametrize(
    ("text", "hidden", "disabled"),
    [
        ("fp32", {"growth_interval", "hysteresis", "on_overflow"}, {"scale", "master_weights", "update", "block_size"}),
        ("amp-fp16,scaler=static,scale=8", {"growth_interval", "max_scale"}, {"state_rounding"}),
        ("bf16-master,exp_avg=e4m3fn,scaler=apex", {"growth_factor", "hysteresis"}, set()),
    ],
)
def test_what_has_no_effect_is_disabled_or_hidden(
    controls: RecipeControls, text: str, hidden: set[str], disabled: set[str]
):
    controls.share.value = text
    assert hidden <= {name for name, row in controls.rows.items() if row.layout.display == "none"}
    off = {name for name, shown in controls.controls.items() if shown.disabled}
    assert off >= hidden | disabled
    assert off.isdisjoint({"mode", "share", "scaler", "weights", "exp_avg"})


def test_sgd_has_no_second_moment(controls: RecipeControls):
    controls.optimizer = "sgd"
    assert controls.controls["exp_avg_sq"].disabled
    assert controls.controls["exp_avg_sq"].tooltip == "SGD keeps no second moment"
    controls.optimizer = "adamw"
    assert not controls.controls["exp_avg_sq"].disabled


def test_the_modes_are_the_presets():
    assert list(MODES.values()) == [*PRESETS, ""]


@pytest.mark.parametrize("name", PRESETS)
def test_a_mode_sets_its_preset(controls: RecipeControls, name: str):
    controls.controls["mode"].value = name
    assert controls.recipe == PRESETS[name]
    assert controls.controls["mode"].value == name


def test_a_storage_without_a_preset_is_custom(controls: RecipeControls):
    controls.share.value = "amp-bf16,exp_avg=bf16"
    assert controls.controls["mode"].label == "custom, see Share"
    controls.controls["scaler"].value = "megatron"
    controls.controls["on_overflow"].value = "zero"
    assert str(controls.recipe) == "amp-bf16,exp_avg=bf16,scaler=megatron,on_overflow=zero"


def test_a_scale_that_the_scaler_refuses_is_answered_at_the_scale(controls: RecipeControls):
    controls.controls["scaler"].value = "megatron"
    controls.controls["scale"].value = "2^-3"
    assert "min_scale" in controls.controls["scale"].error
    assert controls.recipe == Recipe.parse("amp-fp16,scaler=megatron")


def test_who_listens_is_told_once_a_change(controls: RecipeControls):
    told: list[str] = []
    controls.changed.append(lambda: told.append(str(controls.recipe)))
    controls.controls["weights"].value = BF16
    controls.share.value = "nonsense"
    controls.controls["exp_avg"].value = E4M3FN
    assert len(told) == 2


@given(st.lists(st.tuples(st.sampled_from(sorted(FIELDS)), st.integers(0, 10**7)), max_size=6))
@settings(max_examples=25, deadline=None)
def test_the_controls_always_show_the_recipe(turns: list[tuple[str, int]]):
    controls = RecipeControls("amp-fp16")
    for name, number in turns:
        shown = controls.controls[name]
        if isinstance(shown, TextBox):
            shown.value = str(number)
        else:
            shown.value = FIELDS[name].options[number % len(FIELDS[name].options)][1]
        recipe = controls.recipe
        now = values(controls)
        assert {field: now[field] for field in FIELDS} == {field: getattr(recipe, field) for field in FIELDS}
        assert controls.share.value == str(recipe)
        assert Recipe.parse(str(recipe)) == recipe
        assert math.isfinite(recipe.scale)
