"""Colours that stand out on light and on dark pages and that colour-blind people can tell apart; inks; dashes of lines.

No grey is readable as text on white (4.5:1) and on a dark page: charts and panels take the page's own colour for text.
Everything here is for lines, marks and fills, which need 3:1 (WCAG 2.2, 1.4.11).
"""

from __future__ import annotations

# Each at least 3:1 on white and on JupyterLab's dark #111111; any two stay further apart for readers without long,
# middle or short cones than the closest two of Okabe and Ito's colours do. Orange and sky are light, the others dark.
BLUE = "#4656FF"
ORANGE = "#DB7805"
GREEN = "#17724E"
VERMILLION = "#C62208"
PURPLE = "#924D92"
SKY = "#4F98C9"
GREY = "#757575"  # 4.6:1 on white, 4.1:1 on #111111

SERIES = (BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY)
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


def contrast(one: str, other: str) -> float:
    """Returns the contrast of two colours, from 1 to 21, as WCAG 2.2 defines it.

    Args:
        one: A colour such as "#4656FF", "white" or "black".
        other: The other one.

    >>> contrast("white", "black"), round(contrast("#757575", "white"), 2)
    (21.0, 4.61)
    """
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def ink_on(colour: str) -> str:
    """Returns "black" or "white", whichever reads better as text on a colour; it is never below 4.5:1.

    Args:
        colour: The colour behind the text, such as "#4656FF".
    """
    return max(("black", "white"), key=lambda ink: contrast(ink, colour))


def line_on(colour: str) -> str:
    """Returns the colour of a pattern on a fill: text in the ink of the fill stays readable on it.

    Args:
        colour: The colour of the fill, such as "#4656FF".
    """
    return "white" if ink_on(colour) == "black" else "black"


def _luminance(colour: str) -> float:
    """Returns the relative luminance of a colour, from 0 for black to 1 for white."""
    digits = {"white": "#FFFFFF", "black": "#000000"}.get(colour, colour)
    parts = [int(digits[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
