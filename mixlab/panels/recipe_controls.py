"""Controls for a recipe: mode, scaler and its common knobs, and a box with the recipe's text to share."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import get_args

import ipywidgets as widgets

from mixlab.loss_scaling import OnOverflow
from mixlab.panels.base import MODES, Binding, ErrorBox, labelled, mode_of
from mixlab.recipes import PRESETS, Recipe, ScalerName

_SCALE_RANGE = (-24, 40)  # exponents of the controls; the share box takes any


class RecipeControls(widgets.VBox):  # type: ignore[misc]
    """Shows and changes a recipe; the controls never hold an invalid one.

    Args:
        recipe: The recipe at first.
        errors: Shows a refused change, such as text in the share box that is not a recipe.

    Attributes:
        note: A widget for the page to place. It says what the scale means, or why it cannot be changed.
    """

    def __init__(self, recipe: Recipe, errors: ErrorBox) -> None:
        low, high = _SCALE_RANGE
        self._binding = Binding(errors, self._show)
        self._mode = labelled(widgets.Dropdown, "Mode", options=MODES)
        self._scaler = labelled(widgets.Dropdown, "Loss scaler", options=get_args(ScalerName))
        self._exponent = labelled(widgets.BoundedIntText, "Loss scale 2^", min=low, max=high)
        self._slider = labelled(widgets.IntSlider, "or slide", min=low, max=high, readout=False)
        self._interval = labelled(widgets.BoundedIntText, "Growth interval", min=1, max=10**6)
        self._on_overflow = labelled(widgets.Dropdown, "On overflow", options=get_args(OnOverflow))
        self.note = widgets.HTML()
        self._share = labelled(widgets.Text, "Share", continuous_update=False)
        on = partial(self._binding.on_change_set, self, "recipe")
        on(self._mode, lambda name: PRESETS[name] if name else self._recipe)
        on(self._scaler, lambda name: self._recipe.with_scaler(name))
        on(self._exponent, lambda k: replace(self._recipe, scale=2.0**k))
        on(self._slider, lambda k: replace(self._recipe, scale=2.0**k))
        on(self._interval, lambda n: replace(self._recipe, growth_interval=n))
        on(self._on_overflow, lambda policy: replace(self._recipe, on_overflow=policy))
        on(self._share, Recipe.parse)
        self.recipe = recipe
        scaling = [self._scaler, self._exponent, self._slider, self._interval, self._on_overflow]
        super().__init__([self._mode, *scaling, self._share])

    @property
    def recipe(self) -> Recipe:
        """The recipe that is shown; may be set."""
        return self._recipe

    @recipe.setter
    def recipe(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._show()

    def _show(self) -> None:
        recipe = self._recipe
        low, high = _SCALE_RANGE
        with self._binding.silent():
            self._mode.value = mode_of(recipe)
            self._scaler.value = recipe.scaler
            self._exponent.value = self._slider.value = min(max(round(math.log2(recipe.scale)), low), high)
            self._interval.value = recipe.growth_interval
            self._on_overflow.value = recipe.on_overflow
            self._share.value = str(recipe)
        self._exponent.disabled = self._slider.disabled = recipe.scaler == "none"
        self._interval.disabled = recipe.scaler in ("none", "static")
        self._on_overflow.disabled = recipe.scaler == "none"
        self.note.value = f'<span style="opacity: 0.8">{_note(recipe)}</span>'


def _note(recipe: Recipe) -> str:
    """Returns what the scale means here, or why it cannot be changed."""
    if recipe.scaler == "none":
        return "No scaler: the loss is not scaled, and a step with inf or NaN is taken. Choose one to set a scale."
    meaning = "held fixed" if recipe.scaler == "static" else "where the scaler starts"
    low, high = _SCALE_RANGE
    shown = "" if recipe.scale in (2.0**k for k in range(low, high + 1)) else f" ({recipe.scale:g})"
    becomes = "is skipped" if recipe.on_overflow == "skip" else "is taken with all gradients set to zero"
    return f"The scale{shown} is {meaning}; a step with inf or NaN in a gradient {becomes}."
