"""Which panels a cell of a notebook has made, so that running it again can end what the earlier ones still do."""

from __future__ import annotations

import weakref
from typing import Any

from IPython.core.getipython import get_ipython

# By the cell's id: panels, each with the id of the execution that made it.
_MADE: dict[str, list[tuple[str, weakref.ref[Any]]]] = {}


def earlier_of_this_cell(panel: object) -> list[Any]:
    """Registers a panel with the cell that runs now, and returns those that earlier runs of that cell made.

    Only panels of the same class count. A cell may make several; they count as one run. Outside a notebook, and in
    notebooks whose page does not say which cell runs, there are none.

    Args:
        panel: The panel.
    """
    cell, execution = _running()
    if not cell:
        return []
    made = [(made_in, made) for made_in, made in _MADE.get(cell, []) if made() is not None]
    earlier = [one for made_in, made in made if made_in != execution and type(one := made()) is type(panel)]
    _MADE[cell] = [(made_in, made) for made_in, made in made if made() not in earlier]
    _MADE[cell].append((execution, weakref.ref(panel)))
    return earlier


def _running() -> tuple[str, str]:
    """Returns the ids of the cell that runs and of this execution of it; "" where there is none."""
    shell: Any = get_ipython()
    request = shell.get_parent() if hasattr(shell, "get_parent") else {}
    cell = request.get("metadata", {}).get("cellId")
    return (str(cell), str(request.get("header", {}).get("msg_id", ""))) if cell else ("", "")
