"""The slow and obvious oracle of dot products: one product at a time, in exact rational arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from mixlab.formats import FP32, Format


def exponent_of(value: Fraction, fmt: Format) -> int:
    if not value:
        return fmt.min_exponent
    exponent = abs(value.numerator).bit_length() - value.denominator.bit_length()
    exponent -= Fraction(2) ** exponent > abs(value)
    return max(exponent, fmt.min_exponent)


def round_exact(value: Fraction, fmt: Format, *, cut: bool = False) -> float:
    """Rounds to nearest, ties to even, or cuts; beyond max it is inf, or max where the format has no inf or cuts."""
    gap = Fraction(2) ** (exponent_of(value, fmt) - fmt.mantissa_bits)
    below = abs(value) // gap
    rest = abs(value) / gap - below
    up = not cut and (rest > Fraction(1, 2) or (rest == Fraction(1, 2) and below % 2 == 1))
    size = (below + up) * gap
    if size > Fraction(fmt.max):
        return math.copysign(math.inf if fmt.has_inf and not cut else fmt.max, value)
    return math.copysign(float(size), value)


def chain(terms: Sequence[Fraction], fmt: Format) -> float:
    """Adds terms one after the other, rounding after each."""
    total = 0.0
    for term in terms:
        total = round_exact(Fraction(total) + term, fmt) if math.isfinite(total) else total
    return total


def tree(terms: Sequence[float], fmt: Format) -> float:
    """Adds neighbours, then their sums; an odd last one waits."""
    while len(terms) > 1:
        pairs = [round_exact(Fraction(terms[i]) + Fraction(terms[i + 1]), fmt) for i in range(0, len(terms) - 1, 2)]
        terms = [*pairs, *terms[len(pairs) * 2 :]]
    return terms[0]


def tensor_core_dot(x: Sequence[float], y: Sequence[float], operands: Format, group: int, fraction_bits: int) -> float:
    """Adds groups of products to a running sum: aligned to the largest exponent, cut, added, cut to fp32."""
    total = 0.0
    for start in range(0, len(x), group):
        terms = [(Fraction(total), exponent_of(Fraction(total), FP32))]
        for a, b in zip(x[start : start + group], y[start : start + group], strict=True):
            exponents = (exponent_of(Fraction(each), operands) for each in (a, b))
            terms.append((Fraction(a) * Fraction(b), sum(exponents)))
        alive = [(value, exponent) for value, exponent in terms if value]
        if not alive:
            continue
        last = Fraction(2) ** (max(exponent for _, exponent in alive) - fraction_bits)
        total = round_exact(sum(math.trunc(value / last) * last for value, _ in alive), FP32, cut=True)
    return total
