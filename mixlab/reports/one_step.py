"""One stage of a dissected training step as a page: its place, its code, its words, its tensors and their sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from mixlab.experiments import Card, Stage
from mixlab.formats import Format
from mixlab.reports.colours import GREY, SERIES
from mixlab.reports.zones import TEXT, WIDTH, ZonePicture, text, zone_borders

_TOP, _ROW = 42, 30  # of the rows, and the height of each, in units of the picture
_LOW, _HIGH = -44, 24  # exponents of the axis; smaller and larger values are drawn at its ends


def stage_page(stages: Sequence[Stage], index: int, fmt: Format | str) -> str:
    """Returns one stage as HTML: its code and words, and its tensors.

    Args:
        stages: From `dissect`.
        index: The stage's place, from 0.
        fmt: The format whose zones are drawn behind the numbers: the one that matrix products are computed in.
    """
    stage = stages[index]
    return (
        f'<div role="status" aria-live="polite" style="line-height: 1.6; margin: 0.6em 0">'
        f"<code>{escape(stage.code)}</code><br>{escape(stage.words)}</div>"
        f"{_table(stage.cards)}{values_svg(stage.cards, fmt)}"
    )


def stage_line(stages: Sequence[Stage], index: int) -> str:
    """Returns a stage in one line, e.g. "stage 5 of 8, unscale: Divided by 65536, ...".

    Args:
        stages: From `dissect`.
        index: The stage's place, from 0.
    """
    return f"stage {index + 1} of {len(stages)}, {stages[index].name}: {stages[index].words}"


def values_svg(cards: Sequence[Card], fmt: Format | str) -> str:
    """Draws where the followed values lie on the range of a format, one row per tensor, as SVG.

    Args:
        cards: The cards of a stage.
        fmt: The format whose zones are shown.
    """
    fmt = Format.of(fmt)
    picture = ZonePicture(zone_borders(fmt), _LOW, _HIGH, _TOP, _TOP + _ROW * len(cards))
    dots = [_dot(picture, card, _TOP + _ROW * (row + 0.5), SERIES[row % len(SERIES)]) for row, card in enumerate(cards)]
    words = "; ".join(f"{card.name}: {_number(card.value)}" for card in cards)
    return picture.svg(dots, ticks=range(-40, _HIGH, 8), title=f"magnitude, on the range of {fmt}", words=words)


def _table(cards: Sequence[Card]) -> str:
    padded = 'style="padding: 0.15em 0.9em 0.15em 0; text-align: left"'
    columns = ("tensor", "format", "this element", "largest", "zeros", "inf or NaN")
    head = "".join(f"<th {padded}>{name}</th>" for name in columns)
    rows = (
        (
            f"{_key(SERIES[row % len(SERIES)])} {escape(card.name)}",
            card.format,
            _number(card.value),
            _number(card.amax),
            f"{card.zeros:,} of {card.numel:,}",
            f"{card.non_finite:,}",
        )
        for row, card in enumerate(cards)
    )
    body = "".join("<tr>" + "".join(f"<td {padded}>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<table style="margin: 0.4em 0"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _key(colour: str) -> str:
    """Returns the dot that stands for a tensor beside its name."""
    dot = f'<circle cx="5" cy="5" r="4" fill="{colour}"/>'
    return f'<svg width="10" height="10" viewBox="0 0 10 10" aria-hidden="true">{dot}</svg>'


def _dot(picture: ZonePicture, card: Card, y: float, colour: str) -> str:
    value = abs(card.value)
    line = f'<path d="M0 {y:.1f}H{WIDTH}" stroke="{GREY}" stroke-opacity="0.35"/>'
    if math.isnan(value):
        return line + text(WIDTH - 30, y + 4, "NaN")
    exponent = math.log2(value) if 0 < value < math.inf else -math.inf if value == 0 else math.inf
    x = picture.x(min(max(exponent, _LOW + 1), _HIGH - 1))
    outside = not _LOW < exponent < _HIGH
    fill = "none" if outside else colour
    words = {0.0: "0", math.inf: "inf"}.get(value, card.format)
    side = "start" if x < WIDTH - 90 else "end"
    label = (
        f'<text x="{x + (11 if side == "start" else -11):.1f}" y="{y + 4:.1f}" text-anchor="{side}" font-size="12" '
        f'fill="{TEXT}">{escape(card.name)}: {words}</text>'
    )
    return f'{line}<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{fill}" stroke="{TEXT}" stroke-width="1.5"/>{label}'


def _number(value: float) -> str:
    return "NaN" if math.isnan(value) else f"{value:.6g}"
