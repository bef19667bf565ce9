"""The look of each kind of bytes: the same colour and pattern in every figure on memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from mixlab.reports.colours import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION, ink_on, line_on


class Look(NamedTuple):
    """How one kind of bytes is drawn.

    Attributes:
        colour: Colour of the bar.
        pattern: A pattern of plotly's, "" for none. Kinds of one colour have different patterns, and so have those of
            light colours, orange and sky, and those of dark ones: parts can be told apart without colour.
        hollow: Whether only the pattern is drawn, as for memory outside tensors.
    """

    colour: str
    pattern: str = ""
    hollow: bool = False

    @property
    def ink(self) -> str:
        """The colour of text on the bar."""
        return ink_on(self.colour)

    @property
    def line(self) -> str:
        """The colour of the pattern, which leaves text readable."""
        return self.colour if self.hollow else line_on(self.colour)


# In the order in which they are stacked: first what is there as the optimizer steps, then what comes and goes.
_LOOKS: dict[str, Look] = {
    "parameters": Look(BLUE),
    "master weights": Look(SKY, "/"),
    "gradients": Look(ORANGE, "\\"),
    "fp16 gradients": Look(ORANGE, "."),
    "exp_avg": Look(GREEN, "-"),
    "momentum": Look(GREEN, "-"),
    "scales of exp_avg": Look(GREEN, "+"),
    "scales of momentum": Look(GREEN, "+"),
    "exp_avg_sq": Look(VERMILLION, "|"),
    "scales of exp_avg_sq": Look(VERMILLION, "x"),
    "Kahan compensation": Look(PURPLE, "/"),
    "gathered parameters": Look(BLUE, "\\"),
    "weights cast by autocast": Look(SKY, "x"),
    "activations saved for backward": Look(PURPLE, "."),
    "activations": Look(PURPLE, "."),
    "temporaries": Look(GREY, "\\"),
    "batch and buffers": Look(GREY, "."),
    "tensors at the peak": Look(GREY),
    "cuBLAS workspaces": Look(GREY, "x", hollow=True),
    "CUDA context": Look(GREY, "/", hollow=True),
    "fragmentation": Look(GREY, "\\", hollow=True),
}
_GRADIENTS = ("gradients", "fp16 gradients")


def look(kind: str) -> Look:
    """Returns the look of a kind of bytes; an unknown one gets grey crosses.

    Args:
        kind: As the memory room names it, such as "gradients".
    """
    return _LOOKS.get(kind, Look(GREY, "x"))


def stacked(kinds: Iterable[str], *, over_time: bool = False) -> list[str]:
    """Returns each kind once, in stacking order.

    Args:
        kinds: In any order; unknown ones come last.
        over_time: Whether gradients, which come and go within a step, come after all states, so that these stay put.
    """
    order = list(_LOOKS)

    def place(kind: str) -> tuple[bool, int]:
        if kind not in order:
            return True, len(order)
        late = over_time and kind in _GRADIENTS
        return False, order.index("Kahan compensation") if late else order.index(kind)

    return sorted(dict.fromkeys(kinds), key=place)


def css(kind: str) -> str:
    """Returns the look of a kind of bytes as CSS declarations; it is kept when the page is printed.

    Args:
        kind: As the memory room names it, such as "gradients".
    """
    colour, pattern, hollow = seen = look(kind)
    line = {"white": "rgba(255, 255, 255, 0.55)", "black": "rgba(0, 0, 0, 0.55)"}.get(seen.line, seen.line)
    lines = [
        f"repeating-linear-gradient({angle}deg, {line} 0 1.5px, transparent 1.5px 6px)" for angle in _ANGLES[pattern]
    ]
    if pattern == ".":
        lines = [f"radial-gradient({line} 1.2px, transparent 1.7px) 0 0 / 7px 7px"]
    layers = ", ".join([*lines, *([] if hollow else [f"linear-gradient({colour}, {colour})"])])
    ink = "var(--jp-ui-font-color1, currentColor)" if hollow else seen.ink
    return f"background: {layers}; color: {ink}; border: 1px solid {colour}; print-color-adjust: exact"


_ANGLES: dict[str, tuple[int, ...]] = {
    "": (),
    ".": (),
    "/": (135,),
    "\\": (45,),
    "-": (0,),
    "|": (90,),
    "x": (45, 135),
    "+": (0, 90),
}
