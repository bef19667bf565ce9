"""The step-through panel: one training step, stage by stage, under a recipe that the reader chooses."""

from __future__ import annotations

import math
from typing import Any

import ipywidgets as widgets

from mixlab.experiments import Stage, dissect, median_element
from mixlab.panels.errors import ErrorBox
from mixlab.recipes import PRESETS, Recipe
from mixlab.reports import stage_line, stage_page
from mixlab.training import Task, Trainer

_LABELS = {"description_width": "8em"}
_WIDE = {"width": "23em"}


class StepThrough(widgets.VBox):  # type: ignore[misc]
    """Takes one step of a training apart; buttons go from stage to stage, and on to the next step.

    Args:
        task: What is trained.
        recipe: How, at first; as text.
        steps: Steps taken before the first one that is shown.
        seed: Of weights and batches.
        parameter: Whose weight is followed; None takes the first.
        element: Its index in the flattened parameter; None takes one with a gradient of median size.

    Attributes:
        stages: Of the step that is shown.
        index: The stage that is shown, from 0.
        last_error: What the latest press or choice raised, or None if it went well. It shows in red too.

    Raises:
        ValueError: A recipe, parameter or element that is not allowed.
    """

    def __init__(
        self,
        task: Task,
        *,
        recipe: str = "amp-fp16",
        steps: int = 5,
        seed: int = 0,
        parameter: str | None = None,
        element: int | None = None,
    ) -> None:
        self._task, self._steps, self._seed = task, steps, seed
        if element is None:  # one that all recipes share
            element = median_element(Trainer(task, Recipe(), seed=seed, device="cpu"), parameter)
        self._follow = {"parameter": parameter, "element": element}
        self.errors = ErrorBox()
        presets = list(PRESETS) if recipe in PRESETS else [*PRESETS, recipe]
        self._recipe = widgets.Dropdown(
            description="Recipe", options=presets, value=recipe, style=_LABELS, layout=_WIDE
        )
        self._exponent = widgets.BoundedIntText(
            description="Loss scale 2^", min=-24, max=60, value=16, style=_LABELS, layout=_WIDE
        )
        self._back = _button("Back", "arrow-left", "The stage before")
        self._next = _button("Next", "arrow-right", "The next stage")
        self._next.button_style = "primary"
        self._again = _button("Next step", "forward", "Takes one more training step")
        self._page = widgets.HTML()
        self._recipe.observe(self.errors.guard(lambda _change: self._start(own_scale=True)), "value")
        self._exponent.observe(self.errors.guard(self._rescaled), "value")
        for button, press in ((self._back, self.back), (self._next, self.next), (self._again, self.step)):
            button.on_click(self.errors.guard(lambda _button, press=press: press()))
        self._setting = False
        controls = widgets.HBox([self._recipe, self._exponent], layout={"flex_flow": "row wrap"})
        buttons = widgets.HBox([self._back, self._next, self._again], layout={"flex_flow": "row wrap"})
        super().__init__([controls, buttons, self.errors, self._page])
        self._start(own_scale=True)

    @property
    def stages(self) -> tuple[Stage, ...]:
        return self._stages

    @property
    def index(self) -> int:
        return self._index

    @property
    def recipe(self) -> Recipe:
        """The recipe in use, with the scale of its control."""
        return self._trainer.recipe

    @property
    def status(self) -> str:
        """What is shown, in words."""
        return f"step {self._trainer.step - 1} under {self.recipe}, {stage_line(self._stages, self._index)}"

    @property
    def last_error(self) -> Exception | None:
        return self.errors.last_error

    def next(self) -> None:
        """Goes to the next stage, if there is one."""
        self._show(min(self._index + 1, len(self._stages) - 1))

    def back(self) -> None:
        """Goes back to the stage before, if there is one."""
        self._show(max(self._index - 1, 0))

    def step(self) -> None:
        """Takes one more training step, and shows its first stage."""
        self._stages = dissect(self._trainer, **self._follow)  # type: ignore[arg-type]
        self._show(0)

    def __repr__(self) -> str:
        return f"StepThrough: {self.status}"

    def _rescaled(self, _change: object) -> None:
        if not self._setting:
            self._start(own_scale=False)

    def _start(self, *, own_scale: bool) -> None:
        """Trains anew up to the step, under the recipe of the controls, and takes that one apart."""
        recipe = Recipe.parse(self._recipe.value)
        if not own_scale and recipe.scaler != "none":
            try:
                recipe = recipe.with_loss_scale(2.0**self._exponent.value)
            except ValueError:
                self._show_scale(self.recipe)  # what is still so
                raise
        self._trainer = Trainer(self._task, recipe, seed=self._seed, device="cpu")
        for _ in self._trainer.steps(self._steps):
            pass
        if own_scale:
            self._show_scale(recipe)
        self.step()

    def _show_scale(self, recipe: Recipe) -> None:
        self._setting = True
        try:
            self._exponent.disabled = recipe.scaler == "none"
            if recipe.scaler != "none":
                self._exponent.value = round(math.log2(recipe.scale))
        finally:
            self._setting = False

    def _show(self, index: int) -> None:
        self._index = index
        self._back.disabled = index == 0
        self._next.disabled = index == len(self._stages) - 1
        self._page.value = stage_page(self._stages, index, self.recipe.compute)


def _button(label: str, icon: str, tooltip: str) -> Any:
    return widgets.Button(description=label, icon=icon, tooltip=tooltip)
