"""The step-through panel: one training step, stage by stage, under a recipe of the reader's choice."""

from __future__ import annotations

import math

import ipywidgets as widgets

from mixlab.experiments import Stage, dissect, median_element
from mixlab.panels.base import Binding, Panel, button, in_a_row, labelled
from mixlab.recipes import PRESETS, Recipe
from mixlab.reports import stage_line, stage_page
from mixlab.training import Task, Trainer


class StepThrough(Panel):
    """Takes one step of a training apart; buttons go from stage to stage, and on to the next step.

    Args:
        task: The task to train.
        recipe: The recipe at first.
        steps: Steps taken before the first step shown.
        seed: Seed of weights and batches.
        parameter: The parameter of the weight to follow; None means the first.
        element: The index of that weight in the flattened parameter; None means one with a gradient of median size.

    Attributes:
        stages: The stages of the step shown.
        index: The place of the stage shown, from 0.
        last_error: The error of the latest press or choice, or None if it succeeded. It is shown in red too.

    Raises:
        ValueError: If the recipe, the parameter or the element is not allowed.
    """

    def __init__(
        self,
        task: Task,
        *,
        recipe: Recipe | str = "amp-fp16",
        steps: int = 5,
        seed: int = 0,
        parameter: str | None = None,
        element: int | None = None,
    ) -> None:
        self._task, self._steps, self._seed = task, steps, seed
        if element is None:  # the same for all recipes
            element = median_element(Trainer(task, Recipe(), seed=seed, device="cpu"), parameter)
        self._follow = {"parameter": parameter, "element": element}
        super().__init__()
        self._binding = Binding(self.errors, lambda: self._show_scale(self.recipe))
        text = recipe if isinstance(recipe, str) else str(recipe)
        presets = list(PRESETS) if text in PRESETS else [*PRESETS, text]
        self._recipe = labelled(widgets.Dropdown, "Recipe", options=presets, value=text)
        self._exponent = labelled(widgets.BoundedIntText, "Loss scale 2ᵏ, k =", min=-24, max=60, value=16)
        self._back = button("Back", "The previous stage", icon="arrow-left")
        self._next = button("Next", "The next stage", icon="arrow-right")
        self._next.button_style = "primary"
        self._again = button("Next step", "Takes one more training step", icon="forward")
        self._page = widgets.HTML()
        self._recipe.observe(self.errors.guard(lambda _change: self._start(own_scale=True)), "value")
        self._binding.on_change(self._exponent, lambda _k: self._start(own_scale=False))
        for pressed, press in ((self._back, self.back), (self._next, self.next), (self._again, self.step)):
            pressed.on_click(self.errors.guard(lambda _button, press=press: press()))
        buttons = in_a_row(self._back, self._next, self._again)
        self.children = [in_a_row(self._recipe, self._exponent), buttons, self.errors, self._page]
        self._start(own_scale=True)

    @property
    def stages(self) -> tuple[Stage, ...]:
        return self._stages

    @property
    def index(self) -> int:
        return self._index

    @property
    def recipe(self) -> Recipe:
        """The current recipe, with the scale of its control."""
        return self._trainer.recipe

    @property
    def status(self) -> str:
        """What is shown, in words."""
        return f"step {self._trainer.step - 1} under {self.recipe}, {stage_line(self._stages, self._index)}"

    def next(self) -> None:
        """Goes to the next stage, if there is one."""
        self._show(min(self._index + 1, len(self._stages) - 1))

    def back(self) -> None:
        """Goes back to the previous stage, if there is one."""
        self._show(max(self._index - 1, 0))

    def step(self) -> None:
        """Takes one more training step, and shows its first stage."""
        self._stages = dissect(self._trainer, **self._follow)  # type: ignore[arg-type]
        self._show(0)

    def _start(self, *, own_scale: bool) -> None:
        """Trains anew up to the step, under the recipe of the controls, and takes that step apart."""
        recipe = Recipe.parse(self._recipe.value)
        if not own_scale and recipe.scaler != "none":
            recipe = recipe.with_loss_scale(2.0**self._exponent.value)
        self._trainer = Trainer(self._task, recipe, seed=self._seed, device="cpu")
        for _ in self._trainer.steps(self._steps):
            pass
        if own_scale:
            self._show_scale(recipe)
        self.step()

    def _show_scale(self, recipe: Recipe) -> None:
        with self._binding.silent():
            self._exponent.disabled = recipe.scaler == "none"
            if recipe.scaler != "none":
                self._exponent.value = round(math.log2(recipe.scale))

    def _show(self, index: int) -> None:
        self._index = index
        self._back.disabled = index == 0
        self._next.disabled = index == len(self._stages) - 1
        self._page.value = stage_page(self._stages, index, self.recipe.compute)
