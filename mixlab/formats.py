"""Number formats as frozen data: the bits of a format, its special values, and the limits that follow from them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

import torch

Specials = Literal["ieee", "fn"]


@dataclass(frozen=True)
class Format:
    """A binary floating-point format: a sign bit, `exponent_bits`, `mantissa_bits`, and a rule for special values.

    The limits carry the names of `numpy.finfo`. Subnormals are always there.

    Args:
        name: What the format is called, e.g. "fp16".
        exponent_bits: Width of the exponent field, 2 to 8.
        mantissa_bits: Stored mantissa bits, without the implicit leading one, 1 to 23.
        specials: "ieee": the highest exponent is kept for inf and NaN (IEEE 754-2019, section 3.4). "fn": finite, no
            inf, and only the all-ones code is NaN (Micikevicius et al., FP8 Formats for Deep Learning, 2022, section
            3).

    Raises:
        ValueError: A width out of range, or unknown specials.

    >>> FP16.max, FP16.smallest_normal, FP16.smallest_subnormal
    (65504.0, 6.103515625e-05, 5.960464477539063e-08)
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    specials: Specials = "ieee"

    def __post_init__(self) -> None:
        for field, value, low, high in (
            ("exponent_bits", self.exponent_bits, 2, 8),
            ("mantissa_bits", self.mantissa_bits, 1, 23),
        ):
            if type(value) is not int or not low <= value <= high:
                raise ValueError(f"Format: {field} must be a whole number from {low} to {high}, got {value!r}")
        if self.specials not in get_args(Specials):
            raise ValueError(f"Format: specials must be one of {', '.join(get_args(Specials))}, got {self.specials!r}")
        if self.specials == "fn" and self.exponent_bits == 8:
            raise ValueError(
                "Format: fn with 8 exponent bits reaches beyond float32; use at most 7 exponent bits, or ieee"
            )

    @classmethod
    def parse(cls, text: str) -> Format:
        """Returns the format called `text`: a name of `FORMATS`, or any IEEE-like "eXmY" (X 2 to 8, Y 1 to 23).

        >>> Format.parse("e5m10").max
        65504.0

        Raises:
            ValueError: `text` is neither.
        """
        if text in FORMATS:
            return FORMATS[text]
        match = re.fullmatch(r"e(\d+)m(\d+)", text) if isinstance(text, str) else None
        if match is None:
            raise ValueError(f"unknown format {text!r}: use one of {', '.join(FORMATS)}, or eXmY such as e5m10")
        return cls(text, int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return self.name

    @property
    def bits(self) -> int:
        """Width of a code in bits; 19 for tf32, which is kept in 32."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def bias(self) -> int:
        return (1 << (self.exponent_bits - 1)) - 1

    @property
    def max_exponent(self) -> int:
        """Exponent of the largest finite value: it lies in [2^max_exponent, 2^(max_exponent + 1))."""
        reserved = 1 if self.specials == "ieee" else 0
        return (1 << self.exponent_bits) - 1 - reserved - self.bias

    @property
    def min_exponent(self) -> int:
        """Exponent of the smallest normal value, 2^min_exponent."""
        return 1 - self.bias

    @property
    def max(self) -> float:
        codes_lost_to_nan = 1 if self.specials == "fn" else 0
        return float(2.0**self.max_exponent * (2 - (1 + codes_lost_to_nan) * self.eps))

    @property
    def smallest_normal(self) -> float:
        return float(2.0**self.min_exponent)

    @property
    def smallest_subnormal(self) -> float:
        return float(2.0 ** (self.min_exponent - self.mantissa_bits))

    @property
    def eps(self) -> float:
        """The gap between 1 and the next larger value."""
        return float(2.0**-self.mantissa_bits)

    @property
    def unit_roundoff(self) -> float:
        """The largest relative error of one rounding to nearest, eps / 2."""
        return self.eps / 2

    @property
    def has_inf(self) -> bool:
        return self.specials == "ieee"

    @property
    def dtype(self) -> torch.dtype | None:
        """The torch dtype that stores exactly this format, or None."""
        return _DTYPES.get(self.name)


FP32 = Format("fp32", 8, 23)
TF32 = Format("tf32", 8, 10)
FP16 = Format("fp16", 5, 10)
BF16 = Format("bf16", 8, 7)
E4M3FN = Format("e4m3fn", 4, 3, specials="fn")
E5M2 = Format("e5m2", 5, 2)

FORMATS: dict[str, Format] = {fmt.name: fmt for fmt in (FP32, TF32, FP16, BF16, E4M3FN, E5M2)}

_DTYPES = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "e4m3fn": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
}
