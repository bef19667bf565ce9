from __future__ import annotations

import threading

import pytest

from mixlab import PRESETS, Run, StepRecord
from mixlab.training import Training


def record(step: int) -> StepRecord:
    return StepRecord(step, 1.0, 0.5, 1.0, False, False, 1.0, 0.01)


class Gate:
    """An iterator of records that lets one step through each time it is told to."""

    def __init__(self) -> None:
        self.allowed = threading.Semaphore(0)
        self.taken = 0

    def __iter__(self):
        return self

    def __next__(self) -> StepRecord:
        assert self.allowed.acquire(timeout=10)
        self.taken += 1
        return record(self.taken - 1)

    def let(self, steps: int) -> None:
        for _ in range(steps):
            self.allowed.release()


def test_it_runs_to_the_end_and_gives_the_records():
    training = Training(record(step) for step in range(5))
    assert [r.step for r in training.result()] == list(range(5))
    assert not training.running
    assert training.error is None


def test_stop_ends_it_after_the_step_at_hand():
    gate = Gate()
    training = Training(gate)
    assert training.running
    assert not training.wait(0)
    training.stop()
    gate.let(1)
    assert len(training.result()) == 1


def test_pause_holds_it_and_resume_and_stop_let_it_go():
    gate = Gate()
    training = Training(gate)
    training.pause()
    gate.let(3)
    assert not training.wait(0.2)
    assert training.paused
    assert gate.taken == 1
    training.resume()
    training.pause()
    training.stop()  # also out of a pause
    training.result()
    assert not training.paused


def test_an_error_is_kept_and_raised_by_result():
    def broken():
        yield record(0)
        raise ZeroDivisionError("born in the thread")

    training = Training(broken())
    training.wait()
    assert isinstance(training.error, ZeroDivisionError)
    assert len(training.history) == 1
    with pytest.raises(ZeroDivisionError, match="born in the thread"):
        training.result()


def test_stopping_a_run_saves_its_checkpoint(tmp_path):
    run = Run.create(tmp_path / "run", task="digits-mlp", recipe=PRESETS["fp32"])
    training = Training(run.train(until=10_000, device="cpu"))
    while len(training.history) < 5:
        assert not training.wait(0.01)
    training.stop()
    records = training.result()
    assert 5 <= len(records) < 10_000
    assert run.trainer(device="cpu").step == len(records)


def test_an_error_while_closing_is_not_lost():
    def unable_to_save():
        try:
            yield from map(record, range(10**9))
        except GeneratorExit:
            raise OSError("disk full") from None

    training = Training(unable_to_save())
    training.stop()
    with pytest.raises(OSError, match="disk full"):
        training.result()
