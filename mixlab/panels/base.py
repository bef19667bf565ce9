"""What panels share: uniform controls, and their status and errors in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from html import escape
from typing import Any, ParamSpec

import ipywidgets as widgets

from mixlab.panels.presence import Present
from mixlab.recipes import PRESETS, Recipe

P = ParamSpec("P")
_RED = "color-mix(in srgb, var(--jp-error-color1, #b00020) 80%, var(--jp-ui-font-color0, CanvasText))"  # 4.5:1 on both

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
    """Returns the preset that stores and computes as a recipe does, whatever its scaler; "" if there is none."""
    stored = recipe.with_scaler("none")
    return next((name for name, preset in PRESETS.items() if preset.with_scaler("none") == stored), "")


def labelled(kind: Any, label: str, *, labels: str = "8em", width: str = "23em", **options: Any) -> Any:
    """Returns a control with its label before it; two columns of these fit a page of 800 pixels.

    Args:
        kind: The class of the widget.
        label: Its text.
        labels: The width of the label, equal for all controls of a panel.
        width: The width of label and control together.
        options: Other arguments of the widget.
    """
    return kind(description=label, style={"description_width": labels}, layout={"width": width}, **options)


def button(label: str, tooltip: str, *, icon: str = "", **layout: str) -> Any:
    return widgets.Button(description=label, tooltip=tooltip, icon=icon, layout=layout)


def in_a_row(*children: widgets.Widget) -> widgets.HBox:
    """Returns widgets side by side, on several lines if the page is narrow."""
    return widgets.HBox(children, layout={"flex_flow": "row wrap"})


def status_html(html: str, style: str = "line-height: 1.6") -> str:
    """Returns HTML that a screen reader reads out whenever it changes."""
    return f'<div role="status" aria-live="polite" style="{style}">{html}</div>'


def refused(error: Exception, in_use: str) -> str:
    """Returns why a typed text was refused, and what stays in use.

    Args:
        error: The refusal.
        in_use: The text of the value that stays; "" for none.
    """
    words = str(error).rstrip(".")
    return f"{words}. Still in use: {in_use}" if in_use else words


def caught(callback: Callable[P, object], show: Callable[[Exception | None], object]) -> Callable[P, None]:
    """Returns a callback whose exceptions are caught, since Jupyter would swallow them.

    Args:
        callback: The callback.
        show: Called after each call: with its exception, or None.
    """

    @wraps(callback)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            callback(*args, **kwargs)
        except Exception as error:
            show(error)
        else:
            show(None)

    return guarded


class ErrorBox(widgets.HTML):  # type: ignore[misc]
    """Empty while all is well. Jupyter swallows errors in callbacks; a guarded callback shows them here, in red.

    Args:
        panel: For the box at a single control: the box of its panel, which keeps the error in mind too.

    Attributes:
        last_error: The error of the latest guarded callback, or None if it succeeded.
    """

    last_error: Exception | None = None

    def __init__(self, panel: ErrorBox | None = None) -> None:
        self._panel = panel
        super().__init__()

    def guard(self, callback: Callable[P, object]) -> Callable[P, None]:
        """Returns `callback` with its exceptions caught and shown."""
        return caught(callback, self.show)

    def keep_in_mind(self, error: Exception | None) -> None:
        """Takes an error that is shown elsewhere, at the control that caused it; it replaces the one shown here."""
        self.show(None)
        self.last_error = error

    def show(self, error: Exception | None) -> None:
        self.last_error = error
        if self._panel is not None:
            self._panel.keep_in_mind(error)
        self.value = (
            ""
            if error is None
            else (
                f'<div role="alert" style="color: {_RED}; white-space: pre-wrap; overflow-wrap: anywhere">'
                f"<b>{type(error).__name__}</b>: {escape(str(error))}</div>"
            )
        )


class Binding:
    """Connects controls to the value that they show: silent while the panel sets them, reset after a refusal.

    A refusal is shown below its control, until any control is changed.

    Args:
        errors: The panel's errors, which keep refusals in mind.
        restore: Sets the controls back to the current value.
    """

    def __init__(self, errors: ErrorBox, restore: Callable[[], object]) -> None:
        self._errors, self._restore = errors, restore
        self._at: list[ErrorBox] = []
        self._silent = False

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Returns a context in which the panel sets controls without triggering their callbacks."""
        self._silent = True
        try:
            yield
        finally:
            self._silent = False

    def on_change(self, control: Any, take: Callable[[Any], object]) -> Any:
        """Calls `take` with each new value that the reader gives the control; returns it with its refusals below it."""
        errors = ErrorBox(self._errors)
        self._at.append(errors)

        def apply(change: Any) -> None:
            if not self._silent:
                self.forget()
                try:
                    take(change["new"])
                except Exception:
                    self._restore()
                    raise

        control.observe(errors.guard(apply), "value")
        return widgets.VBox([control, errors])

    def on_change_set(self, owner: object, name: str, control: Any, changed: Callable[[Any], object]) -> Any:
        """Sets an attribute of `owner` to `changed(value)` whenever the reader gives the control a new value."""
        return self.on_change(control, lambda value: setattr(owner, name, changed(value)))

    def told(self, error: Exception | None) -> None:
        """Takes what a box that shows its refusals itself made of a typed text, see `TextBox`.

        Args:
            error: The refusal, which the panel keeps in mind; None if the text could be read.
        """
        self.forget()
        self._errors.keep_in_mind(error)

    def forget(self) -> None:
        """Takes back the refusals that are shown."""
        for errors in self._at:
            errors.value = ""


class Panel(Present, widgets.VBox):  # type: ignore[misc]
    """A panel of ipywidgets. A subclass provides `status`; guarded callbacks show errors in red."""

    def __init__(self) -> None:
        self.errors = ErrorBox()
        super().__init__()

    @property
    def status(self) -> str:
        """What the panel shows, in words."""
        raise NotImplementedError

    @property
    def last_error(self) -> Exception | None:
        """The error of the latest change, or None if it succeeded."""
        return self.errors.last_error

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {self.status}"
