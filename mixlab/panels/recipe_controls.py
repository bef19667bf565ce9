"""Controls for a recipe: mode, scaler and its frequent knobs, and a box with the recipe's text to share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import ipywidgets as widgets

from mixlab.loss_scaling import OnOverflow
from mixlab.panels.errors import ErrorBox
from mixlab.recipes import PRESETS, Recipe, ScalerName

MODES = {
    "FP32": "fp32",
    "TF32": "tf32",
    "AMP fp16": "amp-fp16",
    "AMP bf16": "amp-bf16",
    "pure fp16": "fp16",
    "pure bf16": "bf16",
    "bf16, stochastic rounding": "bf16-sr",
    "bf16, Kahan sum": "bf16-kahan",
    "fp16, fp32 master weights": "fp16-master",
    "bf16, fp32 master weights": "bf16-master",
    "lean bf16": "lean-bf16",
    "custom, see Share": "",
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
        self._scaler = _labelled(widgets.Dropdown, "Loss scaler", options=get_args(ScalerName))
        self._exponent = _labelled(widgets.BoundedIntText, "Loss scale 2^", min=low, max=high)
        self._slider = _labelled(widgets.IntSlider, "or slide", min=low, max=high, readout=False)
        self._interval = _labelled(widgets.BoundedIntText, "Growth interval", min=1, max=10**6)
        self._on_overflow = _labelled(widgets.Dropdown, "On overflow", options=get_args(OnOverflow))
        self.note = widgets.HTML()
        self._share = _labelled(widgets.Text, "Share", continuous_update=False)
        self._on(self._mode, lambda name: PRESETS[name] if name else self._recipe, errors)
        self._on(self._scaler, lambda name: self._recipe.with_scaler(name), errors)
        self._on(self._exponent, lambda k: replace(self._recipe, scale=2.0**k), errors)
        self._on(self._slider, lambda k: replace(self._recipe, scale=2.0**k), errors)
        self._on(self._interval, lambda n: replace(self._recipe, growth_interval=n), errors)
        self._on(self._on_overflow, lambda policy: replace(self._recipe, on_overflow=policy), errors)
        self._on(self._share, Recipe.parse, errors)
        self.recipe = recipe
        scaling = [self._scaler, self._exponent, self._slider, self._interval, self._on_overflow]
        super().__init__([self._mode, *scaling, self._share])

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
            self._mode.value = next((name for name in PRESETS if _storage(PRESETS[name]) == _storage(recipe)), "")
            self._scaler.value = recipe.scaler
            self._exponent.value = self._slider.value = exponent
            self._interval.value = recipe.growth_interval
            self._on_overflow.value = recipe.on_overflow
            self._share.value = str(recipe)
        finally:
            self._showing = False
        self._exponent.disabled = self._slider.disabled = recipe.scaler == "none"
        self._interval.disabled = recipe.scaler in ("none", "static")
        self._on_overflow.disabled = recipe.scaler == "none"
        self.note.value = f'<span style="opacity: 0.8">{_note(recipe)}</span>'

    def _on(self, control: Any, changed: Callable[[Any], Recipe], errors: ErrorBox) -> None:
        def apply(change: Any) -> None:
            if not self._showing:
                try:
                    self.recipe = changed(change["new"])
                except Exception:
                    self.recipe = self._recipe  # what is still so
                    raise

        control.observe(errors.guard(apply), "value")


def _labelled(kind: Any, label: str, **options: Any) -> Any:
    return kind(description=label, style=_LABELS, layout=_WIDE, **options)


def _storage(recipe: Recipe) -> Recipe:
    """Returns the recipe without its scaler: what a mode stands for."""
    return recipe.with_scaler("none")


def _note(recipe: Recipe) -> str:
    """Says what the scale means here, or why it cannot be turned."""
    if recipe.scaler == "none":
        return "No scaler: the loss is not scaled, and a step with inf or NaN is taken. Choose one to set a scale."
    meaning = "held fixed" if recipe.scaler == "static" else "where the scaler starts"
    low, high = _SCALE_RANGE
    shown = "" if recipe.scale in (2.0**k for k in range(low, high + 1)) else f" ({recipe.scale:g})"
    becomes = "is skipped" if recipe.on_overflow == "skip" else "is taken with all gradients set to zero"
    return f"The scale{shown} is {meaning}; a step with inf or NaN in a gradient {becomes}."
