"""A result that is held back: its place on the page says so, and shows it once it is released."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import traitlets
from IPython.display import HTML, display

from mixlab.panels.presence import Present, Words, bundle_of, guarded, on_page_of, remains

PLACEHOLDER = "Choose an answer above; the result appears here."
SOON = "The result appears as soon as the cells that still run are done."
_LOST = "The result stays hidden until you choose an answer: run the cells again (Run > Run All Cells), then choose."


class Held:
    """Shows its result where it is displayed, at once or as soon as it is released.

    Args:
        shown: Anything that a notebook can show; a text shows as a sentence.
        choice: The radio buttons of the question.
        once_chosen: What stands in its place from the choice until it is released.
    """

    def __init__(self, shown: Any, choice: widgets.RadioButtons, *, once_chosen: str = SOON) -> None:
        self._choice, self._once_chosen = choice, once_chosen
        self._shown = Words(shown) if isinstance(shown, str) else shown
        self._released = False
        self._places: list[Place] = []

    @property
    def released(self) -> bool:
        return self._released

    def release(self) -> None:
        """Shows the result wherever this was displayed."""
        self._released = True
        while self._places:
            self._places.pop(0).fill()

    def __repr__(self) -> str:
        return repr(self._shown) if self._released else PLACEHOLDER

    def _ipython_display_(self) -> None:
        if self._released:
            display(self._shown)  # type: ignore[no-untyped-call]
        else:
            self._places.append(Place(self._shown, self._choice, self._once_chosen))
            self._places[-1].show()


class Place(anywidget.AnyWidget):
    """An output that says that its result is held back, and is replaced by the result.

    The replacement reaches every page that saw the cell run, and is saved with the notebook. A page that was loaded
    since does not get it: there the script of this widget, which the kernel still has, asks for the result.

    Args:
        shown: The result; anything that a notebook can show.
        choice: The radio buttons of the question.
        once_chosen: What it says from the choice until it is replaced.

    Attributes:
        words: What it says.
        words_once_chosen: What it says once there is a choice.
        choice: The model id of the radio buttons.
        filled: Whether it was replaced.
    """

    _esm = Path(__file__).parent / "held.js"
    words = traitlets.Unicode(PLACEHOLDER).tag(sync=True)
    words_once_chosen = traitlets.Unicode(SOON).tag(sync=True)
    choice = traitlets.Unicode().tag(sync=True)
    filled = traitlets.Bool(False).tag(sync=True)

    def __init__(self, shown: Any, choice: widgets.RadioButtons, once_chosen: str = SOON) -> None:
        super().__init__(choice=choice.model_id, words_once_chosen=once_chosen)
        self._shown = shown
        self._bundle = bundle_of(shown)  # now, since a choice should be answered at once
        self._display_id, self._remains_id = uuid.uuid4().hex, uuid.uuid4().hex
        self._output = widgets.VBox([self])
        self.on_msg(lambda _widget, content, _buffers: self._heard(content))

    def show(self) -> None:
        """Displays the place."""
        display(HTML(on_page_of(self._shown) + remains(words=_LOST)), display_id=self._remains_id)  # type: ignore[no-untyped-call]
        data, metadata = bundle_of(self._output)
        self._publish({**data, "text/plain": self.words}, metadata, update=False)

    def fill(self) -> None:
        """Replaces the place with its result."""
        if isinstance(self._shown, Present):
            self._shown.take_over(self._remains_id)
        self._publish(*self._bundle, update=True)
        self.filled = True

    def _publish(self, data: dict[str, Any], metadata: dict[str, Any], *, update: bool) -> None:
        display(data, metadata=metadata, raw=True, display_id=self._display_id, update=update)  # type: ignore[no-untyped-call]

    def _heard(self, content: Any) -> None:
        """Shows the result on a page that still has this widget although it was replaced."""
        if content != "still here" or not self.filled:
            return
        if isinstance(self._shown, widgets.Widget):
            self._output.children = guarded(self._shown)
        else:
            data, metadata = self._bundle
            page = {"output_type": "display_data", "data": {"text/html": on_page_of(self._shown)}, "metadata": {}}
            output = {"output_type": "display_data", "data": data, "metadata": metadata}
            self._output.children = [widgets.Output(outputs=(page, output))]
