"""The cockpit: choose a recipe, train, watch, stop, compare."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
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
from mixlab.panels.run_list import RunList
from mixlab.recipes import Recipe
from mixlab.runs import Run, outcome
from mixlab.tasks import TASKS, load_task
from mixlab.trainer import StepRecord

PAINT_INTERVAL_S = 0.2
_PAINT_SHARE = 0.1  # of the painter's time, at most: a long history is painted less often
_EXIT_S = 5.0  # what a kernel that ends allows the step at hand
_MOST = {"steps": 100_000, "seed": 2**31 - 1, "probe_every": 100_000}
_LABELS = {"description_width": "8em"}
_WIDE = {"width": "23em"}  # two columns of these fit a page of 800 pixels


@dataclass(frozen=True)
class _Job:
    """The training that is running, or was the last to run."""

    run: Run
    training: Training
    steps: int

    @property
    def progress(self) -> str:
        words = progress_line(self.training.history, self.steps)
        return f"paused at {words}" if self.training.paused else words

    def end(self) -> None:
        """Stops the training when Python exits: a thread inside torch would take the whole process down with it."""
        self.training.stop()
        self.training.wait(_EXIT_S)


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
        for name, value, low in (("steps", steps, 1), ("seed", seed, 0), ("probe_every", probe_every, 0)):
            if type(value) is not int or not low <= value <= _MOST[name]:
                raise ValueError(f"Cockpit: {name} must be a whole number from {low} to {_MOST[name]}, got {value!r}")
        load_task(task, loss_weight=loss_weight)  # refuses what is no task, and spares the first click the wait
        if runs_dir is None:
            runs_dir = tempfile.mkdtemp(prefix="mixlab-runs-")
            weakref.finalize(self, shutil.rmtree, runs_dir, ignore_errors=True)
        self._runs_dir = Path(runs_dir)
        self._probe_every = probe_every
        self._lock = threading.RLock()
        self._job: _Job | None = None
        self._painter: threading.Thread | None = None

        self.errors = ErrorBox()
        self.recipe_controls = RecipeControls(Recipe.parse(recipe), self.errors)
        self._task = _labelled(widgets.Dropdown, "Task", options=TASKS, value=task)
        weights = sorted({1.0, 1e-4, 1e-6, float(loss_weight)}, reverse=True)
        self._loss_weight = _labelled(
            widgets.Dropdown, "Loss weight", options=[(f"{w:g}", w) for w in weights], value=float(loss_weight)
        )
        self._steps = _labelled(widgets.BoundedIntText, "Steps", min=1, max=_MOST["steps"], value=steps)
        self._seed = _labelled(widgets.BoundedIntText, "Seed", min=0, max=_MOST["seed"], value=seed)
        self._start = _button("Train", "play", "Starts a training")
        self._start.button_style = "primary"
        self._pause = _button("Pause", "pause", "Holds the training, or lets it go on")
        self._stop = _button("Stop", "stop", "Ends the training after the step at hand")
        self._status = widgets.HTML()
        self.curves = Curves()
        self._list = RunList(self._show_curves, self.errors, self._lock)
        for button, callback in (
            (self._start, self._start_once),
            (self._pause, self.pause_or_resume),
            (self._stop, self.stop),
        ):
            button.on_click(self.errors.guard(lambda _button, callback=callback: callback()))
        super().__init__([self._controls(), self._status, self.errors, self.curves, self._list])
        self._list.find(self._runs_dir)
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
        return self._list.runs

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
            self._start.disabled = True
            self._say("starting")
            try:
                run = self._new_run()
                self._job = _Job(run, Training(run.train(self._steps.value)), self._steps.value)
                atexit.register(self._job.end)
                self._painter = threading.Thread(target=self._paint_until_the_end, args=(self._job,), daemon=True)
                self._painter.start()
            except Exception:
                self._say("not started")
                raise
            finally:
                self._enable()

    def _start_once(self) -> None:
        """Starts a training; the second click of a double click does nothing."""
        if self._painter is None:
            self.start()

    def pause_or_resume(self) -> None:
        """Holds the training after the step at hand, or lets it go on."""
        with self._lock:
            if self._job is not None and self.running:
                training = self._job.training
                if training.paused:
                    training.resume()
                else:
                    training.pause()
                self._say(self._job.progress)
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

    def __repr__(self) -> str:
        return f"Cockpit: {self.status}"

    def _controls(self) -> widgets.Widget:
        job = widgets.VBox([self._task, self._loss_weight, self._steps, self._seed])
        controls = widgets.HBox([self.recipe_controls, job], layout={"flex_flow": "row wrap"})
        buttons = widgets.HBox([self._start, self._pause, self._stop], layout={"flex_flow": "row wrap"})
        return widgets.VBox([controls, self.recipe_controls.note, buttons])

    def _paint_until_the_end(self, job: _Job) -> None:
        """The body of the one painting thread: as long as there are new records, draws them."""
        painted, rest_s = 0, PAINT_INTERVAL_S
        while not job.training.wait(rest_s):
            if len(job.training.history) != painted:
                painted = len(job.training.history)
                began_s = time.perf_counter()
                self._show_error_of(self._paint, job)
                rest_s = max(PAINT_INTERVAL_S, (time.perf_counter() - began_s) * (1 / _PAINT_SHARE - 1))
        atexit.unregister(job.end)
        with self._lock:
            self._painter = None
            self._show_error_of(self._finish, job)
            self._enable()

    def _show_error_of(self, draw: Callable[[_Job], None], job: _Job) -> None:
        try:
            draw(job)
        except Exception as error:  # a thread has no caller to raise to
            self.errors.show(error)

    def _paint(self, job: _Job) -> None:
        with self._lock:
            self.curves.paint(_live_label(job.run), list(job.training.history), steps=job.steps)
            self._say(job.progress)

    def _finish(self, job: _Job) -> None:
        records = job.training.history
        error = job.training.error
        if isinstance(error, Exception):
            self.errors.show(error)
        words = "failed" if error is not None else "stopped" if len(records) < job.steps else "done"
        self._say(f"{words}: {job.run.info.label}: {outcome(records)}")
        if records:
            self._list.add(job.run.info.label, list(records))
        else:
            self._show_curves()

    def _show_curves(self) -> None:
        with self._lock:
            self.curves.show(self._list.ticked)
            if self._job is not None and self.running and self._job.training.history:
                self._paint(self._job)

    def _enable(self) -> None:
        running = self.running
        self._start.disabled = running
        self._pause.disabled = self._stop.disabled = not running
        paused = running and self._job is not None and self._job.training.paused
        self._pause.description, self._pause.icon = ("Resume", "play") if paused else ("Pause", "pause")

    def _say(self, words: str) -> None:
        self._words = words
        self._status.value = f'<div role="status" aria-live="polite" style="font-weight: 600">{escape(words)}</div>'

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


def _live_label(run: Run) -> str:
    return f"{run.info.label} (running)"


def _labelled(kind: Any, label: str, **options: Any) -> Any:
    return kind(description=label, style=_LABELS, layout=_WIDE, **options)


def _button(label: str, icon: str, tooltip: str) -> Any:
    return widgets.Button(description=label, icon=icon, tooltip=tooltip)
