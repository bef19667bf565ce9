"""Panels that a script draws in the browser: values that they refuse, texts that are typed into their boxes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, ClassVar, ParamSpec

import anywidget
import traitlets

from mixlab.arguments import require_whole
from mixlab.panels.base import caught, refused
from mixlab.panels.presence import Present

P = ParamSpec("P")
_STILL_S = 1.0


class NotAllowedError(traitlets.TraitError, ValueError):
    """A value that a panel refuses; traitlets keeps the previous one."""


def require_allowed_whole(what: str, value: object, low: int, high: int | None = None) -> None:
    """Checks a whole number as `require_whole` does, but raises `NotAllowedError`."""
    try:
        require_whole(what, value, low, high)
    except ValueError as error:
        raise NotAllowedError(str(error)) from None


class Anything(traitlets.TraitType[Any, Any]):
    """A trait that takes anything, even None; the panel's own check then says what is allowed."""


class DrawnPanel(Present, anywidget.AnyWidget):
    """A panel drawn by its script in the browser. A subclass provides `status`.

    Attributes:
        last_error: The error of the latest change, or None if it succeeded. Refused values from the browser count too.
            It is shown in red; what was typed into a box is refused below that box.
        typed_boxes: For each attribute with a box on the page: what reads a typed text, or raises ValueError.
    """

    last_error: Exception | None = None
    typed_boxes: ClassVar[dict[str, Callable[[str], Any]]] = {}
    _error = traitlets.Unicode("").tag(sync=True)
    _refused = traitlets.Dict().tag(sync=True)  # what was typed, and why not
    _taken = traitlets.Int(0).tag(sync=True)  # counts typed texts that were read: each is written anew

    def __init__(self, **traits: Any) -> None:
        super().__init__(**traits)
        self._later: threading.Timer | None = None
        self.observe(self._keep_still_later, [*self.keys])
        self.observe(self._forget_refusal, [name for name in self.typed_boxes if self.has_trait(name)])
        self.on_msg(self._hear_typed)

    @property
    def status(self) -> str:
        """What the panel shows, in words."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return self.status

    def set_state(self, sync_data: dict[str, Any]) -> None:
        """Takes changes from the browser; a wrong one is undone there, and its error is shown in red."""
        try:
            super().set_state(sync_data)
        except Exception as error:
            self._show_error(error)
            self.send_state(list(sync_data))

    def written(self, name: str) -> str:
        """Returns the text of an attribute in a box that is typed into.

        Args:
            name: The attribute.
        """
        return str(getattr(self, name))

    def _hear_typed(self, _widget: object, content: Any, _buffers: object) -> None:
        """Takes what was typed into a box of the page; a text that is refused stays there, with the reason below it."""
        if "typed" not in content:
            return
        name = content["typed"]
        now = getattr(self, name)
        if "by" in content and not isinstance(now, int):
            return
        text = str(now + content["by"]) if "by" in content else content["text"]
        try:
            setattr(self, name, self.typed_boxes[name](text.strip()))
        except Exception as error:
            self._show_error(None)
            self.last_error = error
            self._refused = {**self._refused, name: [text, refused(error, self.written(name))]}
        else:
            self._show_error(None)
            self._refused = {other: words for other, words in self._refused.items() if other != name}
            self._taken += 1

    def _forget_refusal(self, change: Any) -> None:
        self._refused = {name: words for name, words in self._refused.items() if name != change["name"]}

    def _keep_still_later(self, _change: object) -> None:
        """Keeps what the panel shows, once for all changes of a second."""
        if self._remains_of and self._later is None:
            self._later = threading.Timer(_STILL_S, self._keep_still_now)
            self._later.daemon = True
            self._later.start()

    def _keep_still_now(self) -> None:
        self._later = None
        self.keep_still()

    def _guard(self, callback: Callable[P, object]) -> Callable[P, None]:
        """Returns `callback` with its exceptions caught and shown."""
        return caught(callback, self._show_error)

    def _show_error(self, error: Exception | None) -> None:
        """Shows an error in red; None clears it."""
        self.last_error = error
        self._error = "" if error is None else f"{type(error).__name__}: {error}"
