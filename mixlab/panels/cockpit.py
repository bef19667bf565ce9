"""The cockpit: choose a recipe, train, watch, stop, compare."""

from __future__ import annotations

from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import ipywidgets as widgets

from mixlab.arguments import require_whole
from mixlab.machine import describe
from mixlab.panels.base import ErrorBox, in_a_row, labelled
from mixlab.panels.curves import Curves
from mixlab.panels.folders import temporary_folder
from mixlab.panels.live import Job, LiveTraining, changed_words
from mixlab.panels.outlook import OutlookPanel, RunPlan
from mixlab.panels.recipe_controls import RecipeControls, require_readable
from mixlab.panels.run_list import RunList
from mixlab.panels.text_box import LABELS, WIDTH, TextBox, whole
from mixlab.recipes import Recipe
from mixlab.reports import progress_line, refusal
from mixlab.training import TASKS, Run, StepRecord, Training, load_task, outcome

_MOST = {"steps": 100_000, "seed": 2**31 - 1, "probe_every": 100_000}


class RunSettings(NamedTuple):
    """What the controls say a training shall be."""

    plan: RunPlan
    steps: int
    device: str


class Cockpit(LiveTraining[StepRecord]):
    """Trains in the background under the recipe of its controls, draws while it trains, and keeps runs to compare.

    Every run is a folder on disk (`mixlab.Run`).

    Args:
        recipe: The first recipe of the controls.
        task: One of `mixlab.TASKS`.
        loss_weight: The factor of the task's loss; see `mixlab.Task`.
        steps: Steps of a training.
        seed: Seed of weights and batches.
        runs_dir: The folder that keeps the runs; those already in it are listed at the start. None takes one that is
            deleted when the kernel ends.
        probe_every: Steps between two measurements of underflow; 0 means never.

    Raises:
        ValueError: If the recipe, the task or a number is not allowed.
    """

    def __init__(
        self,
        *,
        recipe: Recipe | str = "amp-fp16",
        task: str = "digits-mlp",
        loss_weight: float = 1.0,
        steps: int = 300,
        seed: int = 0,
        runs_dir: Path | str | None = None,
        probe_every: int = 10,
    ) -> None:
        for name, value, low in (("steps", steps, 1), ("seed", seed, 0), ("probe_every", probe_every, 0)):
            require_whole(f"Cockpit: {name}", value, low, _MOST[name])
        load_task(task, loss_weight=loss_weight)  # refuses an unknown task, and saves the first click the wait
        if runs_dir is None:
            runs_dir = temporary_folder(self)
        self._runs_dir = Path(runs_dir)
        self._probe_every = probe_every
        super().__init__()
        self._task = _dropdown("Task", [(name, name) for name in TASKS], task)
        self._steps = _number("Steps", steps, 1, _MOST["steps"])
        weights = sorted({1.0, 1e-4, 1e-6, float(loss_weight)}, reverse=True)
        self._loss_weight = _dropdown("Loss weight", [(f"{w:g}", w) for w in weights], float(loss_weight))
        self._seed = _number("Seed", seed, 0, _MOST["seed"])
        devices = [(str(gpu.name), f"cuda:{index}") for index, gpu in enumerate(describe().gpus)] + [("CPU", "cpu")]
        self._device = _dropdown("Device", devices, devices[0][1])
        self._device_errors = ErrorBox()
        self.recipe_controls = RecipeControls(recipe)
        self.outlook = OutlookPanel()
        self.curves = Curves()
        self._list = RunList(self._show_curves, self.errors, self.lock)
        training = [self._loss_weight, self._seed, self._device, self._device_errors]
        self.recipe_controls.add("Training", training)
        look_ahead = self.errors.guard(self._look_ahead)
        self.recipe_controls.changed.append(look_ahead)
        for control in (self._task, self._steps, self._loss_weight, self._seed, self._device):
            control.observe(lambda _change: look_ahead(), "value")
        self.children = [self._controls(), self.status_line, self.errors, self.curves, self._list]
        self._list.find(self._runs_dir)
        self._look_ahead()

    @property
    def runs(self) -> dict[str, list[StepRecord]]:
        """The records of the finished runs, by label, oldest first."""
        return self._list.runs

    @property
    def settings(self) -> RunSettings:
        """What the next training will be."""
        device = self._device.value
        seed, weight = self._seed.taken, self._loss_weight.value
        plan = RunPlan(self._task.value, self.recipe_controls.recipe, seed, weight, gpu=device != "cpu")
        return RunSettings(plan, self._steps.taken, device)

    def still(self) -> str:
        shown = self.outlook.outlook
        return f"<div><b>{escape(repr(self))}</b></div>{shown._repr_html_() if shown else ''}"

    def new_job(self) -> Job[StepRecord]:
        self.recipe_controls.require_readable()
        require_readable([self._steps, self._seed])
        if why := self._refusal():
            raise ValueError(why)
        self._running_settings = settings = self.settings
        self._place = self._list.free_place
        run = self._new_run(settings)
        records = run.train(until=settings.steps, device=settings.device)
        return Job(run.info.label, Training(records), settings.steps, run.path)

    def progress(self, job: Job[StepRecord]) -> str:
        words = f"{job.label}: {progress_line(job.training.history, job.steps)}"
        return words + changed_words(self.settings != self._running_settings)

    def paint(self, job: Job[StepRecord]) -> None:
        self.curves.paint(f"{job.label} (running)", list(job.training.history), self._place)

    def finish(self, job: Job[StepRecord]) -> str:
        records = job.training.history
        if records:
            self._list.add(job.label, list(records), job.path, place=self._place)
        else:
            _delete_empty(job.path)
            self._show_curves()
        return outcome(records)

    def _controls(self) -> widgets.Widget:
        recipe = self.recipe_controls
        simple = widgets.VBox([recipe.simple, self._task, self._steps])
        beside = in_a_row(simple, self.outlook)
        return widgets.VBox([beside, recipe.more, recipe.note, recipe.share, self.buttons])

    def _look_ahead(self) -> None:
        """Says what the next training will cost, and whether the device can run it."""
        plan = self.settings.plan
        self.recipe_controls.optimizer = str(load_task(plan.task).optimizer)
        self.outlook.show(plan)
        self.say_again()
        why = self._refusal()
        self._device_errors.show(ValueError(why) if why else None)

    def _refusal(self) -> str:
        device = self._device.value
        gpu = None if device == "cpu" else describe().gpus[int(device.partition(":")[2])]
        return refusal(self.recipe_controls.recipe, gpu)

    def _show_curves(self) -> None:
        with self.lock:
            self.curves.show(self._list.ticked, self._list.places)
            if self.job is not None and self.running and self.job.training.history:
                self.repaint(self.job)

    def _new_run(self, settings: RunSettings) -> Run:
        plan = settings.plan
        numbers = (int(path.name) for path in self._runs_dir.glob("*") if path.name.isdecimal())
        return Run.create(
            self._runs_dir / f"{max(numbers, default=0) + 1:03d}",
            task=plan.task,
            recipe=plan.recipe,
            seed=plan.seed,
            loss_weight=plan.loss_weight,
            probe_every=self._probe_every,
            wanted_steps=settings.steps,
        )


def _delete_empty(path: Path | None) -> None:
    """Deletes a run without a step; what cannot be read or deleted stays."""
    with suppress(OSError, ValueError):
        if path is not None and not (run := Run(path)).records():
            run.delete()


def _dropdown(label: str, options: list[tuple[str, Any]], value: Any) -> Any:
    return labelled(widgets.Dropdown, label, labels=LABELS, width=WIDTH, options=options, value=value)


def _number(label: str, value: int, low: int, high: int) -> TextBox:
    return TextBox(label, value, read=whole(label, low, high), places=(int, int))
