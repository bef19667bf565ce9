"""The stages of a step as buttons, the one that is shown marked."""

from __future__ import annotations

import anywidget
import traitlets

from mixlab.panels.scripts import script, stylesheet


class StageTrack(anywidget.AnyWidget):
    """A row of buttons, one a stage; pressing one sets `index`.

    Attributes:
        names: The names of the stages; they never change.
        index: The place of the stage that is shown, from 0.
    """

    _esm = script("stages.js")
    _css = stylesheet("stages.css")
    names: traitlets.List[str] = traitlets.List(traitlets.Unicode()).tag(sync=True)
    index = traitlets.Int(0).tag(sync=True)
