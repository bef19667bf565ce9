"""The four zones of a format, from values that become zero to values that overflow, and pictures of magnitudes in them.

Pictures are small SVGs for panels; `mixlab.figures.gradient_histogram` draws the same zones with plotly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import NamedTuple

from mixlab.formats import Format
from mixlab.reports.colours import BLUE, GREY, ORANGE, PURPLE, VERMILLION

WIDTH = 720  # of a picture, in units that the page scales
_HALF = 44  # of the longest name, in the same units
TEXT = "var(--jp-ui-font-color1, currentColor)"


class Zone(NamedTuple):
    """A zone's name and look; the pattern is one of plotly's, "" for none."""

    name: str
    colour: str
    pattern: str


ZONES = (
    Zone("becomes zero", VERMILLION, "/"),
    Zone("subnormal", ORANGE, "."),
    Zone("normal", BLUE, ""),
    Zone("overflow", PURPLE, "x"),
)


class Borders(NamedTuple):
    """The borders between the zones of a format, each as a base-2 logarithm.

    Attributes:
        zero: Up to 2^zero, half of the smallest subnormal, a value becomes zero.
        subnormal: From there up to 2^subnormal, the smallest normal value, it loses precision.
        overflow: Beyond 2^overflow, the largest value, it overflows (unless it still rounds down).
    """

    zero: float
    subnormal: float
    overflow: float


def zone_borders(fmt: Format | str) -> Borders:
    """Returns the borders between the zones of a format.

    >>> zone_borders("e5m2").zero, zone_borders("e5m2").subnormal, round(zone_borders("e5m2").overflow, 3)
    (-17.0, -14.0, 15.807)
    """
    fmt = Format.of(fmt)
    return Borders(
        zero=math.log2(fmt.smallest_subnormal) - 1,
        subnormal=math.log2(fmt.smallest_normal),
        overflow=math.log2(fmt.max),
    )


@dataclass(frozen=True)
class ZonePicture:
    """Magnitudes on the range of a format: its zones behind, powers of two below.

    Attributes:
        borders: Borders of the format's zones; a border beyond the picture is drawn at its end.
        low, high: The exponents at the left and at the right end.
        top, bottom: Where the plot begins and ends, in units from the top.
    """

    borders: Borders
    low: int
    high: int
    top: float
    bottom: float

    def x(self, exponent: float) -> float:
        """Returns the position of 2^exponent, in units from the left."""
        return (exponent - self.low) * WIDTH / (self.high - self.low)

    def svg(self, parts: Iterable[str], *, ticks: Iterable[int], title: str, words: str) -> str:
        """Returns the whole picture.

        Args:
            parts: SVG elements to draw above the zones.
            ticks: Exponents to name below the plot.
            title: Title of the axis.
            words: Read out by a screen reader in place of the picture.
        """
        edges = [self.low, *(min(max(border, self.low), self.high) for border in self.borders), self.high]
        zones = (self._zone(i, self.x(left), self.x(right)) for i, (left, right) in enumerate(pairwise(edges)))
        below = [text(self.x(k), self.bottom + 16, f'2<tspan dy="-5" font-size="9">{k}</tspan>') for k in ticks]
        below.append(text(WIDTH / 2, self.bottom + 36, escape(title)))
        return (
            f'<svg role="img" aria-label="{escape(words)}" viewBox="0 0 {WIDTH} {self.bottom + 44}" '
            'style="display: block; width: 100%; max-width: 900px; font-family: var(--jp-ui-font-family, sans-serif)">'
            f"{''.join([*zones, *parts, *below])}</svg>"
        )

    def _zone(self, index: int, left: float, right: float) -> str:
        if right - left < 1:
            return ""
        zone, height = ZONES[index], self.bottom - self.top
        tint = (
            f'<rect x="{left:.1f}" y="{self.top}" width="{right - left:.1f}" height="{height}" fill="{zone.colour}" '
            f'fill-opacity="0.12"/><path d="M{left:.1f} {self.top}V{self.bottom}" stroke="{GREY}"/>'
        )
        name = text((left + right) / 2, self.top - 8 - 15 * (index % 2), zone.name)
        return tint + (name if right - left > 8 else "")


def text(x: float, y: float, words: str) -> str:
    """Returns words centred at a position, moved inward at the picture's ends."""
    x = min(max(x, _HALF), WIDTH - _HALF)
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle" font-size="12" fill="{TEXT}">{words}</text>'
