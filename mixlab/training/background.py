"""A training in a background thread, behind a handle that an interactive page can ask and steer."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Iterator
from typing import Generic, TypeVar

R = TypeVar("R")


class Training(Generic[R]):
    """Consumes an iterator of records, one a step, in a thread of its own.

    Args:
        steps: E.g. `trainer.steps(300)` or `run.train(300)`; stopping it means to stop iterating, after the step at
            hand.

    Attributes:
        history: The records so far; only ever appended to.
        error: What the training raised, or None.
    """

    def __init__(self, steps: Iterable[R]) -> None:
        self.history: list[R] = []
        self.error: BaseException | None = None
        self._stop = threading.Event()
        self._go = threading.Event()
        self._go.set()
        self._thread = threading.Thread(target=self._consume, args=(iter(steps),), name="mixlab-training", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether more steps may come; true while paused."""
        return self._thread.is_alive()

    @property
    def paused(self) -> bool:
        return self.running and not self._go.is_set()

    def pause(self) -> None:
        self._go.clear()

    def resume(self) -> None:
        self._go.set()

    def stop(self) -> None:
        """Ends the training after the step at hand; returns at once."""
        self._stop.set()
        self._go.set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Blocks until the training has ended, at most `timeout_s` seconds; returns whether it has."""
        self._thread.join(timeout_s)
        return not self.running

    def result(self) -> list[R]:
        """Waits for the end, and returns the records or raises what the training raised."""
        self.wait()
        if self.error is not None:
            raise self.error
        return self.history

    def _consume(self, steps: Iterator[R]) -> None:
        try:
            for record in steps:
                self.history.append(record)
                self._go.wait()
                if self._stop.is_set():
                    break
            if isinstance(steps, Generator):
                steps.close()  # a run saves its checkpoint on the way out
        except BaseException as error:  # kept for whoever asks: a thread has no caller to raise to
            self.error = error
