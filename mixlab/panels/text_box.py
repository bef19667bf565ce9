"""A labelled line of text that a reader types: read when it is left, and refused in words beside it."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anywidget
import traitlets

from mixlab.arguments import require_whole
from mixlab.panels.base import refused
from mixlab.panels.scripts import script, stylesheet
from mixlab.powers import read_number

_DIGITS = re.compile(r"[-+]?[0-9]+")  # every digit counts, beyond what float64 holds too

LABELS, WIDTH = "10em", "24em"  # of a label, and of label and control together; two columns fit a page of 800 pixels


class TextBox(anywidget.AnyWidget):
    """Holds the last value that could be read; a text that cannot be read stays, with the reason below it.

    Arrow keys up and down take the next value, and a slider all of them, if `places` says how they are ordered.

    Args:
        label: Its label.
        value: The first value.
        read: Returns the value that a text stands for, or raises ValueError or TypeError.
        take: Called with each value that the reader gives; what it raises is a refusal too.
        write: Returns the text of a value.
        places: Two functions: the whole number that stands for a value, and the value at one.
        slider: The lowest and the highest place of a slider beside the text; None for no slider.
        told: Called with each refusal, and with None after a text that could be read.
        labels: Width of the label.
        width: Width of label and text together.

    Attributes:
        value: The text.
        error: Why the text cannot be read, and what stays in use, or ""; a value that is set with `show` clears it.
        taken: The last value that could be read.
        disabled: Whether it can be changed.
    """

    _esm = script("text_box.js")
    _css = stylesheet("text_box.css")
    value = traitlets.Unicode().tag(sync=True)
    error = traitlets.Unicode().tag(sync=True)
    disabled = traitlets.Bool(False).tag(sync=True)
    _label = traitlets.Unicode().tag(sync=True)
    _widths = traitlets.List(traitlets.Unicode()).tag(sync=True)
    _slider = traitlets.List(traitlets.Int()).tag(sync=True)  # lowest, highest; empty for none
    _place = traitlets.Int(0).tag(sync=True)

    def __init__(
        self,
        label: str,
        value: Any,
        *,
        read: Callable[[str], Any],
        take: Callable[[Any], object] | None = None,
        write: Callable[[Any], str] = str,
        places: tuple[Callable[[Any], int], Callable[[int], Any]] | None = None,
        slider: tuple[int, int] | None = None,
        told: Callable[[Exception | None], object] = lambda _error: None,
        labels: str = LABELS,
        width: str = WIDTH,
    ) -> None:
        self._read, self._take, self._write, self._places, self._told = read, take, write, places, told
        self._silent = False
        super().__init__(_label=label, _widths=[labels, width], _slider=list(slider or ()))
        self.show(value)
        self.observe(self._typed, "value")
        self.on_msg(self._moved)

    @property
    def label(self) -> str:
        return self._label

    def show(self, value: Any) -> None:
        """Shows a value, and clears a refused text."""
        self._silent = True
        try:
            self.taken = value
            with self.hold_sync():
                self.value, self.error = self._write(value), ""
                if self._places and self._slider:
                    low, high = self._slider
                    self._place = min(max(self._places[0](value), low), high)
        finally:
            self._silent = False

    def follow(self, value: Any) -> None:
        """Shows a value that has changed; a refused text stays while the value in use is the one of before."""
        if not self.error or value != self.taken:
            self.show(value)

    def __repr__(self) -> str:
        return f"{self._label}: {self.value}" + (f" ({self.error})" if self.error else "")

    def _typed(self, change: Any) -> None:
        if self._silent:
            return
        try:
            value = self._read(change["new"].strip())
            if self._take is not None:
                self._take(value)
        except Exception as error:
            self.error = refused(error, self._write(self.taken))
            self._told(error)
        else:
            self.show(value)
            self._told(None)

    def _moved(self, _widget: object, content: Any, _buffers: object) -> None:
        """Takes a message from the browser: {"by": 1} for an arrow key, {"to": 12} for the slider, {"again": True}."""
        if self.disabled:
            return
        if "again" in content:
            self._typed({"new": self.value})
        elif self._places is not None:
            place_of, value_at = self._places
            to = content["to"] if "to" in content else place_of(self.taken) + content["by"]
            self._type(value_at(to))
            self.send({})  # the slider goes to the value that was taken, even if that did not change

    def _type(self, value: Any) -> None:
        """Reads a value as if it had been typed, even if its text stands there already, refused."""
        text = self._write(value)
        if text == self.value:
            self._typed({"new": text})
        else:
            self.value = text


def whole(name: str, low: int, high: int | None = None) -> Callable[[str], int]:
    """Returns a function that reads a whole number within bounds, as `mixlab.powers.read_number` does.

    >>> whole("Steps", 1, 100)("1e2"), whole("Steps", 1, 100)("2^6")
    (100, 64)
    >>> whole("Steps", 1, 100)("1.5")
    Traceback (most recent call last):
    ValueError: Steps must be a whole number from 1 to 100, got '1.5'

    Args:
        name: What the message calls it.
        low, high: The bounds; None for no upper bound.
    """

    def read(text: str) -> int:
        value: object = text
        with suppress(ValueError, OverflowError):
            value = int(text) if _DIGITS.fullmatch(text) else _whole(read_number(text), text)
        require_whole(name, value, low, high)
        return int(str(value))

    return read


def _whole(number: float, text: str) -> object:
    return int(number) if number.is_integer() else text
