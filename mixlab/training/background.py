"""A training in a background thread, with a handle to watch, pause and stop it."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Iterator
from typing import Generic, TypeVar

R = TypeVar("R")


class Training(Generic[R]):
    """Runs a training in its own thread and collects its records.

    Args:
        steps: Yields one record per step, such as `trainer.steps(300)` or `run.train(until=300)`. A stopped training
            ends once the current step is done.

    Attributes:
        history: The records so far. It is only ever appended to.
        error: The exception that ended the training, or None.
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
        """Whether more steps may follow. True while paused."""
        return self._thread.is_alive()

    @property
    def paused(self) -> bool:
        """Whether the training is waiting for `resume`, or will be once the current step is done."""
        return self.running and not self._go.is_set()

    def pause(self) -> None:
        """Pauses the training once the current step is done; returns at once."""
        self._go.clear()

    def resume(self) -> None:
        """Lets a paused training continue."""
        self._go.set()

    def stop(self) -> None:
        """Ends the training once the current step is done; returns at once."""
        self._stop.set()
        self._go.set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits until the training has ended, and returns whether it has.

        Args:
            timeout_s: The longest time to wait, in seconds; None waits for the end.
        """
        self._thread.join(timeout_s)
        return not self.running

    def result(self) -> list[R]:
        """Waits for the end, then returns the records or raises the training's exception."""
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
        except BaseException as error:  # a thread has no caller to raise to, so `result` raises it
            self.error = error
