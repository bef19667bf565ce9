"""The cockpit: choose a recipe, train, watch, stop, compare."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path

import ipywidgets as widgets

from mixlab.arguments import require_whole
from mixlab.panels.base import in_a_row, labelled
from mixlab.panels.curves import Curves
from mixlab.panels.live import Job, LiveTraining
from mixlab.panels.recipe_controls import RecipeControls
from mixlab.panels.run_list import RunList
from mixlab.recipes import Recipe
from mixlab.reports import progress_line
from mixlab.training import TASKS, Run, StepRecord, Training, load_task, outcome

_MOST = {"steps": 100_000, "seed": 2**31 - 1, "probe_every": 100_000}


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
            runs_dir = tempfile.mkdtemp(prefix="mixlab-runs-")
            weakref.finalize(self, shutil.rmtree, runs_dir, ignore_errors=True)
        self._runs_dir = Path(runs_dir)
        self._probe_every = probe_every
        super().__init__()
        self.recipe_controls = RecipeControls(Recipe.of(recipe), self.errors)
        self._task = labelled(widgets.Dropdown, "Task", options=TASKS, value=task)
        weights = sorted({1.0, 1e-4, 1e-6, float(loss_weight)}, reverse=True)
        self._loss_weight = labelled(
            widgets.Dropdown, "Loss weight", options=[(f"{w:g}", w) for w in weights], value=float(loss_weight)
        )
        self._steps = labelled(widgets.BoundedIntText, "Steps", min=1, max=_MOST["steps"], value=steps)
        self._seed = labelled(widgets.BoundedIntText, "Seed", min=0, max=_MOST["seed"], value=seed)
        self.curves = Curves()
        self._list = RunList(self._show_curves, self.errors, self.lock)
        self.children = [self._controls(), self.status_line, self.errors, self.curves, self._list]
        self._list.find(self._runs_dir)

    @property
    def runs(self) -> dict[str, list[StepRecord]]:
        """The records of the finished runs, by label, oldest first."""
        return self._list.runs

    def new_job(self) -> Job[StepRecord]:
        run = self._new_run()
        return Job(run.info.label, Training(run.train(until=self._steps.value)), self._steps.value)

    def progress(self, job: Job[StepRecord]) -> str:
        return progress_line(job.training.history, job.steps)

    def paint(self, job: Job[StepRecord]) -> None:
        self.curves.paint(f"{job.label} (running)", list(job.training.history), steps=job.steps)

    def finish(self, job: Job[StepRecord]) -> str:
        records = job.training.history
        if records:
            self._list.add(job.label, list(records))
        else:
            self._show_curves()
        return outcome(records)

    def _controls(self) -> widgets.Widget:
        job = widgets.VBox([self._task, self._loss_weight, self._steps, self._seed])
        controls = in_a_row(self.recipe_controls, job)
        return widgets.VBox([controls, self.recipe_controls.note, self.buttons])

    def _show_curves(self) -> None:
        with self.lock:
            self.curves.show(self._list.ticked)
            if self.job is not None and self.running and self.job.training.history:
                self.repaint(self.job)

    def _new_run(self) -> Run:
        numbers = (int(path.name) for path in self._runs_dir.glob("*") if path.name.isdecimal())
        return Run.create(
            self._runs_dir / f"{max(numbers, default=0) + 1:03d}",
            task=self._task.value,
            recipe=self.recipe_controls.recipe,
            seed=self._seed.value,
            loss_weight=self._loss_weight.value,
            probe_every=self._probe_every,
        )
