"""A line under a running cell that says how far it is, what runs, and for how long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from html import escape
from typing import TypeVar

from IPython.core.interactiveshell import InteractiveShell
from IPython.display import HTML, display

from mixlab.arguments import require_whole
from mixlab.machine import is_headless

T = TypeVar("T")
_TICK_S = 1.0


def with_progress(items: Iterable[T], what: str, *, total: int | None = None) -> Iterator[T]:
    """Yields the items, and shows below the cell how many are done, which one is at work, and the time.

    An item that is a text, or a tuple that begins with one, is named. At the end the line says how long all took; where
    the loop is left early, how far it came. Outside a notebook, and headless, nothing is shown.

    >>> sum(with_progress([3, 4], "numbers"))
    7

    Args:
        items: What the loop goes over.
        what: What they are, in the plural, such as "claims".
        total: How many there are; None asks `items` for its length.

    Raises:
        ValueError: If the number is unknown, or is not a whole number from 0 up.
    """
    if total is None:
        if not isinstance(items, Sized):
            raise ValueError("with_progress: how many items come is unknown; give total=..., such as total=steps")
        total = len(items)
    require_whole("with_progress: total", total, 0)
    return _shown(items, what, total) if _anybody_looks() else iter(items)


def fraction_line(what: str) -> Callable[[float], None]:
    """Returns a function that shows below the cell which fraction is done; measurements take it as `progress`.

    Args:
        what: What is being done, such as "measuring".
    """
    if not _anybody_looks():
        return lambda _fraction: None
    line = _Line()

    def show(fraction: float) -> None:
        line.show(f"{what}: {fraction:.0%}, {line.passed_s:.0f} s", fraction)

    show(0.0)
    return show


def _anybody_looks() -> bool:
    return InteractiveShell.initialized() and not is_headless()


def _shown(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    line = _Line()
    now: list[object] = []  # the item at work
    done = 0

    def show() -> None:
        at_work = f", now {name}" if now and (name := _name(now[0])) else ""
        line.show(f"{done} of {total} {what}{at_work}, {line.passed_s:.0f} s", done / total if total else 1.0)

    def end(_result: object = None) -> None:
        if not ended.is_set():
            ended.set()
            clock.join()
            words = f"{done} {what}" if done >= total else f"left after {done} of {total} {what}"
            line.show(f"{words} in {line.passed_s:.0f} s", None)

    show()
    ended = threading.Event()
    clock = threading.Thread(target=_every_second, args=(ended, show), daemon=True)
    clock.start()
    events = InteractiveShell.instance().events
    events.register("post_run_cell", end)  # after an error in the loop's body, nobody closes this generator
    try:
        for item in items:
            now[:] = [item]
            show()
            yield item
            done += 1
    finally:
        events.unregister("post_run_cell", end)
        end()


def _every_second(ended: threading.Event, show: Callable[[], None]) -> None:
    while not ended.wait(_TICK_S):
        show()


def _name(item: object) -> str:
    first = item[0] if isinstance(item, tuple) and item else item
    return first if isinstance(first, str) else ""


class _Line:
    """A line below the cell that can change."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._handle: object = None

    @property
    def passed_s(self) -> float:
        return time.monotonic() - self._began_s

    def show(self, words: str, fraction: float | None) -> None:
        """Shows words, after a bar unless there is no fraction."""
        shown = _Words(words, fraction)
        if self._handle is None:
            self._handle = display(shown, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(shown)  # type: ignore[attr-defined]


class _Words(HTML):
    """A line of text; as plain text it is itself."""

    def __init__(self, words: str, fraction: float | None) -> None:
        bar = "" if fraction is None else f'<progress value="{fraction:.3g}" max="1" aria-label="progress"></progress> '
        super().__init__(f"<div>{bar}{escape(words)}</div>")  # type: ignore[no-untyped-call]
        self.words = words

    def __repr__(self) -> str:
        return self.words
