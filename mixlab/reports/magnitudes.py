"""A tensor's magnitudes on a format's range, as a small picture for a panel and in words."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mixlab.formats import Format, RoundingStats
from mixlab.reports.zones import ZONES, ZonePicture, zone_borders

_TOP, _BOTTOM = 34, 184  # of the bars, in units of the picture


def limits_line(fmt: Format | str) -> str:
    """Returns the limits of a format in one line.

    >>> limits_line("e4m3fn")
    'e4m3fn, 8 bits: max 448, smallest normal 0.015625, smallest subnormal 0.00195312, eps 0.125'

    Args:
        fmt: The format.
    """
    fmt = Format.of(fmt)
    subnormal = f", smallest subnormal {fmt.smallest_subnormal:.6g}" if fmt.has_subnormals else ", no subnormals"
    return (
        f"{fmt}, {fmt.bits} bits: max {fmt.max:.6g}, smallest normal {fmt.smallest_normal:.6g}{subnormal}, "
        f"eps {fmt.eps:.6g}"
    )


def loss_line(stats: RoundingStats) -> str:
    """Describes what rounding did to a tensor.

    Args:
        stats: From `round_with_stats`. Fractions are of the non-zero finite values.
    """
    if not stats.non_zero:
        return f"None of the {stats.numel:,} values is finite and non-zero: there is nothing to round."
    beyond = stats.overflow + stats.clipped
    return (
        f"Of {stats.non_zero:,} non-zero values {_percent(stats.underflow)} become zero, {_percent(stats.subnormal)} "
        f"are subnormal, {_percent(beyond)} are out of range. Relative RMS error {100 * relative_rms(stats):.2g} %."
    )


def relative_rms(stats: RoundingStats) -> float:
    """Returns the RMS error divided by the RMS value, over the values that stayed finite."""
    return math.exp(-stats.signal_to_noise_db / 20 * math.log(10))


def magnitudes_svg(exponent_counts: NDArray[np.float64], fmt: Format | str, words: str) -> str:
    """Returns a histogram of magnitudes by exponent, in the colours of the format's zones, as SVG.

    Args:
        exponent_counts: (256,) counts, from `Histogram.exponent_counts`.
        fmt: The format whose zones are shown.
        words: Read out by a screen reader in place of the picture.
    """
    seen = np.flatnonzero(exponent_counts) - 127
    borders = zone_borders(fmt)
    low = math.floor(min([*seen.tolist(), 0, max(borders.zero, -40)])) - 2
    high = math.ceil(max([*seen.tolist(), 0, min(borders.overflow, 24)])) + 3
    picture = ZonePicture(borders, low, high, _TOP, _BOTTOM)
    top = max(float(exponent_counts.max()), 1.0)
    unit = picture.x(low + 1)
    bars = []
    for exponent in seen.tolist():
        height = max(1.5, (_BOTTOM - _TOP) * float(exponent_counts[exponent + 127]) / top)
        colour = ZONES[int(np.searchsorted(borders, exponent + 0.5))].colour
        bars.append(
            f'<rect x="{picture.x(exponent) + 0.5:.1f}" y="{_BOTTOM - height:.1f}" width="{unit - 1:.1f}" '
            f'height="{height:.1f}" fill="{colour}"/>'
        )
    step = max(1, round((high - low) / 12))
    ticks = range(-(-low // step) * step, high, step)
    return picture.svg(bars, ticks=ticks, title="magnitude of the weights", words=words)


def _percent(fraction: float) -> str:
    return {0.0: "none", 1.0: "all"}.get(fraction, f"{100 * fraction:.3g} %")
