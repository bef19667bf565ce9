from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixlab.panels.knobs import FIELDS
from mixlab.panels.recipe_turns import idle, turned
from mixlab.recipes import KNOBS, PRESETS, Recipe
from tests.test_recipes import recipes

CHOICES = [(field, value) for field, knob in FIELDS.items() for _, value in knob.options]


@given(recipes, st.sampled_from(CHOICES))
def test_a_choice_is_taken_or_refused_in_words(recipe: Recipe, choice: tuple[str, Any]):
    field, value = choice
    try:
        after = turned(recipe, field, value)
    except ValueError:
        assert idle(recipe, field) or field in ("gradients", "scaler")
    else:
        assert getattr(after, field) == value


@given(recipes, st.sampled_from(CHOICES))
def test_the_value_that_is_there_changes_nothing(recipe: Recipe, choice: tuple[str, Any]):
    field, _ = choice
    assert turned(recipe, field, getattr(recipe, field)) == recipe


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize(("field", "value"), CHOICES)
def test_from_a_preset_every_knob_with_an_effect_turns(name: str, field: str, value: Any):
    recipe = PRESETS[name]
    refused = field == "gradients" and recipe.weights.bits == 16 and value not in (recipe.weights, Recipe().weights)
    if not idle(recipe, field) and not refused:
        assert getattr(turned(recipe, field, value), field) == value


def test_scaler_knobs_are_idle_where_the_scaler_lacks_them():
    for scaler, knobs in KNOBS.items():
        recipe = Recipe().with_scaler(scaler)  # type: ignore[arg-type]
        every = {knob for names in KNOBS.values() for knob in names}
        assert {knob for knob in every if not idle(recipe, knob)} == set(knobs)
