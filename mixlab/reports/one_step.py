"""A stage of a dissected training step as a page: where in the step, the code, the words, the tensors, their sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from mixlab.experiments import Card, Stage
from mixlab.formats import Format
from mixlab.reports.colours import BLUE, GREY, ORANGE, PURPLE, SERIES, VERMILLION

_WIDTH, _TOP, _ROW, _BOTTOM = 720, 42, 30, 42  # in units of the picture, which the page scales
_LOW, _HIGH = -44, 24  # exponents of the axis; what is smaller or larger is drawn at its ends
_ZONES = (("becomes zero", VERMILLION), ("subnormal", ORANGE), ("normal", BLUE), ("overflow", PURPLE))
_TEXT = "var(--jp-ui-font-color1, currentColor)"


def stage_page(stages: Sequence[Stage], index: int, fmt: Format) -> str:
    """Returns one stage as HTML: the eight stages with this one marked, its code and words, and its tensors.

    Args:
        stages: As `dissect` returns them.
        index: Which one.
        fmt: Whose zones stand behind the numbers: the one that matrix products are computed in.
    """
    stage = stages[index]
    return (
        f"{_track(stages, index)}"
        f'<div role="status" aria-live="polite" style="line-height: 1.6; margin: 0.6em 0">'
        f"<code>{escape(stage.code)}</code><br>{escape(stage.words)}</div>"
        f"{_table(stage.cards)}{magnitudes_svg(stage.cards, fmt)}"
    )


def stage_line(stages: Sequence[Stage], index: int) -> str:
    """Returns a stage in one line of words, e.g. "stage 5 of 8, unscale: Divided by 65536, ..."."""
    return f"stage {index + 1} of {len(stages)}, {stages[index].name}: {stages[index].words}"


def magnitudes_svg(cards: Sequence[Card], fmt: Format) -> str:
    """Returns where the followed values lie on the range of a format, one row a tensor, as SVG."""
    bottom = _TOP + _ROW * len(cards)
    borders = [math.log2(x) for x in (fmt.smallest_subnormal / 2, fmt.smallest_normal, fmt.max)]
    edges = [_LOW, *(min(max(border, _LOW), _HIGH) for border in borders), _HIGH]
    parts = [_zone(i, _x(edges[i]), _x(edges[i + 1]), bottom) for i in range(4)]
    parts += [_dot(card, _TOP + _ROW * (row + 0.5), SERIES[row % len(SERIES)]) for row, card in enumerate(cards)]
    for exponent in range(-40, _HIGH, 8):
        parts.append(_text(_x(exponent), bottom + 16, f'2<tspan dy="-5" font-size="9">{exponent}</tspan>'))
    parts.append(_text(_WIDTH / 2, bottom + 36, f"magnitude, on the range of {fmt}"))
    words = "; ".join(f"{card.name}: {_number(card.value)}" for card in cards)
    return (
        f'<svg role="img" aria-label="{escape(words)}" viewBox="0 0 {_WIDTH} {bottom + _BOTTOM}" '
        'style="display: block; width: 100%; max-width: 900px; font-family: var(--jp-ui-font-family, sans-serif)">'
        f"{''.join(parts)}</svg>"
    )


def _track(stages: Sequence[Stage], index: int) -> str:
    """The eight stages as an ordered list; done ones are ticked, the present one is filled."""
    chips = []
    for number, stage in enumerate(stages):
        here, done = number == index, number < index
        look = f"background: {BLUE}; color: white; font-weight: 600" if here else f"border: 1px solid {GREY}"
        mark = "✓ " if done else f"{number + 1} "
        current = ' aria-current="step"' if here else ""
        chips.append(
            f'<li{current} style="padding: 0.15em 0.7em; border-radius: 1em; {look}">{mark}{escape(stage.name)}</li>'
        )
    style = "display: flex; flex-wrap: wrap; gap: 0.4em; list-style: none; padding: 0; margin: 0"
    return f'<ol style="{style}">{"".join(chips)}</ol>'


def _table(cards: Sequence[Card]) -> str:
    padded = 'style="padding: 0.15em 0.9em 0.15em 0; text-align: left"'
    columns = ("tensor", "format", "this element", "largest", "zeros", "inf or NaN")
    head = "".join(f"<th {padded}>{name}</th>" for name in columns)
    rows = (
        (
            f'<span style="color: {SERIES[row % len(SERIES)]}" aria-hidden="true">●</span> {escape(card.name)}',
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


def _dot(card: Card, y: float, colour: str) -> str:
    value = abs(card.value)
    line = f'<path d="M{_x(_LOW):.1f} {y:.1f}H{_x(_HIGH):.1f}" stroke="{GREY}" stroke-opacity="0.35"/>'
    if math.isnan(value):
        return line + _text(_WIDTH - 30, y + 4, "NaN")
    exponent = math.log2(value) if 0 < value < math.inf else -math.inf if value == 0 else math.inf
    x = _x(min(max(exponent, _LOW + 1), _HIGH - 1))
    outside = not _LOW < exponent < _HIGH
    fill = "none" if outside else colour
    words = {0.0: "0", math.inf: "inf"}.get(value, card.format)
    side = "start" if x < _WIDTH - 90 else "end"
    label = (
        f'<text x="{x + (11 if side == "start" else -11):.1f}" y="{y + 4:.1f}" text-anchor="{side}" font-size="12" '
        f'fill="{_TEXT}">{escape(card.name)}: {words}</text>'
    )
    return f'{line}<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{fill}" stroke="{colour}" stroke-width="2"/>{label}'


def _zone(i: int, left: float, right: float, bottom: float) -> str:
    name, colour = _ZONES[i]
    if right - left < 1:
        return ""
    tint = (
        f'<rect x="{left:.1f}" y="{_TOP}" width="{right - left:.1f}" height="{bottom - _TOP}" fill="{colour}" '
        f'fill-opacity="0.12"/><path d="M{left:.1f} {_TOP}V{bottom}" stroke="{GREY}"/>'
    )
    return tint + _text((left + right) / 2, _TOP - 8 - 15 * (i % 2), name)


def _x(exponent: float) -> float:
    return (exponent - _LOW) / (_HIGH - _LOW) * _WIDTH


def _text(x: float, y: float, words: str) -> str:
    x = min(max(x, 40), _WIDTH - 40)
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle" font-size="12" fill="{_TEXT}">{words}</text>'


def _number(value: float) -> str:
    return "NaN" if math.isnan(value) else f"{value:.6g}"
