"""Controls for a recipe: mode, scaler, scale and growth interval, and a box with the recipe's text to share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ipywidgets as widgets

from mixlab.panels.errors import ErrorBox
from mixlab.recipes import PRESETS, Recipe

MODES = {
    "FP32": "fp32",
    "AMP fp16": "amp-fp16",
    "AMP bf16": "amp-bf16",
    "pure fp16": "fp16",
    "pure bf16": "bf16",
}
_SCALE_RANGE = (-24, 40)  # exponents that the controls offer; the share box takes any
_LABELS = {"description_width": "8em"}
_WIDE = {"width": "23em"}  # two columns of these fit a page of 800 pixels


class RecipeControls(widgets.VBox):  # type: ignore[misc]
    """Shows one recipe and changes it. The controls never hold a recipe that is not allowed.

    Args:
        recipe: The first one.
        errors: Where a text in the share box that is no recipe is answered.

    Attributes:
        note: Says what the scale means, or why it cannot be turned; a widget for the page to place.
    """

    def __init__(self, recipe: Recipe, errors: ErrorBox) -> None:
        low, high = _SCALE_RANGE
        self._recipe = recipe
        self._showing = False
        self._mode = _labelled(widgets.Dropdown, "Mode", options=MODES)
        self._scaler = _labelled(widgets.Dropdown, "Loss scaler", options=["none", "static", "dynamic"])
        self._exponent = _labelled(widgets.BoundedIntText, "Loss scale 2^", min=low, max=high)
        self._slider = _labelled(widgets.IntSlider, "or slide", min=low, max=high, readout=False)
        self._interval = _labelled(widgets.BoundedIntText, "Growth interval", min=1, max=10**6)
        self.note = widgets.HTML()
        self._share = _labelled(widgets.Text, "Share", continuous_update=False)
        self._on(self._mode, lambda name: PRESETS[name], errors)
        self._on(self._scaler, lambda name: self._recipe.with_scaler(name), errors)
        self._on(self._exponent, lambda k: replace(self._recipe, scale=2.0**k), errors)
        self._on(self._slider, lambda k: replace(self._recipe, scale=2.0**k), errors)
        self._on(self._interval, lambda n: replace(self._recipe, growth_interval=n), errors)
        self._on(self._share, Recipe.parse, errors)
        self.recipe = recipe
        super().__init__([self._mode, self._scaler, self._exponent, self._slider, self._interval, self._share])

    @property
    def recipe(self) -> Recipe:
        return self._recipe

    @recipe.setter
    def recipe(self, recipe: Recipe) -> None:
        self._recipe = recipe
        low, high = _SCALE_RANGE
        exponent = min(max(round(math.log2(recipe.scale)), low), high)
        self._showing = True
        try:
            self._mode.value = next(name for name in PRESETS if _formats(PRESETS[name]) == _formats(recipe))
            self._scaler.value = recipe.scaler
            self._exponent.value = self._slider.value = exponent
            self._interval.value = recipe.growth_interval
            self._share.value = str(recipe)
        finally:
            self._showing = False
        self._exponent.disabled = self._slider.disabled = recipe.scaler == "none"
        self._interval.disabled = recipe.scaler != "dynamic"
        self.note.value = f'<span style="opacity: 0.8">{_note(recipe)}</span>'

    def _on(self, control: Any, changed: Callable[[Any], Recipe], errors: ErrorBox) -> None:
        def apply(change: Any) -> None:
            if not self._showing:
                self.recipe = changed(change["new"])

        control.observe(errors.guard(apply), "value")


def _labelled(kind: Any, label: str, **options: Any) -> Any:
    return kind(description=label, style=_LABELS, layout=_WIDE, **options)


def _formats(recipe: Recipe) -> tuple[object, object]:
    return recipe.weights, recipe.compute


def _note(recipe: Recipe) -> str:
    """Says what the scale means here, or why it cannot be turned."""
    if recipe.scaler == "none":
        return "No scaler: the loss is not scaled, and a step with inf or NaN is taken. Choose one to set a scale."
    meaning = "held fixed" if recipe.scaler == "static" else "where the scaler starts"
    low, high = _SCALE_RANGE
    shown = "" if recipe.scale in (2.0**k for k in range(low, high + 1)) else f" ({recipe.scale:g})"
    return f"The scale{shown} is {meaning}; a step with inf or NaN in a gradient is skipped."
