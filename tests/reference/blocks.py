"""The slow and obvious oracle of MX formats: one block at a time, in exact rational arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from mixlab.formats import BlockFormat, ScaleRule
from tests.reference.rounding import round_reference


def floor_log2(x: Fraction) -> int:
    exponent = 0
    while Fraction(2) ** (exponent + 1) <= x:
        exponent += 1
    while Fraction(2) ** exponent > x:
        exponent -= 1
    return exponent


def ceil_log2(x: Fraction) -> int:
    exponent = floor_log2(x)
    return exponent if Fraction(2) ** exponent == x else exponent + 1


def quantize_block(block: Sequence[float], fmt: BlockFormat, rule: ScaleRule) -> tuple[float, list[float]]:
    """Returns the scale and the elements of one block of finite numbers."""
    amax = max(Fraction(abs(x)) for x in block)
    element = fmt.element
    emax = floor_log2(Fraction(element.max))
    if amax == 0:
        exponent = -127
    elif rule == "floor":
        exponent = floor_log2(amax) - emax
    elif rule == "ceil":
        exponent = ceil_log2(amax) - emax
    elif rule == "rceil":
        exponent = ceil_log2(amax / Fraction(element.max))
    else:  # even: half of the last mantissa bit is added, then what follows the power of two is cut
        exponent = floor_log2(amax + Fraction(2) ** (floor_log2(amax) - element.mantissa_bits - 1)) - emax
    exponent = min(max(exponent, -127), 127)
    scale = Fraction(2) ** exponent
    elements = [round_reference(float(Fraction(x) / scale), element) for x in block]
    return float(scale), [math.copysign(min(abs(x), element.max), x) for x in elements]
