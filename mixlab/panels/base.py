"""What panels share: controls of one look, words and errors, refused values, and scripts of which each is one file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from html import escape
from pathlib import Path
from typing import Any, ParamSpec

import anywidget
import ipywidgets as widgets
import traitlets

from mixlab.arguments import require_whole
from mixlab.recipes import PRESETS, Recipe

P = ParamSpec("P")

MODES = {
    "FP32": "fp32",
    "TF32": "tf32",
    "AMP fp16": "amp-fp16",
    "AMP bf16": "amp-bf16",
    "pure fp16": "fp16",
    "pure bf16": "bf16",
    "bf16, stochastic rounding": "bf16-sr",
    "bf16, Kahan sum": "bf16-kahan",
    "fp16, fp32 master weights": "fp16-master",
    "bf16, fp32 master weights": "bf16-master",
    "lean bf16": "lean-bf16",
    "custom, see Share": "",
}


def mode_of(recipe: Recipe) -> str:
    """Returns the preset that a recipe is, whatever its scaler; "" for none."""
    stored = recipe.with_scaler("none")
    return next((name for name, preset in PRESETS.items() if preset.with_scaler("none") == stored), "")


# Controls


def labelled(kind: Any, label: str, *, labels: str = "8em", width: str = "23em", **options: Any) -> Any:
    """Returns a control behind its label; two columns of these fit a page of 800 pixels.

    Args:
        kind: The widget's class.
        label: Stands before it.
        labels: The width of all labels of the panel.
        width: Of label and control together.
        options: Of the widget.
    """
    return kind(description=label, style={"description_width": labels}, layout={"width": width}, **options)


def button(label: str, tooltip: str, *, icon: str = "", **layout: str) -> Any:
    return widgets.Button(description=label, tooltip=tooltip, icon=icon, layout=layout)


def in_a_row(*children: widgets.Widget) -> widgets.HBox:
    """Returns widgets side by side, on several lines where the page is narrow."""
    return widgets.HBox(children, layout={"flex_flow": "row wrap"})


def status_html(html: str, style: str = "line-height: 1.6") -> str:
    """Returns words that a screen reader reads out when they change."""
    return f'<div role="status" aria-live="polite" style="{style}">{html}</div>'


class ErrorBox(widgets.HTML):  # type: ignore[misc]
    """Empty while all is well. Jupyter swallows what a callback raises; a guarded callback shows it here, in red.

    Attributes:
        last_error: What the latest guarded callback raised, or None if it went well.
    """

    last_error: Exception | None = None

    def guard(self, callback: Callable[P, object]) -> Callable[P, None]:
        """Returns `callback` with its exceptions caught and shown."""

        @wraps(callback)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
            try:
                callback(*args, **kwargs)
            except Exception as error:
                self.show(error)
            else:
                self.show(None)

        return guarded

    def show(self, error: Exception | None) -> None:
        self.last_error = error
        self.value = (
            ""
            if error is None
            else (
                '<div role="alert" style="color: var(--jp-error-color1, #b00020); white-space: pre-wrap">'
                f"<b>{type(error).__name__}</b>: {escape(str(error))}</div>"
            )
        )


class Binding:
    """Controls that show a value and change it: silent while the panel sets them, and set back when one is refused.

    Args:
        errors: Where a refused change is shown.
        restore: Sets the controls to the value that still holds.
    """

    def __init__(self, errors: ErrorBox, restore: Callable[[], object]) -> None:
        self._errors, self._restore = errors, restore
        self._silent = False

    @contextmanager
    def silent(self) -> Iterator[None]:
        """While the block runs, controls may be set without an answer."""
        self._silent = True
        try:
            yield
        finally:
            self._silent = False

    def on_change(self, control: Any, take: Callable[[Any], object]) -> None:
        """Calls `take` with each new value that the reader gives a control."""

        def apply(change: Any) -> None:
            if not self._silent:
                try:
                    take(change["new"])
                except Exception:
                    self._restore()
                    raise

        control.observe(self._errors.guard(apply), "value")


class Panel(widgets.VBox):  # type: ignore[misc]
    """A panel of ipywidgets that shows in red what its callbacks raise; a subclass says its status in words."""

    def __init__(self) -> None:
        self.errors = ErrorBox()
        super().__init__()

    @property
    def status(self) -> str:
        """What the panel shows, in words."""
        raise NotImplementedError

    @property
    def last_error(self) -> Exception | None:
        """What the latest change raised, or None if it went well."""
        return self.errors.last_error

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {self.status}"


# Panels that the browser draws


class NotAllowedError(traitlets.TraitError, ValueError):
    """A value that a panel does not take; traitlets goes back to the one before."""


def require_allowed_whole(what: str, value: object, low: int, high: int | None = None) -> None:
    """Refuses what `require_whole` refuses, as a value that the panel does not take."""
    try:
        require_whole(what, value, low, high)
    except ValueError as error:
        raise NotAllowedError(str(error)) from None


class Anything(traitlets.TraitType[Any, Any]):
    """Takes anything, even None, for the panel's own check, which says what is allowed."""


class DrawnPanel(anywidget.AnyWidget):
    """A panel that its script draws; a subclass says its status in words.

    Attributes:
        last_error: What the latest change raised, or None if it went well; a refused value from the browser too. It
            shows in red.
    """

    last_error: Exception | None = None
    _error = traitlets.Unicode("").tag(sync=True)

    @property
    def status(self) -> str:
        """What the panel shows, in words."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return self.status

    def set_state(self, sync_data: dict[str, Any]) -> None:
        """Takes changes from the browser; a wrong one is shown there in red, and taken back."""
        try:
            super().set_state(sync_data)
        except Exception as error:
            self._show_error(error)
            self.send_state(list(sync_data))

    def _guard(self, callback: Callable[P, object]) -> Callable[P, None]:
        """Returns `callback` with its exceptions caught and shown: Jupyter would swallow them."""

        @wraps(callback)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
            try:
                callback(*args, **kwargs)
            except Exception as error:
                self._show_error(error)
            else:
                self._show_error(None)

        return guarded

    def _show_error(self, error: Exception | None) -> None:
        """Shows an error in red; None takes it away."""
        self.last_error = error
        self._error = "" if error is None else f"{type(error).__name__}: {error}"


_IMPORT = re.compile(r'^import \{[^}]*\} from "\./shared\.js";\n', re.MULTILINE)


def script(name: str) -> str:
    """Returns a script with the text of shared.js in place of its import: a widget has one script, without files.

    Args:
        name: Of a file in this folder.
    """
    folder = Path(__file__).parent
    shared = re.sub(r"^export ", "", (folder / "shared.js").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return _IMPORT.sub(lambda _: shared, (folder / name).read_text(encoding="utf-8"))
