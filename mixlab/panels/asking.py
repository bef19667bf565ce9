"""A button for what cannot be undone: it asks once more before it does it."""

from __future__ import annotations

import ipywidgets as widgets


class AskingButton(widgets.Button):  # type: ignore[misc]
    """A button whose first press asks, in red, and whose second press counts.

    Args:
        label: Its text while it does not ask.
        tooltip: What it does.
        icon: Its icon, "" for none.
    """

    def __init__(self, label: str, tooltip: str, *, icon: str = "") -> None:
        self._label, self._asked = label, ""
        super().__init__(description=label, tooltip=tooltip, icon=icon, layout={"width": "max-content"})

    def confirmed(self, what: str) -> bool:
        """Asks "Press again to ... for good" and returns False; True if it asked exactly this before.

        Args:
            what: What is about to be done, such as "delete 2 runs".
        """
        question = f"Press again to {what} for good"
        if self._asked == question:
            self.take_back()
            return True
        self.description, self.button_style, self._asked = question, "danger", question
        return False

    def take_back(self) -> None:
        """Stops asking: the next press asks anew."""
        self.description, self.button_style, self._asked = self._label, "", ""


def number_of(count: int, noun: str) -> str:
    """Returns "1 run" or "2 runs".

    Args:
        count: How many.
        noun: One of them; the plural ends in s.
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"
