"""Where the magnitudes of a tensor lie in a number format under a loss scale, in words and as data for a page to draw.

Everything reads one histogram, taken without a loss scale: a scale of 2^k moves the histogram by k exponents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mixlab.formats import Format
from mixlab.powers import power
from mixlab.probes import Fractions, TensorKind, TensorStats, largest_scale_exponent, usable_window
from mixlab.reports.numbers import share_words, short_number
from mixlab.reports.zones import ZONES, zone_borders

NOUNS: dict[TensorKind, str] = {
    "gradient": "gradients",
    "weight_gradient": "weight gradients",
    "activation": "activations",
}
_SMALLEST_EXPONENT = -127  # of a bar: entry 0 of `Histogram.exponent_counts`


def status_line(stats: TensorStats, fmt: Format | str, scale_exponent: int) -> str:
    """Says which shares of a scaled tensor become zero, are subnormal and overflow, and which scales are usable.

    Overflow is judged by the exact amax, so a sample cannot hide it. Fractions of a sample come with one standard
    error. No fraction counts zeros, inf or NaN; inf and NaN are mentioned separately.

    Args:
        stats: Statistics of a tensor, without a loss scale in it.
        fmt: The format to which the scaled tensor would be rounded.
        scale_exponent: k of the loss scale 2^k.

    Raises:
        ValueError: If `scale_exponent` is not a whole number from -512 to 512.
    """
    return ScaledTensor(stats, fmt).sentence(scale_exponent)


def drawing(stats: TensorStats, fmt: Format | str, scale_exponents: Sequence[int]) -> dict[str, Any]:
    """Returns everything that a browser needs to draw the chart at any of the scales, ready for JSON.

    Bars are placed at their exponents without a scale; a scale of 2^k moves them by k. The lists "sentences" and
    "zoneShares" have one entry for each of `scale_exponents`.

    Args:
        stats: Statistics of a tensor, without a loss scale in it.
        fmt: The format whose zones are shown.
        scale_exponents: Each k of a loss scale 2^k that the reader can choose.
    """
    tensor = ScaledTensor(stats, fmt)
    exponents, shares = tensor.bars()
    low, high = tensor.domain(0)
    return {
        "bars": [[e, round(share, 6)] for e, share in zip(exponents, shares, strict=True)],
        "domain": [low, high],
        "borders": tuple(tensor.borders),
        "borderLabels": border_labels(fmt),
        "zoneNames": [zone.name for zone in ZONES],
        "xTicks": axis_ticks(low, high),
        "yTicks": _share_ticks(max(shares, default=1.0)),
        "xTitle": tensor.axis_title,
        "yTitle": f"share of the non-zero {tensor.noun}",
        "window": [tensor.window.low, tensor.window.high] if tensor.window.usable else None,
        "details": details(stats, fmt),
        "sentences": [tensor.sentence(k) for k in scale_exponents],
        "zoneShares": [tensor.zone_shares(k) for k in scale_exponents],
    }


def border_labels(fmt: Format | str) -> tuple[str, str, str]:
    """Returns the values at the borders of a format's zones, in familiar notation.

    >>> border_labels("fp16")
    ('2⁻²⁵', '2⁻¹⁴', '65504')
    """
    fmt = Format.of(fmt)
    borders = zone_borders(fmt)
    return power(round(borders.zero)), power(round(borders.subnormal)), short_number(fmt.max)


def details(stats: TensorStats, fmt: Format | str) -> str:
    """Says which values the chart counts, and where the format's borders come from."""
    smallest = power(round(zone_borders(fmt).zero) + 1)
    counted = f"{stats.numel - stats.zeros - stats.infs - stats.nans:,} non-zero finite values of {stats.numel:,}"
    sampled = "" if stats.histogram.exact else f", seen through a sample of {stats.histogram.sampled:,}"
    return (
        f"{NOUNS[stats.kind].capitalize()} of {place_of(stats)}: {counted}{sampled}. "
        f"The smallest value of {fmt} is {smallest}; half of it or less rounds to zero. "
        f"A scale is usable when nothing overflows and at most 1 % becomes zero."
    )


def place_of(stats: TensorStats) -> str:
    """Returns the place in the model where a tensor was seen, in words."""
    return "all layers" if stats.layer == "all" else f"layer {stats.layer}" if stats.layer else "the model"


class ScaledTensor:
    """One tensor read in one format, under any loss scale.

    Attributes:
        noun: The name of its values, in the plural.
        axis_title: Title of the axis of magnitudes.
        borders: Borders of the format's zones.
        window: Window of the usable scales.
    """

    def __init__(self, stats: TensorStats, fmt: Format | str) -> None:
        self.stats, self.fmt = stats, Format.of(fmt)
        self.noun = NOUNS[stats.kind]
        self.axis_title = f"magnitude of the {self.noun} × loss scale"
        self.borders = zone_borders(fmt)
        self.window = usable_window(stats, self.fmt)
        self._largest = largest_scale_exponent(stats.amax, self.fmt) if stats.amax else None

    def bars(self) -> tuple[list[int], list[float]]:
        """Returns all exponents from the smallest to the largest that occurs, and the share of values at each."""
        counts = self.stats.histogram.exponent_counts()
        occupied = np.nonzero(counts)[0]
        if not len(occupied):
            return [], []
        span = range(int(occupied[0]), int(occupied[-1]) + 1)
        shares = counts[span.start : span.stop] / counts.sum()
        return [i + _SMALLEST_EXPONENT for i in span], [float(share) for share in shares]

    def domain(self, scale_exponent: int) -> tuple[int, int]:
        """Returns two exponents with room between them for the zones and for the bars at this scale."""
        exponents, _ = self.bars()
        low, _, high = self.borders
        margin = max(8, (high - low) / 8)
        ends = [e + scale_exponent for e in exponents] or [math.floor(low)]
        return math.floor(min(low - margin, ends[0] - 2)), math.ceil(max(high + margin, ends[-1] + 3))

    def fractions(self, scale_exponent: int) -> Fractions:
        return self.stats.histogram.fractions(self.fmt, scale_exponent)

    def zone_shares(self, scale_exponent: int) -> tuple[str, str, str, str]:
        """Returns the share of values in each zone, as text."""
        if not self.stats.histogram.non_zero:
            return "–", "–", "–", "–"
        found = self.fractions(scale_exponent)
        normal = max(0.0, 1 - found.underflow - found.subnormal - found.overflow)
        normal = 0.0 if normal < 1e-12 else normal
        too_large = "at least one" if self._unseen_overflow(scale_exponent) else share_words(found.overflow)
        return share_words(found.underflow), share_words(found.subnormal), share_words(normal), too_large

    def sentence(self, scale_exponent: int) -> str:
        """Describes what happens at a scale."""
        scale = f"At scale {power(scale_exponent)}"
        if not self.stats.histogram.non_zero:
            return f"{scale}: {self._nothing_to_count()}"
        found = self.fractions(scale_exponent)
        window = f"usable window {self.window}" if self.window.usable else "no usable window"
        return (
            f"{scale}, {_measured(found.underflow, found.underflow_error)} of the non-zero {self.noun} "
            f"become zero in {self.fmt}, {_measured(found.subnormal, found.subnormal_error)} are subnormal, "
            f"{self._overflow(scale_exponent, found)}; {window}."
            f"{self._sampled()}{self._non_finite()}"
        )

    def _unseen_overflow(self, scale_exponent: int) -> bool:
        """Whether the largest value overflows, but no value in the histogram does."""
        overflows = self._largest is not None and scale_exponent > self._largest
        return overflows and not self.fractions(scale_exponent).overflow

    def _overflow(self, scale_exponent: int, found: Fractions) -> str:
        if self._unseen_overflow(scale_exponent):
            return "at least one overflows"
        return f"{_measured(found.overflow, found.overflow_error)} overflow"

    def _sampled(self) -> str:
        histogram = self.stats.histogram
        return "" if histogram.exact else f" Read from a sample of {histogram.sampled:,} of {histogram.numel:,} values."

    def _non_finite(self) -> str:
        if not self.stats.infs and not self.stats.nans:
            return ""
        return f" Not counted: {self.stats.infs:,} inf and {self.stats.nans:,} NaN."

    def _nothing_to_count(self) -> str:
        stats = self.stats
        if stats.amax:
            return (
                f"none of the {stats.histogram.sampled:,} sampled {self.noun} is non-zero and finite, "
                f"though there are some; take a larger sample."
            )
        return (
            f"there are no non-zero finite {self.noun} to count; of {stats.numel:,} values "
            f"{stats.zeros:,} are zero, {stats.infs:,} inf and {stats.nans:,} NaN."
        )


def axis_ticks(low: int, high: int) -> list[tuple[int, str]]:
    """Returns at most 13 evenly spaced whole exponents, with their labels."""
    step = next(step for step in (2, 4, 8, 16, 32, 64) if (high - low) / step <= 12)
    return [(e, power(e)) for e in range(-(-low // step) * step, high + 1, step)]


def _measured(fraction: float, standard_error: float) -> str:
    error = 100 * standard_error
    if not error or fraction < 1e-4:
        return share_words(fraction)
    return f"{share_words(fraction)} ± {max(error, 0.01):.{2 if error < 0.1 else 1}f} %"


def _share_ticks(top: float) -> list[tuple[float, str]]:
    """Returns two to five round shares up to `top`, with their labels."""
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if top / step < 5)
    return [(i * step, f"{100 * i * step:.0f} %") for i in range(math.floor(top / step + 1e-9) + 1)]
