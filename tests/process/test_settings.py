"""Settings of the whole process: shared, waited for, put back."""

from __future__ import annotations

import threading

import pytest
import torch

from mixlab.process import ONEDNN, THREADS, Setting, measuring_threads, settings, train_on_one_thread


class Box:
    """A setting that belongs to nobody."""

    def __init__(self) -> None:
        self.value = "before"

    def read(self) -> str:
        return self.value

    def write(self, value: str) -> None:
        self.value = value


@pytest.fixture
def box() -> Box:
    return Box()


@pytest.fixture
def setting(box: Box) -> Setting[str]:
    return Setting("the box", box.read, box.write)


def in_thread(function) -> threading.Thread:
    thread = threading.Thread(target=function)
    thread.start()
    return thread


def test_holds_nest_and_the_last_puts_back(box: Box, setting: Setting[str]):
    with setting.held("a"):
        with setting.held("b"), setting.kept():
            assert box.value == "b"
        assert box.value == "a"
    assert box.value == "before"


def test_an_error_puts_back_too(box: Box, setting: Setting[str]):
    with pytest.raises(KeyboardInterrupt), setting.held("a"):
        raise KeyboardInterrupt
    assert box.value == "before"


@pytest.mark.parametrize("first_out", [0, 1])
def test_two_threads_leave_in_any_order(box: Box, setting: Setting[str], first_out: int):
    leave = [threading.Event(), threading.Event()]
    inside = [threading.Event(), threading.Event()]

    def hold(number: int) -> None:
        with setting.held("a"):
            inside[number].set()
            leave[number].wait()

    threads = []
    for number in (0, 1):
        threads.append(in_thread(lambda number=number: hold(number)))
        inside[number].wait()
    for number in (first_out, 1 - first_out):
        assert box.value == "a"
        leave[number].set()
        threads[number].join()
    assert box.value == "before"


@pytest.mark.parametrize("how", ["held", "kept"])
def test_another_value_waits(box: Box, setting: Setting[str], how: str):
    """What a training thread keeps is what was there before, not what another thread has made of it."""
    seen = []

    def step() -> None:
        with setting.held("b") if how == "held" else setting.kept():
            seen.append(box.value)

    with setting.held("a"):
        thread = in_thread(step)
        thread.join(0.05)
        assert seen == []
    thread.join()
    assert seen == ["b" if how == "held" else "before"]
    assert box.value == "before"


def test_a_hold_that_never_ends_is_named(setting: Setting[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(settings, "_PATIENCE_S", 0.01)
    errors = []

    def step() -> None:
        with pytest.raises(RuntimeError, match=r"another thread has kept the box at another value for 0 s") as caught:
            setting.held("b").__enter__()
        errors.append(caught.value)

    with setting.held("a"):
        in_thread(step).join()
    assert errors


def test_what_somebody_else_sets_meanwhile_stays(box: Box, setting: Setting[str]):
    with setting.held("a"):
        box.value = "a cell's own"
    assert box.value == "a cell's own"


def test_onednn_is_switched_off_and_on():
    before = ONEDNN._read()
    with ONEDNN.held(not before):
        assert ONEDNN._read() is not before
    assert ONEDNN._read() is before


def test_what_somebody_else_sets_while_two_only_keep_it_stays(box: Box, setting: Setting[str]):
    with setting.kept():
        with setting.kept():
            box.value = "a cell's own"
        assert box.value == "a cell's own"
    assert box.value == "a cell's own"


def test_a_resting_value_comes_at_once_or_after_the_last_hold(box: Box, setting: Setting[str]):
    setting.rest_at("a")
    assert box.value == "a"
    with setting.held("b"):
        setting.rest_at("c")
        assert box.value == "b"
    assert box.value == "c"


def test_labs_train_on_one_thread_and_measure_on_the_machines_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(settings, "_THREADS_BEFORE", [])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert measuring_threads() == 3
        train_on_one_thread()
        train_on_one_thread()
        seen = [0]
        in_thread(lambda: seen.append(torch.get_num_threads())).join()
        assert (torch.get_num_threads(), seen[1], measuring_threads()) == (1, 1, 3)
        with THREADS.held(measuring_threads()):
            assert torch.get_num_threads() == 3
        assert torch.get_num_threads() == 1
        torch.set_num_threads(2)
        assert measuring_threads() == 2
    finally:
        torch.set_num_threads(before)
