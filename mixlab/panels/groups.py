"""Controls that belong together, with a name that screen readers say too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anywidget
import ipywidgets as widgets
import traitlets


class GroupName(anywidget.AnyWidget):
    """Names the box that it stands in.

    Attributes:
        title: The name.
        visible: Whether it is shown as a heading.
    """

    _esm = Path(__file__).parent / "group.js"
    title = traitlets.Unicode().tag(sync=True)
    visible = traitlets.Bool(True).tag(sync=True)

    @classmethod
    def unseen(cls, title: str) -> GroupName:
        """Returns one that shows nothing: for a box whose controls are told apart from others of the same names."""
        return cls(title=title, visible=False)


def group(title: str, rows: Sequence[widgets.Widget], *, visible: bool = True, in_a_row: bool = False) -> widgets.Box:
    """Returns widgets as a named group, below each other.

    Args:
        title: Its name.
        rows: The widgets.
        visible: Whether the name is shown as a heading.
        in_a_row: Whether they stand side by side, on several lines if the page is narrow.
    """
    box = widgets.Box([GroupName(title=title, visible=visible), *rows])
    box.layout.display = "flex"
    box.layout.flex_flow = "row wrap" if in_a_row else "column"
    return box
