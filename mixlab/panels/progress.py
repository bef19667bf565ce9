"""A line in a notebook that says how far a loop is."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from html import escape
from typing import TypeVar

from IPython.core.interactiveshell import InteractiveShell
from IPython.display import HTML, display

T = TypeVar("T")


def with_progress(items: Sequence[T], what: str) -> Iterator[T]:
    """Yields the items, and shows below the cell how many are done; at the end, how long they took.

    Outside a notebook nothing is shown.

    >>> sum(with_progress([3, 4], "numbers"))
    7

    Args:
        items: What the loop goes over.
        what: What they are, in the plural, such as "claims".
    """
    if not InteractiveShell.initialized():
        yield from items
        return
    began_s = time.monotonic()
    line = display(_bar(0, len(items), what), display_id=True)  # type: ignore[no-untyped-call]
    for done, item in enumerate(items, 1):
        yield item
        line.update(_bar(done, len(items), what))
    line.update(_Line(f"{len(items)} {what} in {time.monotonic() - began_s:.0f} s"))


class _Line(HTML):
    """A line of text; as plain text it is itself."""

    def __init__(self, words: str, before: str = "") -> None:
        super().__init__(f"<div>{before}{escape(words)}</div>")  # type: ignore[no-untyped-call]
        self.words = words

    def __repr__(self) -> str:
        return self.words


def _bar(done: int, total: int, what: str) -> _Line:
    words = f"{done} of {total} {what}"
    return _Line(words, f'<progress value="{done}" max="{total}" aria-label="{escape(words)}"></progress> ')
