"""A training that buttons start, pause and stop, drawn while it runs."""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Generic, TypeVar

import ipywidgets as widgets

from mixlab.machine import is_headless
from mixlab.panels.base import Panel, button, in_a_row, status_html
from mixlab.panels.one_per_cell import earlier_of_this_cell
from mixlab.training import Training

PAINT_INTERVAL_S = 0.2
_PAINT_SHARE = 0.1  # at most this share of the time goes into painting: a long history is painted less often
_EXIT_S = 5.0  # how long an ending kernel waits for the current step

R = TypeVar("R")


def changed_words(changed: bool) -> str:
    """Returns what controls do that have changed since the running training began; "" if they have not.

    Args:
        changed: Whether they have.
    """
    return "; changes count for the next run" if changed else ""


@dataclass(frozen=True)
class Job(Generic[R]):
    """A training that was started.

    Attributes:
        label: Its name.
        training: Its handle.
        steps: How many steps it will take, unless it is stopped.
        path: The folder that keeps it, if one does.
    """

    label: str
    training: Training[R]
    steps: int
    path: Path | None = None

    def end(self) -> None:
        """Stops the training when Python exits; a thread still inside torch would crash the process."""
        self.training.stop()
        self.training.wait(_EXIT_S)


class LiveTraining(Panel, Generic[R]):
    """Buttons, a status line and errors around a training in the background; a subclass decides what is trained.

    A subclass provides `new_job`, which starts a training; `progress`, which describes it; `paint`, which draws a
    running training; and `finish`, which keeps a finished one and describes its outcome. `paint` and `finish` run in
    the single painting thread, at most five times a second, with `self.lock` held. Callbacks never wait for a training.

    When a cell runs again, the panel of its earlier run ends: its training stops, and this one waits for that, up to
    some seconds. A subclass may take over its records with `inherit`.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.job: Job[R] | None = None
        self._painter: threading.Thread | None = None
        super().__init__()
        earlier: list[LiveTraining[R]] = earlier_of_this_cell(self)
        ended = [panel.end() for panel in earlier]
        for panel in earlier:
            self.inherit(panel)
        self._start = button("Train", "Starts a training", icon="play")
        self._start.button_style = "primary"
        self._pause = button("Pause", "Pauses the training, or resumes it", icon="pause")
        self._stop = button("Stop", "Ends the training after the current step", icon="stop")
        self.buttons = in_a_row(self._start, self._pause, self._stop)
        self.status_line = widgets.HTML()
        for pressed, callback in (
            (self._start, self._start_once),
            (self._pause, self.pause_or_resume),
            (self._stop, self.stop),
        ):
            pressed.on_click(self.errors.guard(lambda _button, callback=callback: callback()))
        self._say("ready" if all(ended) else "ready; the earlier training still ends")
        self._enable()

    def inherit(self, earlier: LiveTraining[R]) -> None:
        """Keeps what a panel that an earlier run of this cell made has kept; called before anything is drawn.

        Args:
            earlier: The panel; its training has ended, or ends soon. Nothing refers to it afterwards.
        """

    def new_job(self) -> Job[R]:
        """Starts a training with the settings of the controls, and returns it."""
        raise NotImplementedError

    def progress(self, job: Job[R]) -> str:
        """Returns the progress of a training in words.

        Args:
            job: The training.
        """
        raise NotImplementedError

    def paint(self, job: Job[R]) -> None:
        """Draws a running training.

        Args:
            job: The training.
        """
        raise NotImplementedError

    def finish(self, job: Job[R]) -> str:
        """Keeps a finished training, and returns its outcome in words.

        Args:
            job: The training.
        """
        raise NotImplementedError

    @property
    def status(self) -> str:
        """The progress or the outcome of the training, in words."""
        return self._words

    @property
    def running(self) -> bool:
        return self.job is not None and self.job.training.running

    def start(self) -> None:
        """Starts a training with the settings of the controls, and returns at once.

        Raises:
            RuntimeError: If a training is running.
        """
        with self.lock:
            if self._painter is not None:
                owner = type(self).__name__
                raise RuntimeError(f"{owner}: a training is running; stop it or wait for its end first")
            self._start.disabled = True
            self._say("starting")
            try:
                self.job = self.new_job()
                atexit.register(self.job.end)
                self._painter = threading.Thread(target=self._paint_until_the_end, args=(self.job,), daemon=True)
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
        """Pauses the training after the current step, or resumes it."""
        with self.lock:
            if self.job is not None and self.running:
                training = self.job.training
                if training.paused:
                    training.resume()
                else:
                    training.pause()
                self._say(self._progress(self.job))
            self._enable()

    def stop(self) -> None:
        """Ends the training after the current step; its records are kept."""
        if self.job is not None:
            self.job.training.stop()

    def end(self) -> bool:
        """Stops the training for good and waits, up to some seconds, until its records are kept.

        Returns:
            Whether they are.
        """
        painter = self._painter
        if self.job is None or painter is None:
            return True
        self.job.training.stop()
        painter.join(_EXIT_S)
        return not painter.is_alive()

    def wait(self) -> list[R]:
        """Waits for the end of the training.

        Returns:
            Its records.

        Raises:
            RuntimeError: If none was started. Errors inside the training are raised here too.
        """
        job, painter = self.job, self._painter
        if job is None:
            raise RuntimeError(f"{type(self).__name__}: nothing was started; call start() first")
        if painter is not None:
            painter.join()
        return job.training.result()

    def run_when_headless(self) -> None:
        """Starts a training and waits for it if no reader is there to press a button (`MIXLAB_HEADLESS=1`)."""
        if is_headless():
            self.start()
            self.wait()

    def _paint_until_the_end(self, job: Job[R]) -> None:
        """Draws new records until the training ends; the body of the painting thread."""
        painted, rest_s = 0, PAINT_INTERVAL_S
        while not job.training.wait(rest_s):
            if len(job.training.history) != painted:
                painted = len(job.training.history)
                began_s = time.perf_counter()
                self._show_error_of(self.repaint, job)
                rest_s = max(PAINT_INTERVAL_S, (time.perf_counter() - began_s) * (1 / _PAINT_SHARE - 1))
        atexit.unregister(job.end)
        with self.lock:
            self._painter = None
            self._show_error_of(self._finish, job)
            self._enable()

    def _show_error_of(self, draw: Callable[[Job[R]], None], job: Job[R]) -> None:
        try:
            draw(job)
        except Exception as error:  # a thread has no caller to raise to
            self.errors.show(error)

    def repaint(self, job: Job[R]) -> None:
        """Draws the records so far of a running training.

        Args:
            job: The training.
        """
        with self.lock:
            self.paint(job)
            self._say(self._progress(job))

    def say_again(self) -> None:
        """Says the progress anew: of a paused training nothing else would, although the controls have changed."""
        with self.lock:
            if self.job is not None and self.running and self.job.training.history:
                self._say(self._progress(self.job))

    def _finish(self, job: Job[R]) -> None:
        error = job.training.error
        if isinstance(error, Exception):
            self.errors.show(error)
        words = "failed" if error is not None else "stopped" if len(job.training.history) < job.steps else "done"
        self._say(f"{words}: {job.label}: {self.finish(job)}")
        self.keep_still()

    def _progress(self, job: Job[R]) -> str:
        words = self.progress(job)
        return f"paused: {words}" if job.training.paused else words

    def _enable(self) -> None:
        running = self.running
        self._start.disabled = running
        self._pause.disabled = self._stop.disabled = not running
        paused = running and self.job is not None and self.job.training.paused
        self._pause.description, self._pause.icon = ("Resume", "play") if paused else ("Pause", "pause")

    def _say(self, words: str) -> None:
        self._words = words
        self.status_line.value = status_html(escape(words), "font-weight: 600")
