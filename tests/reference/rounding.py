"""The slow and obvious oracle: rounding by exact rational arithmetic, one number at a time."""

from __future__ import annotations

import math
from fractions import Fraction

from mixlab.formats import Format


def round_nearest_even(x: float, fmt: Format) -> float:
    """Rounds x to the nearest value of fmt, ties to even, as if it had no largest exponent; beyond max gives inf."""
    if math.isnan(x) or math.isinf(x) or x == 0:
        return x
    magnitude = Fraction(abs(x))
    exponent = fmt.min_exponent
    while magnitude >= Fraction(2) ** (exponent + 1):
        exponent += 1
    last_bit = Fraction(2) ** (exponent - fmt.mantissa_bits)
    units = round(magnitude / last_bit)  # Python rounds a Fraction's ties to even
    rounded = units * last_bit
    return math.copysign(math.inf if rounded > Fraction(fmt.max) else float(rounded), x)
