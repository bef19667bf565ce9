"""A training that is started, held and stopped by buttons, and drawn while it runs."""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Generic, TypeVar

import ipywidgets as widgets

from mixlab.machine import is_headless
from mixlab.panels.base import Panel, button, in_a_row, status_html
from mixlab.training import Training

PAINT_INTERVAL_S = 0.2
_PAINT_SHARE = 0.1  # of the painter's time, at most: a long history is painted less often
_EXIT_S = 5.0  # what a kernel that ends allows the step at hand

R = TypeVar("R")


@dataclass(frozen=True)
class Job(Generic[R]):
    """The training that is running, or was the last to run.

    Attributes:
        label: What it is called.
        training: Its handle.
        steps: How many it shall take.
    """

    label: str
    training: Training[R]
    steps: int

    def end(self) -> None:
        """Stops the training when Python exits: a thread inside torch would take the whole process down with it."""
        self.training.stop()
        self.training.wait(_EXIT_S)


class LiveTraining(Panel, Generic[R]):
    """Buttons, a line of status and red words around a training in the background; what it trains, a subclass says.

    A subclass gives `new_job`, which makes and starts one; `progress`, where it stands in words; `paint`, which draws a
    running one; and `finish`, which keeps an ended one and returns its outcome in words. `paint` and `finish` run in
    the one painting thread, five times a second at most, and `self.lock` is held. Callbacks never wait for a training.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.job: Job[R] | None = None
        self._painter: threading.Thread | None = None
        super().__init__()
        self._start = button("Train", "Starts a training", icon="play")
        self._start.button_style = "primary"
        self._pause = button("Pause", "Holds the training, or lets it go on", icon="pause")
        self._stop = button("Stop", "Ends the training after the step at hand", icon="stop")
        self.buttons = in_a_row(self._start, self._pause, self._stop)
        self.status_line = widgets.HTML()
        for pressed, callback in (
            (self._start, self._start_once),
            (self._pause, self.pause_or_resume),
            (self._stop, self.stop),
        ):
            pressed.on_click(self.errors.guard(lambda _button, callback=callback: callback()))
        self._say("ready")
        self._enable()

    def new_job(self) -> Job[R]:
        raise NotImplementedError

    def progress(self, job: Job[R]) -> str:
        raise NotImplementedError

    def paint(self, job: Job[R]) -> None:
        raise NotImplementedError

    def finish(self, job: Job[R]) -> str:
        raise NotImplementedError

    @property
    def status(self) -> str:
        """Where the training stands, in words."""
        return self._words

    @property
    def running(self) -> bool:
        return self.job is not None and self.job.training.running

    def start(self) -> None:
        """Starts a training as the controls say, and returns at once.

        Raises:
            RuntimeError: One is running.
        """
        with self.lock:
            if self._painter is not None:
                owner = type(self).__name__
                raise RuntimeError(f"{owner}: a training is running; stop it, or wait for its end, before the next")
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
        """Holds the training after the step at hand, or lets it go on."""
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
        """Ends the training after the step at hand; what it did is kept, like any other."""
        if self.job is not None:
            self.job.training.stop()

    def wait(self) -> list[R]:
        """Waits for the end of the training, and returns its records or raises what it raised."""
        job, painter = self.job, self._painter
        if job is None:
            raise RuntimeError(f"{type(self).__name__}: nothing was started; call start() first")
        if painter is not None:
            painter.join()
        return job.training.result()

    def run_when_headless(self) -> None:
        """Starts a training and waits for it, if nobody is there to press a button (`MIXLAB_HEADLESS=1`)."""
        if is_headless():
            self.start()
            self.wait()

    def _paint_until_the_end(self, job: Job[R]) -> None:
        """The body of the one painting thread: as long as there are new records, draws them."""
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
        """Draws a running training as far as it has come."""
        with self.lock:
            self.paint(job)
            self._say(self._progress(job))

    def _finish(self, job: Job[R]) -> None:
        error = job.training.error
        if isinstance(error, Exception):
            self.errors.show(error)
        words = "failed" if error is not None else "stopped" if len(job.training.history) < job.steps else "done"
        self._say(f"{words}: {job.label}: {self.finish(job)}")

    def _progress(self, job: Job[R]) -> str:
        words = self.progress(job)
        return f"paused at {words}" if job.training.paused else words

    def _enable(self) -> None:
        running = self.running
        self._start.disabled = running
        self._pause.disabled = self._stop.disabled = not running
        paused = running and self.job is not None and self.job.training.paused
        self._pause.description, self._pause.icon = ("Resume", "play") if paused else ("Pause", "pause")

    def _say(self, words: str) -> None:
        self._words = words
        self.status_line.value = status_html(escape(words), "font-weight: 600")
