"""Powers in one form wherever a reader meets them: 2⁻²⁴, with the exponent raised; and read in all usual ones."""

from __future__ import annotations

import math
import re

_DIGITS, _RAISED_DIGITS = "-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"
_RAISED = str.maketrans(_DIGITS, _RAISED_DIGITS)
_LOWERED = str.maketrans(_RAISED_DIGITS, _DIGITS)
_POWER = re.compile(rf"([-+]?)\s*(\d+)\s*(?:(?:\^|\*\*)\s*([-+]?\d{{1,4}})|(⁻?[{_RAISED_DIGITS[1:]}]{{1,4}}))")


def superscript(exponent: int) -> str:
    """Returns a whole number raised.

    >>> superscript(-24)
    '⁻²⁴'

    Args:
        exponent: Any whole number.
    """
    return str(exponent).translate(_RAISED)


def power(exponent: float) -> str:
    """Returns a power of two as text.

    No character raises a decimal point, so a power that is not whole becomes a number from 1 to 2 times one that is,
    with three digits.

    >>> power(-24), power(14.5), power(-math.inf), power(math.inf)
    ('2⁻²⁴', '1.41 × 2¹⁴', '0', 'inf')

    Args:
        exponent: k of 2^k.

    Raises:
        ValueError: If the exponent is NaN.
    """
    if math.isnan(exponent):
        raise ValueError("power: the exponent must be a number, got NaN")
    if math.isinf(exponent):
        return "0" if exponent < 0 else "inf"
    whole = math.floor(exponent)
    factor = f"{2.0 ** (exponent - whole):.3g}"
    if factor == "2":
        factor, whole = "1", whole + 1
    return f"2{superscript(whole)}" if factor == "1" else f"{factor} × 2{superscript(whole)}"


def power_of_two(value: float) -> str:
    """Returns a power of two as one, and any other number as it is.

    >>> power_of_two(1024.0), power_of_two(1000.0), power_of_two(0.0)
    ('2¹⁰', '1000', '0')

    Args:
        value: Any number.
    """
    mantissa, exponent = math.frexp(value)
    return power(exponent - 1) if mantissa == 0.5 else f"{value:g}"


def typed(value: float) -> str:
    """Returns a number as `read_number` reads it back; a power of two as one where that is shorter.

    >>> typed(1024.0), typed(2.0**30), typed(0.5), typed(2.0**-24), typed(1e-5)
    ('1024', '2^30', '0.5', '2^-24', '1e-05')

    Args:
        value: Any number.
    """
    digits = str(int(value)) if math.isfinite(value) and value.is_integer() and abs(value) < 2**53 else str(value)
    mantissa, exponent = math.frexp(value)
    return min((digits, f"2^{exponent - 1}") if mantissa == 0.5 else (digits,), key=len)


def read_number(text: str) -> float:
    """Reads a number as people type it, or copy it from a page.

    >>> [read_number(text) for text in ("12", "1e-8", "2^-3", "-2**-3", "2⁻³", "inf")]
    [12.0, 1e-08, 0.125, -0.125, 0.125, inf]

    Args:
        text: A number, or a whole number to a whole power, of up to four digits; spaces around it do not count.

    Raises:
        ValueError: If it is neither, or the power is larger than float64 holds.
    """
    plain = text.strip().replace("\N{MINUS SIGN}", "-")
    found = _POWER.fullmatch(plain)
    try:
        if found is None:
            return float(plain)
        sign, base, exponent, raised = found.groups()
        value = float(base) ** int(exponent or raised.translate(_LOWERED))
        return -value if sign == "-" else value
    except (ValueError, ArithmeticError):
        raise ValueError(f"{text!r} is not a number such as 12, 1e-8 or 2^-24 that float64 holds") from None
