"""Numbers in words: shares, long numbers made short."""

from __future__ import annotations

import math

from mixlab.powers import superscript


def finite_log2(value: float) -> float | None:
    """Returns log2 of a positive finite number; None for any other, which no chart can show."""
    return math.log2(value) if 0 < value < math.inf else None


def short_number(value: float) -> str:
    """Returns a number in a few characters.

    >>> short_number(65504.0), short_number(3.4e38)
    ('65504', '3.4×10³⁸')
    """
    if value < 1e6:
        return f"{value:g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}×10{superscript(int(exponent))}"


def share_words(fraction: float) -> str:
    """Returns a fraction as a percentage that never rounds something to nothing, nor nearly all to all.

    >>> share_words(0.0), share_words(1e-6), share_words(0.5), share_words(0.999999)
    ('none', 'less than 0.01 %', '50.0 %', 'more than 99.99 %')
    """
    if fraction in (0, 1):
        return "all" if fraction else "none"
    percent = 100 * fraction
    if percent < 0.01:
        return "less than 0.01 %"
    if percent > 99.99:
        return "more than 99.99 %"
    return f"{percent:.{2 if percent < 0.1 or percent > 99.9 else 1}f} %"
