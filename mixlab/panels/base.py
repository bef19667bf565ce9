"""What panels share: uniform controls, status and errors, refused values, and scripts."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from html import escape
from pathlib import Path
from typing import Any, ClassVar, ParamSpec

import anywidget
import ipywidgets as widgets
import traitlets

from mixlab.arguments import require_whole
from mixlab.panels.presence import Present
from mixlab.recipes import PRESETS, Recipe
from mixlab.reports.colours import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILLION, ink_on

P = ParamSpec("P")
_STILL_S = 1.0
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


# Controls


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

        @wraps(callback)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
            try:
                callback(*args, **kwargs)
            except Exception as error:
                self.show(error)
            else:
                self.show(None)

        return guarded

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


# Panels that the browser draws


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
        """Returns `callback` with its exceptions caught and shown; Jupyter would swallow them."""

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
        """Shows an error in red; None clears it."""
        self.last_error = error
        self._error = "" if error is None else f"{type(error).__name__}: {error}"


_PALETTE = {
    "blue": BLUE,
    "orange": ORANGE,
    "green": GREEN,
    "vermillion": VERMILLION,
    "purple": PURPLE,
    "sky": SKY,
}

_IMPORT = re.compile(r'^import \{[^}]*\} from "\./shared\.js";\n', re.MULTILINE)


def stylesheet(name: str) -> str:
    """Returns the palette, shared.css and a stylesheet of this folder as one, since a widget takes a single one.

    Args:
        name: Its file name, such as "tile_walk.css".
    """
    folder = Path(__file__).parent
    colours = "".join(f" --{one}: {hue}; --on-{one}: {ink_on(hue)};" for one, hue in _PALETTE.items())
    files = [(folder / one).read_text(encoding="utf-8") for one in ("shared.css", name)]
    return "\n".join([f".mixlab-panel {{{colours} }}", *files])


def script(name: str) -> str:
    """Returns a script with the text of shared.js in place of its import, since a widget takes a single script.

    Args:
        name: Name of a file in this folder, such as "curves.js".
    """
    folder = Path(__file__).parent
    shared = re.sub(r"^export ", "", (folder / "shared.js").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return _IMPORT.sub(lambda _: shared, (folder / name).read_text(encoding="utf-8"))
