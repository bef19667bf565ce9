"""Controls for the formats that an optimizer stores weights and states in, and the bytes that they cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import ipywidgets as widgets

from mixlab.formats import BF16, FP32
from mixlab.memory import ModelStates, model_states
from mixlab.panels.base import Binding, Panel, in_a_row, labelled
from mixlab.recipes import STATES, Recipe, StateName

_RATES = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
_ROUNDINGS = (("nearest", "nearest_even"), ("stochastic", "stochastic"))
_labelled = partial(labelled, labels="10em", width="24em")

# Ways to store weights, and the recipe fields that each sets; gradients have the format of the weights.
_WEIGHTS: dict[str, dict[str, Any]] = {
    "fp32": {"weights": FP32, "gradients": FP32, "master_weights": False, "update": "nearest_even"},
    **{
        label: {"weights": BF16, "compute": BF16, "gradients": BF16, **changes}
        for label, changes in {
            "bf16, rounded to nearest": {"master_weights": False, "update": "nearest_even"},
            "bf16, rounded stochastically": {"master_weights": False, "update": "stochastic"},
            "bf16, Kahan sum": {"master_weights": False, "update": "kahan"},
            "bf16, fp32 master weights": {"master_weights": True, "update": "nearest_even"},
        }.items()
    },
}
_FREE = ("compute", "gradients")  # may differ within one way
_OTHER = "as Share says"


class StateControls(Panel):
    """Shows and changes how a recipe stores weights and states, and what that costs; it never holds an invalid recipe.

    Args:
        recipe: The recipe at first.
        lr: The learning rate at first.
        spike: Whether the box "one gradient × 1000" is ticked at first.

    Attributes:
        changed: Functions without arguments to call after every change; may be appended to.
        errors: Shows a refused change.

    Raises:
        ValueError: If the recipe is not allowed, or the learning rate is not positive.
    """

    def __init__(self, recipe: Recipe | str = "fp32", *, lr: float = 1e-4, spike: bool = False) -> None:
        if isinstance(lr, bool) or not isinstance(lr, int | float) or not 0 < lr < float("inf"):
            raise ValueError(f"StateControls: lr must be a positive finite number, got {lr!r}")
        self._recipe = Recipe.of(recipe)
        self.changed: list[Callable[[], object]] = []
        super().__init__()
        self._binding = Binding(self.errors, self._show)
        states = [(str(state), state) for state in STATES]
        self._exp_avg = _dropdown("First moment m", states)
        self._exp_avg_sq = _dropdown("Second moment v", states)
        self._rounding = _dropdown("Moments rounded", _ROUNDINGS)
        self._weights = _dropdown("Weights", [*_WEIGHTS, _OTHER])
        rates = sorted({*_RATES, float(lr)}, reverse=True)
        self._lr = _dropdown("Learning rate", [(f"{rate:g}", rate) for rate in rates], value=float(lr))
        self._spike = _labelled(widgets.Checkbox, "one gradient × 1000", value=spike, indent=True)
        self._share = _labelled(widgets.Text, "Share", continuous_update=False)
        self._bytes = widgets.HTML()
        on = partial(self._binding.on_change_set, self, "recipe")
        on(self._exp_avg, lambda state: self._with_states(state, self._recipe.exp_avg_sq))
        on(self._exp_avg_sq, lambda state: self._with_states(self._recipe.exp_avg, state))
        on(self._rounding, lambda way: replace(self._recipe, state_rounding=way))
        on(self._weights, self._with_weights)
        on(self._share, Recipe.parse)
        for control in (self._lr, self._spike):
            control.observe(self.errors.guard(lambda _change: self._tell()), "value")
        left = widgets.VBox([self._exp_avg, self._exp_avg_sq, self._rounding, self._weights])
        right = widgets.VBox([self._lr, self._spike, self._share])
        self.children = [in_a_row(left, right, self._bytes), self.errors]
        self._show()

    @property
    def recipe(self) -> Recipe:
        return self._recipe

    @recipe.setter
    def recipe(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._show()
        self._tell()

    @property
    def lr(self) -> float:
        return self._lr.value  # type: ignore[no-any-return]

    @property
    def spike(self) -> bool:
        return self._spike.value  # type: ignore[no-any-return]

    @property
    def label(self) -> str:
        """The settings of the controls, in short."""
        return f"{self._recipe}, lr {self.lr:g}{', spike' if self.spike else ''}"

    @property
    def bytes(self) -> ModelStates:
        """The bytes that a parameter costs."""
        return model_states(self._recipe)

    @property
    def status(self) -> str:
        """The settings of the controls and their cost, in words."""
        return f"{self.label}: {self.bytes.bytes_per_parameter:.4g} bytes per parameter"

    def __repr__(self) -> str:
        return self.status

    def _with_states(self, exp_avg: StateName, exp_avg_sq: StateName) -> Recipe:
        recipe = self._recipe
        changes: dict[str, Any] = {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
        if {exp_avg, exp_avg_sq} == {FP32}:
            changes["state_rounding"] = "nearest_even"
        if recipe.update == "per_op":  # it prescribes the states
            changes["update"] = "nearest_even"
        if not any(state in STATES[3:] for state in (exp_avg, exp_avg_sq)):
            changes["block_size"] = 256
        return replace(recipe, **changes)

    def _with_weights(self, way: str) -> Recipe:
        if way == _OTHER:
            return self._recipe
        changes = _WEIGHTS[way]
        compute = FP32 if way == "fp32" and self._recipe.weights != FP32 else self._recipe.compute
        return replace(self._recipe, **{"compute": compute, **changes})

    def _show(self) -> None:
        recipe = self._recipe
        with self._binding.silent():
            self._exp_avg.value, self._exp_avg_sq.value = recipe.exp_avg, recipe.exp_avg_sq
            self._rounding.value = recipe.state_rounding
            self._weights.value = next((label for label, way in _WEIGHTS.items() if _is_kept(recipe, way)), _OTHER)
            self._share.value = str(recipe)
        self._rounding.disabled = {recipe.exp_avg, recipe.exp_avg_sq} == {FP32} or recipe.update == "per_op"
        self._bytes.value = self.bytes._repr_html_()

    def _tell(self) -> None:
        for told in self.changed:
            told()


def _is_kept(recipe: Recipe, way: dict[str, Any]) -> bool:
    return all(getattr(recipe, name) == value for name, value in way.items() if name not in _FREE)


def _dropdown(label: str, options: Any, **more: Any) -> Any:
    return _labelled(widgets.Dropdown, label, options=options, **more)
