"""A tensor's magnitudes on a format's range, as a small picture for a panel, and the words that repeat it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mixlab.formats import Format, RoundingStats
from mixlab.reports.colours import BLUE, GREY, ORANGE, PURPLE, VERMILLION

_WIDTH, _TOP, _PLOT, _BOTTOM = 720, 34, 150, 44  # in units of the picture, which the page scales
_ZONES = (("becomes zero", VERMILLION), ("subnormal", ORANGE), ("normal", BLUE), ("overflow", PURPLE))


def limits_line(fmt: Format) -> str:
    """Returns a format's limits in words.

    >>> from mixlab.formats import E4M3FN
    >>> limits_line(E4M3FN)
    'e4m3fn, 8 bits: max 448, smallest normal 0.015625, smallest subnormal 0.00195312, eps 0.125'
    """
    subnormal = f", smallest subnormal {fmt.smallest_subnormal:.6g}" if fmt.has_subnormals else ", no subnormals"
    return (
        f"{fmt}, {fmt.bits} bits: max {fmt.max:.6g}, smallest normal {fmt.smallest_normal:.6g}{subnormal}, "
        f"eps {fmt.eps:.6g}"
    )


def loss_line(stats: RoundingStats) -> str:
    """Returns in words what rounding did to a tensor."""
    if not stats.non_zero:
        return f"None of the {stats.numel:,} values is finite and not zero: there is nothing to round."
    beyond = stats.overflow + stats.clipped
    return (
        f"Of {stats.non_zero:,} non-zero values {_percent(stats.underflow)} become zero, {_percent(stats.subnormal)} "
        f"are subnormal, {_percent(beyond)} are out of range. Relative RMS error {100 * relative_rms(stats):.2g} %."
    )


def relative_rms(stats: RoundingStats) -> float:
    """Returns the root of the squared errors over the squared values; of those that stayed finite."""
    return math.exp(-stats.signal_to_noise_db / 20 * math.log(10))


def magnitudes_svg(exponent_counts: NDArray[np.float64], fmt: Format, words: str) -> str:
    """Returns a histogram of magnitudes by exponent, in the colours of the format's zones, as SVG.

    Args:
        exponent_counts: (256,) as of `Histogram.exponent_counts`.
        fmt: Whose zones.
        words: What a screen reader says instead.
    """
    seen = np.flatnonzero(exponent_counts) - 127
    borders = [math.log2(x) for x in (fmt.smallest_subnormal / 2, fmt.smallest_normal, fmt.max)]
    low = math.floor(min([*seen.tolist(), 0, max(borders[0], -40)])) - 2
    high = math.ceil(max([*seen.tolist(), 0, min(borders[2], 24)])) + 3
    unit = _WIDTH / (high - low)
    edges = [low, *(min(max(border, low), high) for border in borders), high]
    top = max(float(exponent_counts.max()), 1.0)
    parts = [_zone(i, (edges[i] - low) * unit, (edges[i + 1] - low) * unit) for i in range(4)]
    for exponent in seen.tolist():
        height = max(1.5, _PLOT * float(exponent_counts[exponent + 127]) / top)
        colour = _ZONES[int(np.searchsorted(borders, exponent + 0.5))][1]
        parts.append(
            f'<rect x="{(exponent - low) * unit + 0.5:.1f}" y="{_TOP + _PLOT - height:.1f}" width="{unit - 1:.1f}" '
            f'height="{height:.1f}" fill="{colour}"/>'
        )
    step = max(1, round((high - low) / 12))
    for exponent in range(-(-low // step) * step, high, step):
        x = (exponent - low) * unit
        parts.append(_text(x, _TOP + _PLOT + 16, f'2<tspan dy="-5" font-size="9">{exponent}</tspan>'))
    parts.append(_text(_WIDTH / 2, _TOP + _PLOT + 36, "magnitude of the weights"))
    return (
        f'<svg role="img" aria-label="{words}" viewBox="0 0 {_WIDTH} {_TOP + _PLOT + _BOTTOM}" '
        'style="display: block; width: 100%; max-width: 900px; font-family: var(--jp-ui-font-family, sans-serif)">'
        f"{''.join(parts)}</svg>"
    )


def _zone(i: int, left: float, right: float) -> str:
    name, colour = _ZONES[i]
    if right - left < 1:
        return ""
    tint = (
        f'<rect x="{left:.1f}" y="{_TOP}" width="{right - left:.1f}" height="{_PLOT}" fill="{colour}" '
        f'fill-opacity="0.12"/><path d="M{left:.1f} {_TOP}V{_TOP + _PLOT}" stroke="{GREY}"/>'
    )
    return tint + (_text((left + right) / 2, _TOP - 8 - 14 * (i % 2), name) if right - left > 8 else "")


def _text(x: float, y: float, words: str) -> str:
    x = min(max(x, 40), _WIDTH - 40)
    colour = "var(--jp-ui-font-color1, currentColor)"
    return f'<text x="{x:.1f}" y="{y}" text-anchor="middle" font-size="12" fill="{colour}">{words}</text>'


def _percent(fraction: float) -> str:
    return {0.0: "none", 1.0: "all"}.get(fraction, f"{100 * fraction:.3g} %")
