"""A panel on a page whose kernel may be gone: its output then says so, and its controls are off.

A displayed panel is two outputs. The first is HTML: what the panel showed, in words or as a picture, and what to do. A
page hides it as long as the second, the widget itself, is there; without its state (a notebook that was closed, or
opened elsewhere) only the first remains. The widget stands under a guard, whose script sees the kernel go: after a
restart, and with widget state saved in the notebook.
"""

from __future__ import annotations

import uuid
from html import escape
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import traitlets
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import display, update_display

from mixlab.machine import is_headless

NEEDS_KERNEL = "This panel needs its kernel: run the cell again, after the cells above it (Run > Run All Cells)."

Bundle = tuple[dict[str, Any], dict[str, Any]]  # (data, metadata) of an output, by MIME type

# The output of a widget that JupyterLab has no model of; it holds the text "Error displaying widget: model not found".
_DEAD = ".jp-OutputArea-child > .jp-OutputArea-output.jupyter-widgets"
# What stands in its place on a page without widgets, such as an exported one: nothing.
_ABOVE = '<div class="mixlab-remains-above"></div>'
_NONE = ".jp-OutputArea-child > .jp-OutputArea-output > .mixlab-remains-above"
_STYLE = f"""<style>
.jp-OutputArea-child:has(.mixlab-remains):not(:has(+ {_DEAD}, + {_NONE})) {{ display: none; }}
.jp-OutputArea-child:has(.mixlab-remains) + {_DEAD} {{ display: none; }}
</style>"""


class Guard(anywidget.AnyWidget):
    """Switches off what stands beside it while the kernel of a widget is gone, and says so.

    Attributes:
        panel: The model id of that widget.
        words: What it says.
    """

    _esm = Path(__file__).parent / "presence.js"
    _css = Path(__file__).parent / "presence.css"
    panel = traitlets.Unicode().tag(sync=True)
    words = traitlets.Unicode(NEEDS_KERNEL).tag(sync=True)

    @classmethod
    def of(cls, widget: Any) -> Guard:
        """Returns a guard for a widget that is `Present`."""
        return cls(panel=widget.model_id, words=widget.without_kernel)


class Present:
    """What a widget inherits to be displayed in this way.

    Attributes:
        without_kernel: What to do about it when its kernel is gone, in words; "" says nothing.
    """

    model_id: str
    without_kernel = NEEDS_KERNEL
    _remains_of: tuple[str, ...] = ()  # the display ids of the first outputs

    def still(self) -> str:
        """Returns HTML of what the widget shows now, without anything to press."""
        return f"<div>{escape(repr(self))}</div>"

    def keep_still(self) -> None:
        """Writes what the widget shows now into its first outputs."""
        for display_id in self._remains_of:
            update_display(self._first(), raw=True, display_id=display_id)  # type: ignore[no-untyped-call]

    def take_over(self, display_id: str) -> None:
        """Makes an output that was displayed before the first output of this widget.

        Args:
            display_id: The id with which it was displayed.
        """
        self._remains_of += (display_id,)
        self.keep_still()

    def recorded(self) -> dict[str, Any]:
        """Returns what the first outputs hold for programs that read the saved notebook, by MIME type."""
        return {}

    def _first(self) -> dict[str, Any]:
        html = remains(self.still(), self.without_kernel)
        return {"text/plain": repr(self), "text/html": html, **self.recorded()}

    def _ipython_display_(self) -> None:
        if not is_headless():
            display_id = uuid.uuid4().hex
            display(self._first(), raw=True, display_id=display_id)  # type: ignore[no-untyped-call]
            self._remains_of += (display_id,)
        data, metadata = bundle_of(self)
        display(data, metadata=metadata, raw=True)  # type: ignore[no-untyped-call]


class Words:
    """A sentence that a notebook shows as it is."""

    def __init__(self, words: str) -> None:
        self._words = words

    def __repr__(self) -> str:
        return self._words

    def _repr_html_(self) -> str:
        return f"<div>{escape(self._words)}</div>"


def remains(still: str = "", words: str = NEEDS_KERNEL) -> str:
    """Returns the HTML of the first output: hidden as long as the widget in the second is there.

    Args:
        still: HTML of what the widget showed.
        words: What to do about a widget that is not there.
    """
    told = f"<p><b>{escape(words)}</b></p>" if words else ""
    return f'{_STYLE}<div class="mixlab-remains">{still}{told}</div>'


def bundle_of(shown: Any) -> Bundle:
    """Returns how a notebook shows something: the data and metadata of its output, by MIME type.

    Args:
        shown: Anything; a widget that is `Present` comes under a guard.
    """
    if isinstance(shown, Present):
        alone = is_headless()  # without a first output
        guarded = shown if alone else widgets.VBox([Guard.of(shown), shown])
        html = shown.still() if alone else _ABOVE
        return {"text/plain": repr(shown), "text/html": html, **_view(guarded.model_id)}, {}
    if hasattr(type(shown), "_repr_mimebundle_"):
        found = shown._repr_mimebundle_()
        data, metadata = found if isinstance(found, tuple) else (found, {})
        return {"text/plain": repr(shown), **data}, metadata
    formatter = InteractiveShell.instance().display_formatter
    data, metadata = formatter.format(shown) if formatter else ({"text/plain": repr(shown)}, {})  # type: ignore[no-untyped-call]
    return data, metadata


def on_page_of(shown: Any) -> str:
    """Returns HTML that a page needs once to show something as it should, such as the style of charts; "" for most.

    Args:
        shown: Anything.
    """
    return str(getattr(type(shown), "on_page", ""))


def guarded(widget: widgets.Widget) -> list[widgets.Widget]:
    """Returns what stands in the box of a widget: itself, under a guard if it is `Present`.

    Args:
        widget: The widget.
    """
    is_present = isinstance(widget, Present)
    return [Guard.of(widget), widget] if is_present else [widget]


def _view(model_id: str) -> dict[str, Any]:
    return {"application/vnd.jupyter.widget-view+json": {"version_major": 2, "version_minor": 0, "model_id": model_id}}
