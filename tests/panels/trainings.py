"""Trainings for the tests of panels: made-up records, and one that takes a step when it is told to."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from mixlab.training import StepRecord


def record(step: int = 0, *, loss: float = 1.0, scale: float = 1.0, skipped: bool = False, **layers: float):
    return StepRecord(step, loss, 0.5, scale, skipped, skipped, 1.0, 0.01, layers)


def records(losses: Sequence[float], **fields: float) -> list[StepRecord]:
    return [record(step, loss=loss, **fields) for step, loss in enumerate(losses)]


DIVERGED = [2.0, 1.0, math.inf, 1.0, math.nan, math.nan]


class Gate:
    """Stands in for `Run.train`: each step waits until it is let through."""

    def __init__(self) -> None:
        self.taken = 0
        self._allowed = threading.Semaphore(0)

    def train(self, _run: object, steps: int) -> Iterator[StepRecord]:
        for step in range(steps):
            assert self._allowed.acquire(timeout=30)
            self.taken += 1
            yield record(step, loss=1 / (step + 1))

    def let(self, steps: int) -> None:
        self._allowed.release(steps)


def eventually(true: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.005)
