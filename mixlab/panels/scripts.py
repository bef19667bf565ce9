"""Scripts and stylesheets of this folder, each with what all of them share: a widget takes a single one."""

from __future__ import annotations

import re
from pathlib import Path

from mixlab.reports.colours import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILLION, ink_on

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
