"""The cockpit: choose a recipe, train, watch, stop, compare."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Container
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from mixlab.background import Training
from mixlab.figures.training import progress_line
from mixlab.notebooks import is_headless
from mixlab.panels.curves import Curves
from mixlab.panels.errors import ErrorBox
from mixlab.panels.recipe_controls import RecipeControls
from mixlab.recipes import Recipe
from mixlab.runs import Run, outcome
from mixlab.tasks import TASKS
from mixlab.trainer import StepRecord

PAINT_INTERVAL_S = 0.2
_LABELS = {"description_width": "9em"}
_WIDE = {"width": "26em"}


@dataclass(frozen=True)
class _Job:
    """The training that is running, or was the last to run."""

    run: Run
    training: Training
    steps: int

    @property
    def progress(self) -> str:
        return progress_line(self.training.history, self.steps)


class Cockpit(widgets.VBox):  # type: ignore[misc]
    """Trains in the background under the recipe of its controls, draws while it trains, and keeps the runs to compare.

    Every run is a folder on disk (`mixlab.runs.Run`). Callbacks never wait for a training. One thread paints, five
    times a second at most.

    Args:
        recipe: Where the controls start, as text.
        task: One of `mixlab.TASKS`.
        loss_weight: Of the task; see `mixlab.Task`.
        steps: Steps of a training.
        seed: Of weights and batches.
        runs_dir: Where runs are kept, and looked for at the start; None takes a folder that vanishes with the kernel.
        probe_every: Steps between two measurements of underflow; 0 never.

    Raises:
        ValueError: A recipe, task or number that is not allowed.
    """

    def __init__(
        self,
        *,
        recipe: str = "amp-fp16",
        task: str = "digits-mlp",
        loss_weight: float = 1.0,
        steps: int = 300,
        seed: int = 0,
        runs_dir: Path | str | None = None,
        probe_every: int = 10,
    ) -> None:
        if task not in TASKS:
            raise ValueError(f"Cockpit: task must be one of {', '.join(TASKS)}, got {task!r}")
        for name, value, low in (("steps", steps, 1), ("seed", seed, 0), ("probe_every", probe_every, 0)):
            if type(value) is not int or value < low:
                raise ValueError(f"Cockpit: {name} must be a whole number from {low} up, got {value!r}")
        self._scratch = tempfile.TemporaryDirectory(prefix="mixlab-runs-") if runs_dir is None else None
        self._runs_dir = Path(self._scratch.name if self._scratch else runs_dir or ".")
        self._probe_every = probe_every
        self._lock = threading.RLock()
        self._job: _Job | None = None
        self._painter: threading.Thread | None = None
        self._ended: dict[str, list[StepRecord]] = {}
        self._boxes: dict[str, Any] = {}

        self.errors = ErrorBox()
        self.recipe_controls = RecipeControls(Recipe.parse(recipe), self.errors)
        self._task = _labelled(widgets.Dropdown, "Task", options=TASKS, value=task)
        weights = sorted({1.0, 1e-4, 1e-6, float(loss_weight)}, reverse=True)
        self._loss_weight = _labelled(
            widgets.Dropdown, "Loss weight", options=[(f"{w:g}", w) for w in weights], value=float(loss_weight)
        )
        self._steps = _labelled(widgets.BoundedIntText, "Steps", min=1, max=100_000, value=steps)
        self._seed = _labelled(widgets.BoundedIntText, "Seed", min=0, max=2**31 - 1, value=seed)
        self._start = _button("Train", "play", "Starts a training")
        self._pause = _button("Pause", "pause", "Holds the training, or lets it go on")
        self._stop = _button("Stop", "stop", "Ends the training after the step at hand")
        self._forget = _button("Forget unchecked", "trash", "Takes runs without a tick off the list")
        self._status = widgets.HTML()
        self._list = widgets.VBox()
        self.curves = Curves()
        for button, callback in (
            (self._start, self.start),
            (self._pause, self.pause_or_resume),
            (self._stop, self.stop),
            (self._forget, self.forget_unchecked),
        ):
            button.on_click(self.errors.guard(lambda _button, callback=callback: callback()))
        super().__init__([self._controls(), self._status, self.errors, self.curves, self._list])
        self._find_runs()
        self._say("ready")
        self._enable()

    @property
    def status(self) -> str:
        """Where the training stands, in words."""
        return self._words

    @property
    def last_error(self) -> Exception | None:
        """What the latest callback or training raised, or None."""
        return self.errors.last_error

    @property
    def runs(self) -> dict[str, list[StepRecord]]:
        """The records of the ended runs, by label, oldest first."""
        with self._lock:
            return dict(self._ended)

    @property
    def running(self) -> bool:
        return self._job is not None and self._job.training.running

    def start(self) -> None:
        """Starts a training under the recipe of the controls, and returns at once.

        Raises:
            RuntimeError: One is running.
        """
        with self._lock:
            if self._painter is not None:
                raise RuntimeError("Cockpit: a training is running; stop it, or wait for its end, before the next")
            run = Run.create(
                self._new_folder(),
                task=self._task.value,
                recipe=self.recipe_controls.recipe,
                seed=self._seed.value,
                loss_weight=self._loss_weight.value,
                probe_every=self._probe_every,
            )
            self._job = _Job(run, Training(run.train(self._steps.value)), self._steps.value)
            self._painter = threading.Thread(target=self._paint_until_the_end, args=(self._job,), daemon=True)
            self._painter.start()
        self._enable()

    def pause_or_resume(self) -> None:
        """Holds the training after the step at hand, or lets it go on."""
        if self._job is not None and self.running:
            training = self._job.training
            if training.paused:
                training.resume()
            else:
                training.pause()
        self._enable()

    def stop(self) -> None:
        """Ends the training after the step at hand; its run is kept, like any other."""
        if self._job is not None:
            self._job.training.stop()

    def wait(self) -> list[StepRecord]:
        """Waits for the end of the training, and returns its records or raises what it raised."""
        job, painter = self._job, self._painter
        if job is None:
            raise RuntimeError("Cockpit: nothing was started; call start() first")
        if painter is not None:
            painter.join()
        return job.training.result()

    def run_when_headless(self) -> None:
        """Starts a training and waits for it, if nobody is there to press a button (`MIXLAB_HEADLESS=1`)."""
        if is_headless():
            self.start()
            self.wait()

    def forget_unchecked(self) -> None:
        """Takes the runs that are not overlaid off the list; their folders stay."""
        with self._lock:
            for label, box in list(self._boxes.items()):
                if not box.value:
                    del self._ended[label], self._boxes[label]
            self._show_runs()

    def __repr__(self) -> str:
        return f"Cockpit: {self.status}"

    def _controls(self) -> widgets.Widget:
        buttons = widgets.HBox([self._start, self._pause, self._stop], layout={"flex_flow": "row wrap"})
        job = widgets.VBox([self._task, self._loss_weight, self._steps, self._seed, buttons])
        return widgets.HBox([self.recipe_controls, job], layout={"flex_flow": "row wrap"})

    def _paint_until_the_end(self, job: _Job) -> None:
        """The body of the one painting thread: as long as there are new records, draws them."""
        painted = -1
        while not job.training.wait(PAINT_INTERVAL_S):
            if len(job.training.history) != painted:
                painted = len(job.training.history)
                self._paint(job)
        with self._lock:
            self._painter = None
            self._finish(job)
        self._enable()

    def _paint(self, job: _Job) -> None:
        self.curves.paint(_live_label(job.run), list(job.training.history))
        self._say(job.progress)

    def _finish(self, job: _Job) -> None:
        records = job.training.history
        error = job.training.error
        self.errors.show(error if isinstance(error, Exception) else None)
        if records:
            self._keep(job.run.info.label, list(records))
        words = "failed" if error is not None else "stopped" if len(records) < job.steps else "done"
        self._say(f"{words}: {job.run.info.label}: {outcome(records)}")
        self._show_runs()

    def _keep(self, label: str, records: list[StepRecord]) -> None:
        label = _unique(label, self._ended)
        box = widgets.Checkbox(value=True, description="", indent=False, layout={"width": "2em"})
        box.observe(self.errors.guard(lambda _change: self._show_curves()), "value")
        self._ended[label], self._boxes[label] = records, box

    def _find_runs(self) -> None:
        """Lists the runs that are in the folder already; what is no whole run is left alone."""
        for path in sorted(self._runs_dir.glob("*/run.json")):
            run = Run(path.parent)
            records = run.records()
            if records:
                self._keep(run.info.label, records)
        self._show_runs()

    def _show_runs(self) -> None:
        rows = [
            widgets.HBox([box, widgets.HTML(f"<b>{escape(label)}</b>: {escape(outcome(self._ended[label]))}")])
            for label, box in self._boxes.items()
        ]
        title = widgets.HTML("<b>Runs</b> (tick those to draw)")
        self._list.children = [title, *rows, self._forget] if rows else []
        self._show_curves()

    def _show_curves(self) -> None:
        with self._lock:
            self.curves.show({label: self._ended[label] for label, box in self._boxes.items() if box.value})

    def _enable(self) -> None:
        running = self.running
        self._start.disabled = running
        self._pause.disabled = self._stop.disabled = not running
        paused = running and self._job is not None and self._job.training.paused
        self._pause.description, self._pause.icon = ("Resume", "play") if paused else ("Pause", "pause")
        if paused and self._job is not None:
            self._say(f"paused at {self._job.progress}")

    def _say(self, words: str) -> None:
        self._words = words
        self._status.value = f'<div role="status" aria-live="polite" style="font-weight: 600">{escape(words)}</div>'

    def _new_folder(self) -> Path:
        numbers = (int(path.name) for path in self._runs_dir.glob("*") if path.name.isdigit())
        return self._runs_dir / f"{max(numbers, default=0) + 1:03d}"


def _live_label(run: Run) -> str:
    return f"{run.info.label} (running)"


def _labelled(kind: Any, label: str, **options: Any) -> Any:
    return kind(description=label, style=_LABELS, layout=_WIDE, **options)


def _button(label: str, icon: str, tooltip: str) -> Any:
    return widgets.Button(description=label, icon=icon, tooltip=tooltip)


def _unique(label: str, taken: Container[str]) -> str:
    number, candidate = 1, label
    while candidate in taken:
        number += 1
        candidate = f"{label} ({number})"
    return candidate
