"""How one number becomes a value of a format, step by step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import torch

from mixlab.formats.choices import Overflow
from mixlab.formats.encoding import Code, as_float
from mixlab.formats.format import Format
from mixlab.formats.rounding import round_to
from mixlab.powers import power, superscript

Outcome = Literal["exact", "rounded", "underflow", "overflow", "nan"]


@dataclass(frozen=True)
class Explanation:
    """One rounding to nearest, ties to even, step by step. `str()` gives it in words.

    Attributes:
        value: The number before rounding, as a float64.
        format: The format it was rounded to.
        result: The code it became; None for NaN in a format without NaN.
        outcome: "exact" (a value of the format), "rounded", "underflow" (became zero), "overflow" (beyond the format's
            largest value), or "nan".
        exponent: The value's magnitude lies in [2^exponent, 2^(exponent + 1)); None for zero, inf and NaN.
        gap: The distance between the format's values there; NaN for inf and NaN.
        below: The format's next value below; the value itself if exact.
        above: The format's next value above; the value itself if exact.
        tie: Whether the value lies halfway between them, so that the even one was taken.
        relative_error: |result - value| / |value|; 0 for zero, NaN for inf and NaN.
    """

    value: float
    format: Format
    result: Code | None
    outcome: Outcome
    exponent: int | None
    gap: float
    below: float
    above: float
    tie: bool
    relative_error: float

    def __str__(self) -> str:
        return "\n".join(_sentences(self))


def explain(value: float, fmt: Format | str, *, overflow: Overflow) -> Explanation:
    """Explains, step by step, how `value` is rounded to `fmt`, to nearest, ties to even.

    Args:
        value: Any number, inf and NaN included.
        fmt: The format, or its name.
        overflow: As in `round_to`; `fmt.usual_overflow` is what PyTorch's casts to most formats do.

    Raises:
        TypeError: If `value` is not a number, or `fmt` is not a format.
        ValueError: If `fmt` is a scale, or lacks what `overflow` asks for.

    >>> print(explain(957, "e4m3b4", overflow="saturate"))
    957 in e4m3b4 (1 sign, 4 exponent, 3 mantissa bits, bias 4):
    1. Binade: 2⁹ <= 957 < 2¹⁰, where neighbours are 2⁹⁻³ = 64 apart.
    2. Neighbours: 896 and 960.
    3. Nearest: 957 is 3 from 960 and 61 from 896, so it becomes 960.
    4. Stored: 0 1101 111, that is 1.875 × 2⁹. Relative error 0.31 %.
    """
    fmt = Format.of(fmt)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"explain: value must be a number, got {value!r}")
    value = as_float(value, "explain")
    rounded = float(round_to(torch.tensor(value, dtype=torch.float64), fmt, overflow=overflow))
    representable = not math.isnan(rounded) or fmt.has_nan
    return Explanation(
        value=value,
        format=fmt,
        result=fmt.decode(fmt.encode(rounded)) if representable else None,
        outcome=_outcome(value, rounded, fmt),
        exponent=math.frexp(value)[1] - 1 if value and math.isfinite(value) else None,
        gap=fmt.ulp(value),
        below=rounded if rounded == value else fmt.next_down(value),
        above=rounded if rounded == value else fmt.next_up(value),
        tie=_is_tie(value, fmt),
        relative_error=_relative_error(value, rounded),
    )


def _outcome(value: float, rounded: float, fmt: Format) -> Outcome:
    if math.isnan(value):
        return "nan"
    if rounded == value:
        return "exact"
    if abs(value) >= fmt.overflow_threshold:
        return "overflow"
    return "rounded" if rounded else "underflow"


def _is_tie(value: float, fmt: Format) -> bool:
    below, above = fmt.next_down(value), fmt.next_up(value)
    if not all(map(math.isfinite, (value, below, above))) or fmt.ulp(value) == 0:
        return False
    inside = (Fraction(value) / Fraction(fmt.ulp(value))).denominator != 1
    return inside and Fraction(value) - Fraction(below) == Fraction(above) - Fraction(value)


def _relative_error(value: float, rounded: float) -> float:
    if not math.isfinite(value):
        return math.nan
    return abs(rounded - value) / abs(value) if value else 0.0


def _sentences(e: Explanation) -> list[str]:
    fmt = e.format
    title = (
        f"{_text(e.value)} in {fmt} (1 sign, {fmt.exponent_bits} exponent, {fmt.mantissa_bits} mantissa bits, "
        f"bias {fmt.bias}):"
    )
    steps = [*_binade(e), *_choice(e), _stored(e)]
    return [title, *(f"{number}. {step}" for number, step in enumerate(steps, 1))]


def _binade(e: Explanation) -> list[str]:
    if e.exponent is None:
        return []
    fmt, size = e.format, _text(abs(e.value))
    binade = f"{power(e.exponent)} <= {size} < {power(e.exponent + 1)}"
    if e.exponent > fmt.max_exponent:
        return [f"Binade: {binade}. The format ends in the binade of {power(fmt.max_exponent)}."]
    if e.exponent >= fmt.min_exponent:
        gap = f"{power(e.exponent)}{superscript(-fmt.mantissa_bits)}"
        return [f"Binade: {binade}, where neighbours are {gap} = {_text(e.gap)} apart."]
    small = f"Binade: {binade}, below the smallest normal value {power(fmt.min_exponent)}"
    if not fmt.has_subnormals:
        return [f"{small}. The format has no subnormals: the only value below is 0."]
    return [f"{small}. Subnormal values are all {_text(e.gap)} = {power(fmt.min_exponent - fmt.mantissa_bits)} apart."]


def _choice(e: Explanation) -> list[str]:
    fmt, value = e.format, _text(e.value)
    if e.outcome == "nan":
        return ["NaN stays NaN." if fmt.has_nan else f"{fmt} has no code for NaN; a tensor keeps NaN anyway."]
    if e.outcome == "exact" and math.copysign(1, e.value) != math.copysign(1, e.below):
        return [f"{fmt} has no negative zero: {value} becomes 0."]
    if e.outcome == "exact":
        return [f"{value} is a value of {fmt}: nothing is lost."]
    assert e.result is not None
    result = _text(e.result.value)
    if e.outcome == "overflow":
        limit = fmt.overflow_threshold
        where = f"from {_text(limit)} on" if fmt.max + fmt.ulp(fmt.max) / 2 == limit else f"above {limit:.6g}"
        return [f"Overflow: the largest value is {_text(fmt.max)}; {where}, all values overflow. It becomes {result}."]
    below, above = _text(e.below), _text(e.above)
    if abs(e.value) > fmt.max:
        return [f"Neighbours: {_text(fmt.max)} is the largest value; the next would round up from "
                f"{_text(fmt.overflow_threshold)} on.", f"Nearest: it becomes {result}."]  # fmt: skip
    neighbours = f"Neighbours: {below} and {above}."
    if e.tie:
        nearest = f"Tie: {value} lies in the middle, so it becomes the one with the even last bit, {result}."
    else:
        near, far = sorted((e.below, e.above), key=lambda v: abs(Fraction(v) - Fraction(e.value)))
        near_by, far_by = (_text(float(abs(Fraction(v) - Fraction(e.value)))) for v in (near, far))
        nearest = (
            f"Nearest: {value} is {near_by} from {_text(near)} and {far_by} from {_text(far)}, so it becomes {result}."
        )
    if e.outcome == "underflow":
        nearest += f" Underflow: values up to half the smallest, {_text(fmt.smallest_subnormal / 2)}, become zero."
    return [neighbours, nearest]


def _stored(e: Explanation) -> str:
    if e.result is None:
        return "Stored: nothing, there is no such code."
    fmt, code = e.format, e.result
    fields = f"{code.sign} {code.exponent_field:0{fmt.exponent_bits}b} {code.mantissa_field:0{fmt.mantissa_bits}b}"
    meaning = {
        "zero": "zero",
        "inf": "infinity",
        "nan": "NaN",
        "subnormal": f"{_text(code.mantissa_field * fmt.eps)} × {power(fmt.min_exponent)}, a subnormal",
        "normal": f"{_text(1 + code.mantissa_field * fmt.eps)} × {power(code.exponent_field - fmt.bias)}",
    }[code.kind]
    minus = "-" if code.sign and code.kind not in ("nan",) else ""
    error = f" Relative error {_percent(e.relative_error)}." if e.relative_error > 0 and code.kind != "inf" else ""
    return f"Stored: {fields}, that is {minus}{meaning}.{error}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %" if fraction >= 0.1 else f"{100 * fraction:.2g} %"


def _text(value: float) -> str:
    """Writes a number briefly, and whole numbers in full."""
    if value == 0:
        return "-0" if math.copysign(1, value) < 0 else "0"
    if math.isfinite(value) and value == int(value) and abs(value) < 1e15:
        return str(int(value))
    return f"{value:.10g}"
