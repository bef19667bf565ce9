"""Process-wide settings that are changed temporarily. Each has one owner here.

Autograd's and the dispatcher's modes belong to a thread; these settings do not, so a change shows in every thread.
Two rules make that safe while a training runs in the background:

- threads share a setting while they want the same value, and otherwise take turns;
- the last thread to leave restores the earlier value, however it leaves, unless other code has set it meanwhile.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch

T = TypeVar("T")
SETTINGS: list[Setting[Any]] = []  # all of them
_POLL_S = 0.0005
_PATIENCE_S = 3600.0  # a measurement may take that long


class Setting(Generic[T]):
    """A process-wide setting, changed only through `held`.

    Args:
        name: What error messages call it.
        read: Returns its value.
        write: Sets its value.
        exclusive: Whether only one thread at a time may hold a changed value, even if others want the same.
    """

    def __init__(
        self, name: str, read: Callable[[], T], write: Callable[[T], object], *, exclusive: bool = False
    ) -> None:
        self.name = name
        self._read = read
        self._write = write
        self._exclusive = exclusive
        self._lock = threading.RLock()
        self._holds: list[_Hold[T]] = []
        self._before: list[T] = []  # the value that the first hold found
        self._ours: list[T] = []  # the values that holds have set since
        SETTINGS.append(self)

    def held(self, value: T) -> _Hold[T]:
        """Returns a context in which the setting has this value. On entry it waits while other threads hold another.

        Args:
            value: The value to hold.

        Raises:
            RuntimeError: On entry, if other threads hold another value for an hour.
        """
        return _Hold(self, [value])

    def kept(self) -> _Hold[T]:
        """Returns a context in which no other thread changes the setting through its owner."""
        return _Hold(self, [])

    def rest_at(self, value: T) -> None:
        """Sets the value that the setting has while nobody holds another, for good.

        Args:
            value: The value.
        """
        with self._lock:
            if self._holds:
                self._before[:] = [value]
            else:
                self._write(value)

    def mark(self) -> int:
        """Returns how many holds this thread has, for `release`."""
        return len(self._mine())

    def release(self, mark: int) -> None:
        """Leaves the holds that this thread has entered since `mark` and not left.

        Args:
            mark: From `mark()`.
        """
        while self._lock._is_owned():  # type: ignore[attr-defined]  # held by a method that an interrupt cut short
            self._lock.release()
        for hold in self._mine()[mark:]:
            self._drop(hold)

    def _mine(self) -> list[_Hold[T]]:
        me = threading.get_ident()
        return [hold for hold in tuple(self._holds) if hold.thread == me]

    def _take(self, hold: _Hold[T]) -> bool:
        """Enters a hold and returns True, or returns False if another thread's hold conflicts."""
        with self._lock:
            me = threading.get_ident()
            if not self._holds:
                self._ours.clear()
                self._before[:] = [self._read()]
            mine = self._mine()
            if not hold.wanted:
                hold.wanted[:] = mine[-1].wanted if mine else self._before
            if any(one.thread != me and self._apart(one.wanted, hold.wanted) for one in self._holds):
                if hold.keeps:
                    hold.wanted.clear()
                return False
            hold.thread = me
            self._ours += hold.wanted
            self._holds.append(hold)
            if not hold.keeps and [self._read()] != hold.wanted:
                self._write(hold.wanted[0])
            return True

    def _drop(self, hold: _Hold[T]) -> None:
        """Leaves a hold. A second call has no effect."""
        with self._lock:
            if hold in self._holds:
                self._holds.remove(hold)
            wanted = self._holds[-1].wanted if self._holds else self._before
            now = self._read()
            if now in self._ours and now != wanted[0]:  # else other code has set it
                self._write(wanted[0])
            if not self._holds:
                self._ours.clear()

    def _apart(self, held: list[T], wanted: list[T]) -> bool:
        return held != wanted or (self._exclusive and wanted != self._before)


class _Hold(Generic[T]):
    """One thread's claim on a value. A class, because an interrupt may land between any two lines of a generator."""

    def __init__(self, setting: Setting[T], wanted: list[T]) -> None:
        self._setting = setting
        self.keeps = not wanted  # whatever value the setting has
        self.wanted = wanted
        self.thread = 0

    def __enter__(self) -> None:
        waited_s = 0.0
        try:
            while not self._setting._take(self):
                if waited_s > _PATIENCE_S:
                    raise RuntimeError(
                        f"another thread has kept {self._setting.name} at another value for {_PATIENCE_S:.0f} s; "
                        "wait until it ends"
                    )
                time.sleep(_POLL_S)
                waited_s += _POLL_S
        except BaseException:
            self._setting._drop(self)
            raise

    def __exit__(self, *_error: object) -> None:
        try:
            self._setting._drop(self)
        finally:
            self._setting._drop(self)  # once more, in case an interrupt cut the first short


# Whether oneDNN, rather than torch's own kernels, computes matrix products and convolutions on a CPU.
ONEDNN: Setting[bool] = Setting("oneDNN", torch._C._get_mkldnn_enabled, torch._C._set_mkldnn_enabled)

# The generator that the functions of torch.random act on.
DEFAULT_GENERATOR: Setting[Any] = Setting(
    "torch.random's generator",
    lambda: vars(torch.random)["default_generator"],
    lambda generator: setattr(torch.random, "default_generator", generator),
)

# Which thread may seed CUDA's own generators: one at a time holds it at True.
CUDA_RANDOM_NUMBERS: Setting[bool] = Setting(
    "CUDA's random numbers", lambda: False, lambda _taken: None, exclusive=True
)

# Python's garbage collector, which runs at unpredictable moments.
COLLECTOR: Setting[bool] = Setting(
    "the garbage collector", gc.isenabled, lambda on: gc.enable() if on else gc.disable()
)

# How many threads torch's kernels use. torch also keeps the number per thread, so two threads must not measure with
# different numbers at once.
THREADS: Setting[int] = Setting("the number of threads", torch.get_num_threads, torch.set_num_threads, exclusive=True)

_THREADS_BEFORE: list[int] = []  # torch's number, once networks train on one thread


def train_on_one_thread() -> None:
    """Lets torch use one thread from now on: small networks gain nothing from more, and lose where cores are shared.

    Measurements of speed hold `THREADS` at `measuring_threads()`.
    """
    if not _THREADS_BEFORE:
        _THREADS_BEFORE.append(torch.get_num_threads())
    THREADS.rest_at(1)


def measuring_threads() -> int:
    """Returns how many threads a measurement of speed uses: torch's number, before `train_on_one_thread` if that came.

    A number that was set since then counts.
    """
    now = torch.get_num_threads()
    return _THREADS_BEFORE[0] if _THREADS_BEFORE and now == 1 else now


# Whether `torch.tensor` makes its tensor on the CPU first; without CUDA, every fake tensor mode sets it.
ONLY_LIFTS_CPU_TENSORS: Setting[bool] = Setting(
    "where torch.tensor begins", torch._C._only_lift_cpu_tensors, torch._C._set_only_lift_cpu_tensors
)

# Which thread has autocast's cache of casts to itself: one at a time holds it at True. The process has one cache, and
# any thread that leaves autocast empties it, so a trace made during a training would see casts freed too early.
CAST_CACHE: Setting[bool] = Setting("autocast's cache", lambda: False, lambda _taken: None, exclusive=True)


@contextmanager
def undisturbed() -> Iterator[None]:
    """The context of a training step: no other thread changes the settings that the step depends on."""
    with ONEDNN.kept(), THREADS.kept(), CAST_CACHE.kept():
        yield
