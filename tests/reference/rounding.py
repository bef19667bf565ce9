"""The slow and obvious oracle: rounding by exact rational arithmetic, one number at a time."""

from __future__ import annotations

import math
from fractions import Fraction

from mixlab.formats import Format, Rounding


def round_reference(x: float, fmt: Format, rounding: Rounding = "nearest_even") -> float:
    """Rounds x to a value of fmt as if it had no largest exponent; what rounds beyond max gives inf.

    Finite values that a directed rounding takes toward zero stop at max.
    """
    if math.isnan(x) or math.isinf(x):
        return x
    magnitude = Fraction(abs(x))
    exponent = fmt.min_exponent
    while magnitude >= Fraction(2) ** (exponent + 1):
        exponent += 1
    gap = Fraction(2) ** (exponent - fmt.mantissa_bits)
    if not fmt.subnormals and magnitude < Fraction(fmt.smallest_normal):
        gap = Fraction(fmt.smallest_normal)
    below = magnitude // gap
    rest = magnitude / gap - below
    toward_infinity = (rounding == "toward_positive" and x > 0) or (rounding == "toward_negative" and x < 0)
    up = {
        "nearest_even": rest > Fraction(1, 2) or (rest == Fraction(1, 2) and below % 2 == 1),
        "nearest_away": rest >= Fraction(1, 2),
        "toward_zero": False,
        "toward_positive": toward_infinity and rest > 0,
        "toward_negative": toward_infinity and rest > 0,
    }[rounding]
    rounded = (below + up) * gap
    if rounded > Fraction(fmt.max):
        toward_zero = rounding.startswith("toward") and not toward_infinity
        return math.copysign(fmt.max if toward_zero else math.inf, x)
    if not rounded and not fmt.has_negative_zero:
        return 0.0
    return math.copysign(float(rounded), x)
