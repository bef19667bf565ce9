"""Where the magnitudes of a tensor lie in a number format under a loss scale: the chart, and the words that repeat it.

Everything here reads one histogram that was taken without a loss scale: a scale of 2^k moves it by k exponents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import plotly.graph_objects as go

from mixlab.figures.theme import plain, styled
from mixlab.formats import Format
from mixlab.probes import Fractions, Kind, TensorStats, largest_scale_exponent, usable_window
from mixlab.reports import BLUE, GREY, ORANGE, PURPLE, VERMILLION

NOUNS: dict[Kind, str] = {
    "gradient": "gradients",
    "weight_gradient": "weight gradients",
    "activation": "activations",
}
ZONE_NAMES = ("becomes zero", "subnormal", "normal", "overflow")
ZONE_COLORS = (VERMILLION, ORANGE, BLUE, PURPLE)
ZONE_PATTERNS = ("/", ".", "", "x")

_SMALLEST_EXPONENT = -127  # of a bar: entry 0 of `Histogram.exponent_counts`


@dataclass(frozen=True)
class Zones:
    """The borders between a format's four zones, each as a power of two.

    Attributes:
        zero: Up to 2^zero, half of the smallest subnormal, a value is rounded to zero.
        subnormal: From there up to 2^subnormal, the smallest normal value, it loses precision.
        overflow: Beyond 2^overflow, the largest value, it overflows (unless it still rounds down).
    """

    zero: float
    subnormal: float
    overflow: float


def zones(fmt: Format) -> Zones:
    """Returns the borders of `fmt`'s zones.

    >>> from mixlab.formats import E5M2
    >>> zones(E5M2).zero, zones(E5M2).subnormal, round(zones(E5M2).overflow, 3)
    (-17.0, -14.0, 15.807)
    """
    return Zones(
        zero=math.log2(fmt.smallest_subnormal) - 1,
        subnormal=math.log2(fmt.smallest_normal),
        overflow=math.log2(fmt.max),
    )


def status_line(stats: TensorStats, fmt: Format, scale_exponent: int) -> str:
    """Returns in words what the chart shows.

    Overflow is judged by the exact amax, so a sample cannot hide it. Fractions of a sample carry one standard error.

    Args:
        stats: Of a tensor without a loss scale in it.
        fmt: The format that the scaled tensor would be rounded to.
        scale_exponent: k of the loss scale 2^k.
    """
    return _Reader(stats, fmt).sentence(scale_exponent)


def gradient_histogram(stats: TensorStats, fmt: Format, scale_exponent: int = 0) -> go.Figure:
    """Returns the magnitudes of the scaled tensor by exponent, among the zones of `fmt`."""
    reader = _Reader(stats, fmt)
    exponents, shares = reader.bars()
    low, high = reader.domain(scale_exponent)
    top = 1.1 * max(shares, default=1.0)
    edges = (low, *reader.borders(), high)
    moved = [e + scale_exponent + 0.5 for e in exponents]
    figure = go.Figure([_zone(i, edges[i], edges[i + 1], top) for i in range(4)])
    figure.add_bar(
        x=moved,
        y=shares,
        width=0.9,
        marker_color=[ZONE_COLORS[int(np.searchsorted(reader.borders(), x))] for x in moved],
        hovertext=[f"{_power(e + scale_exponent)} to {_power(e + scale_exponent + 1)}" for e in exponents],
        hovertemplate="%{hovertext}: %{y:.2%}<extra></extra>",
    )
    names = [
        f"<b>{name}</b><br>{share}" for name, share in zip(ZONE_NAMES, reader.zone_shares(scale_exponent), strict=True)
    ]
    for x, text in zip(_name_places(edges), names, strict=True):
        figure.add_annotation(x=x, y=1, yref="paper", yanchor="bottom", text=text, showarrow=False)
    for x, label, side in zip(reader.borders(), border_labels(fmt), ("right", "left", "left"), strict=True):
        figure.add_vline(x=x, line_width=1, line_color=GREY)
        text = f"<b>{label}</b>"
        figure.add_annotation(x=x, y=0, yref="paper", xanchor=side, text=text, showarrow=False, yshift=-32)
    styled(figure, title=f"{reader.noun} × 2{_superscript(scale_exponent)} in {fmt}, {_where(stats)}", height=400)
    ticks = [
        (e, label)
        for e, label in _axis_ticks(low, high)
        if min(abs(e - x) for x in reader.borders()) > (high - low) / 40
    ]
    figure.update_xaxes(title=reader.axis_title, title_standoff=28, range=[low, high], showgrid=False, zeroline=False)
    figure.update_xaxes(tickvals=[e for e, _ in ticks], ticktext=[label for _, label in ticks])
    figure.update_yaxes(title=f"share of the non-zero {reader.noun}", tickformat=".0%", range=[0, top])
    return figure.update_layout(showlegend=False, hovermode="closest", bargap=0, margin_t=100)


def drawing(stats: TensorStats, fmt: Format, scale_exponents: Sequence[int]) -> dict[str, Any]:
    """Returns all that a browser needs to draw the chart at any of the scales, ready for JSON.

    Bars stand at the exponents without a scale; to scale them by 2^k, move them by k. Lists that belong to a scale have
    one entry for each of `scale_exponents`.
    """
    reader = _Reader(stats, fmt)
    exponents, shares = reader.bars()
    low, high = reader.domain(0)
    return {
        "bars": [[e, round(share, 6)] for e, share in zip(exponents, shares, strict=True)],
        "domain": [low, high],
        "borders": reader.borders(),
        "borderLabels": border_labels(fmt),
        "zoneNames": ZONE_NAMES,
        "xTicks": _axis_ticks(low, high),
        "yTicks": _share_ticks(max(shares, default=1.0)),
        "xTitle": reader.axis_title,
        "yTitle": f"share of the non-zero {reader.noun}",
        "window": [reader.window.low, reader.window.high] if reader.window.usable else None,
        "details": details(stats, fmt),
        "sentences": [reader.sentence(k) for k in scale_exponents],
        "zoneShares": [reader.zone_shares(k) for k in scale_exponents],
    }


def border_labels(fmt: Format) -> tuple[str, str, str]:
    """Returns the values at the borders, as a reader knows them.

    >>> from mixlab.formats import FP16
    >>> border_labels(FP16)
    ('2⁻²⁵', '2⁻¹⁴', '65504')
    """
    limits = zones(fmt)
    return _power(round(limits.zero)), _power(round(limits.subnormal)), _number(fmt.max)


def details(stats: TensorStats, fmt: Format) -> str:
    """Returns what the chart counts, and where the format's borders come from."""
    limits = zones(fmt)
    counted = f"{stats.numel - stats.zeros - stats.infs - stats.nans:,} non-zero finite values of {stats.numel:,}"
    sampled = "" if stats.histogram.exact else f", seen through a sample of {stats.histogram.sampled:,}"
    return (
        f"{NOUNS[stats.kind].capitalize()} of {_where(stats)}: {counted}{sampled}. "
        f"The smallest value of {fmt} is {_power(round(limits.zero) + 1)}; half of it and less rounds to zero. "
        f"A scale is usable when nothing overflows and at most 1 % becomes zero."
    )


class _Reader:
    """One tensor read in one format: what does not depend on the scale is computed once."""

    def __init__(self, stats: TensorStats, fmt: Format) -> None:
        self.stats = stats
        self.fmt = fmt
        self.noun = NOUNS[stats.kind]
        self.axis_title = f"magnitude of the {self.noun} × loss scale"
        self.window = usable_window(stats, fmt)
        self._largest = largest_scale_exponent(stats.amax, fmt) if stats.amax else None

    def borders(self) -> tuple[float, float, float]:
        limits = zones(self.fmt)
        return limits.zero, limits.subnormal, limits.overflow

    def bars(self) -> tuple[list[int], list[float]]:
        """Returns the exponents from the first to the last one that occurs, and the share of values at each."""
        counts = self.stats.histogram.exponent_counts()
        occupied = np.nonzero(counts)[0]
        if not len(occupied):
            return [], []
        span = range(int(occupied[0]), int(occupied[-1]) + 1)
        shares = counts[span.start : span.stop] / counts.sum()
        return [i + _SMALLEST_EXPONENT for i in span], [float(share) for share in shares]

    def domain(self, scale_exponent: int) -> tuple[int, int]:
        """Returns the exponents between which the zones and the bars at this scale show."""
        exponents, _ = self.bars()
        low, _, high = self.borders()
        margin = max(8, (high - low) / 8)
        ends = [e + scale_exponent for e in exponents] or [math.floor(low)]
        return math.floor(min(low - margin, ends[0] - 2)), math.ceil(max(high + margin, ends[-1] + 3))

    def overflows(self, scale_exponent: int) -> bool:
        return self._largest is not None and scale_exponent > self._largest

    def fractions(self, scale_exponent: int) -> Fractions:
        return self.stats.histogram.fractions(self.fmt, scale_exponent)

    def zone_shares(self, scale_exponent: int) -> tuple[str, str, str, str]:
        """Returns the share of values in each zone, as text."""
        if not self.stats.histogram.non_zero:
            return "–", "–", "–", "–"
        found = self.fractions(scale_exponent)
        normal = max(0.0, 1 - found.underflow - found.subnormal - found.overflow)
        normal = 0.0 if normal < 1e-12 else normal
        too_large = "at least one" if self._unseen_overflow(scale_exponent) else _share(found.overflow)
        return _share(found.underflow), _share(found.subnormal), _share(normal), too_large

    def sentence(self, scale_exponent: int) -> str:
        scale = f"At scale 2^{scale_exponent}"
        if not self.stats.histogram.non_zero:
            return f"{scale}: {self._nothing_to_count()}"
        found = self.fractions(scale_exponent)
        window = f"usable window {self.window}" if self.window.usable else "no usable window"
        return (
            f"{scale}, {self._measured(found.underflow, found.underflow_error)} of the non-zero {self.noun} "
            f"become zero in {self.fmt}, {self._measured(found.subnormal, found.subnormal_error)} are subnormal, "
            f"{self._overflow(scale_exponent, found)}; {window}."
            f"{self._sampled()}{self._non_finite()}"
        )

    def _unseen_overflow(self, scale_exponent: int) -> bool:
        return self.overflows(scale_exponent) and not self.fractions(scale_exponent).overflow

    def _overflow(self, scale_exponent: int, found: Fractions) -> str:
        if self._unseen_overflow(scale_exponent):
            return "at least one overflows"
        return f"{self._measured(found.overflow, found.overflow_error)} overflow"

    def _measured(self, fraction: float, standard_error: float) -> str:
        error = 100 * standard_error
        if not error or fraction < 1e-4:
            return _share(fraction)
        return f"{_share(fraction)} ± {max(error, 0.01):.{2 if error < 0.1 else 1}f} %"

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


def _zone(index: int, left: float, right: float, top: float) -> go.Scatter:
    color = ZONE_COLORS[index]
    return go.Scatter(
        x=[left, left, right, right],
        y=[0, top, top, 0],
        mode="none",
        fill="toself",
        fillcolor="rgba(0,0,0,0)",
        fillpattern={"shape": ZONE_PATTERNS[index], "fgcolor": color, "fgopacity": 0.35, "size": 9, "solidity": 0.1},
        hoverinfo="skip",
        name=ZONE_NAMES[index],
    )


def _name_places(edges: Sequence[float]) -> list[float]:
    """Returns where the zones' names stand: in the middle, or pushed to the side where a zone is narrow."""
    room = 0.13 * (edges[-1] - edges[0])
    places = [(left + right) / 2 for left, right in pairwise(edges)]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + room)
    places[-1] = min(places[-1], edges[-1] - room / 3)
    for i in range(len(places) - 2, -1, -1):
        places[i] = min(places[i], places[i + 1] - room)
    return places


def _where(stats: TensorStats) -> str:
    return "all layers" if stats.layer == "all" else f"layer {plain(stats.layer)}" if stats.layer else "the model"


def _share(fraction: float) -> str:
    """Returns a fraction as a percentage that never rounds something to nothing, nor nearly all to all."""
    if fraction in (0, 1):
        return "all" if fraction else "none"
    percent = 100 * fraction
    if percent < 0.01:
        return "less than 0.01 %"
    if percent > 99.99:
        return "more than 99.99 %"
    return f"{percent:.{2 if percent < 0.1 or percent > 99.9 else 1}f} %"


def _number(value: float) -> str:
    if value < 1e6:
        return f"{value:g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}×10{_superscript(int(exponent))}"


def _power(exponent: int) -> str:
    return f"2{_superscript(exponent)}"


def _superscript(number: int) -> str:
    return str(number).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _axis_ticks(low: int, high: int) -> list[tuple[int, str]]:
    """Returns at most 13 whole exponents at an even distance, with their labels."""
    step = next(step for step in (2, 4, 8, 16, 32, 64) if (high - low) / step <= 12)
    return [(e, _power(e)) for e in range(-(-low // step) * step, high + 1, step)]


def _share_ticks(top: float) -> list[tuple[float, str]]:
    """Returns two to five round shares up to `top`, with their labels."""
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if top / step < 5)
    return [(i * step, f"{100 * i * step:.0f} %") for i in range(math.floor(top / step + 1e-9) + 1)]
