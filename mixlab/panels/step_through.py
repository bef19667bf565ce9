"""The step-through panel: one training step, stage by stage, under a recipe of the reader's choice."""

from __future__ import annotations

from dataclasses import replace

import ipywidgets as widgets

from mixlab.experiments import Stage, dissect, median_element
from mixlab.panels.base import Binding, Panel, button, in_a_row, labelled
from mixlab.panels.groups import group
from mixlab.panels.knobs import control
from mixlab.panels.stages import StageTrack
from mixlab.panels.text_box import LABELS, WIDTH
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
        self._binding = Binding(self.errors, self._show_choice)
        self._track: StageTrack | None = None
        text = self._chosen = recipe if isinstance(recipe, str) else str(recipe)
        presets = list(PRESETS) if text in PRESETS else [*PRESETS, text]
        self._recipe = labelled(widgets.Dropdown, "Recipe", labels=LABELS, width=WIDTH, options=presets, value=text)
        self._scale = control("scale", Recipe.of(recipe).scale, self._start_with_scale, told=self._binding.told)
        self._back = button("Back", "The previous stage", icon="arrow-left")
        self._next = button("Next", "The next stage", icon="arrow-right")
        self._next.button_style = "primary"
        self._again = button("Next step", "Takes one more training step", icon="forward")
        self._page = widgets.HTML()
        recipe_row = self._binding.on_change(self._recipe, self._choose)
        for pressed, press in ((self._back, self.back), (self._next, self.next), (self._again, self.step)):
            pressed.on_click(self.errors.guard(lambda _button, press=press: press()))
        buttons = in_a_row(self._back, self._next, self._again)
        controls = group("Recipe and loss scale", [recipe_row, self._scale], visible=False, in_a_row=True)
        self._start(Recipe.parse(text))
        self._track = StageTrack(names=[stage.name for stage in self._stages])
        self._track.observe(self.errors.guard(lambda change: self._show(change["new"])), "index")
        self.children = [controls, buttons, self.errors, self._track, self._page]

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

    def _choose(self, text: str) -> None:
        self._start(Recipe.parse(text))
        self._chosen = text

    def _start(self, recipe: Recipe) -> None:
        """Trains anew up to the step under a recipe, and takes that step apart."""
        trainer = Trainer(self._task, recipe, seed=self._seed, device="cpu")
        for _ in trainer.steps(self._steps):
            pass
        self._trainer = trainer
        if recipe.scaler != "none":
            self._scale.follow(recipe.scale)
        self._scale.disabled = recipe.scaler == "none"
        self.step()

    def _start_with_scale(self, scale: float) -> None:
        self._start(replace(self.recipe, scale=scale))

    def _show_choice(self) -> None:
        with self._binding.silent():
            self._recipe.value = self._chosen

    def _show(self, index: int) -> None:
        self._index = index
        self._back.disabled = index == 0
        self._next.disabled = index == len(self._stages) - 1
        if self._track is not None:
            self._track.index = index
        self._page.value = stage_page(self._stages, index, self.recipe.compute)
