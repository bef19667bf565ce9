"""Controls for the formats that an optimizer stores weights and states in, and the bytes that they cost."""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets as widgets

from mixlab.memory import ModelStates, model_states
from mixlab.panels.base import Panel, in_a_row, labelled
from mixlab.panels.knobs import STATES_AND_WEIGHTS
from mixlab.panels.recipe_controls import RecipeControls
from mixlab.panels.text_box import LABELS, WIDTH
from mixlab.recipes import Recipe

_RATES = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)


class StateControls(Panel):
    """Shows and changes how a recipe stores weights and states, and what that costs; it never holds an invalid recipe.

    Args:
        recipe: The recipe at first.
        lr: The learning rate at first.
        spike: Whether the box "one gradient × 1000" is ticked at first.

    Attributes:
        changed: Functions without arguments to call after every change; may be appended to.
        errors: Shows a refused change.
        knobs: The controls alone, without bytes and text, to be shown again elsewhere.

    Raises:
        ValueError: If the recipe is not allowed, or the learning rate is not positive.
    """

    def __init__(self, recipe: Recipe | str = "fp32", *, lr: float = 1e-4, spike: bool = False) -> None:
        if isinstance(lr, bool) or not isinstance(lr, int | float) or not 0 < lr < float("inf"):
            raise ValueError(f"StateControls: lr must be a positive finite number, got {lr!r}")
        self.recipe_controls = RecipeControls(recipe, simple=STATES_AND_WEIGHTS, more={}, modes=False)
        self.changed: list[Callable[[], object]] = []
        super().__init__()
        rates = [(f"{rate:g}", rate) for rate in sorted({*_RATES, float(lr)}, reverse=True)]
        sized = {"labels": LABELS, "width": WIDTH}
        self._lr = labelled(widgets.Dropdown, "Learning rate", options=rates, value=float(lr), **sized)
        self._spike = labelled(widgets.Checkbox, "one gradient × 1000", value=spike, indent=True, **sized)
        self._bytes = widgets.HTML()
        for control in (self._lr, self._spike):
            control.observe(self.errors.guard(lambda _change: self._tell()), "value")
        self.recipe_controls.changed.append(self.errors.guard(self._tell))
        self.knobs = widgets.VBox([self.recipe_controls.simple, self._lr, self._spike])
        rest = [self.recipe_controls.note, self.recipe_controls.share, self.errors]
        self.children = [in_a_row(self.knobs, self._bytes), *rest]
        self._show_bytes()

    @property
    def recipe(self) -> Recipe:
        return self.recipe_controls.recipe

    @recipe.setter
    def recipe(self, recipe: Recipe) -> None:
        self.recipe_controls.recipe = recipe

    @property
    def lr(self) -> float:
        return self._lr.value  # type: ignore[no-any-return]

    @property
    def spike(self) -> bool:
        return self._spike.value  # type: ignore[no-any-return]

    @property
    def label(self) -> str:
        """The settings of the controls, in short."""
        return f"{self.recipe}, lr {self.lr:g}{', spike' if self.spike else ''}"

    @property
    def bytes(self) -> ModelStates:
        """The bytes that a parameter costs."""
        return model_states(self.recipe)

    @property
    def status(self) -> str:
        """The settings of the controls and their cost, in words."""
        return f"{self.label}: {self.bytes.bytes_per_parameter:.4g} bytes per parameter"

    def __repr__(self) -> str:
        return self.status

    def _show_bytes(self) -> None:
        self._bytes.value = self.bytes._repr_html_()

    def _tell(self) -> None:
        self._show_bytes()
        for told in self.changed:
            told()
