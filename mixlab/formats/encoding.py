"""How a format encodes numbers in bits: its special values, its limits, and the neighbours of a number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Specials = Literal["ieee", "fn", "fnuz", "finite", "scale"]
Kind = Literal["zero", "subnormal", "normal", "inf", "nan"]


@dataclass(frozen=True)
class Code:
    """What one bit pattern of a format means.

    Attributes:
        bits: The pattern itself, as a whole number.
        sign: 0 or 1; 0 for unsigned formats.
        exponent_field: The exponent as stored, with the bias.
        mantissa_field: The mantissa as stored, without the implicit leading one.
        value: The number; NaN for NaN.
        kind: Its class: "zero", "subnormal", "normal", "inf" or "nan".
    """

    bits: int
    sign: int
    exponent_field: int
    mantissa_field: int
    value: float
    kind: Kind


class Encoding:
    """The codes of a format and their values. `Format` provides the fields."""

    exponent_bits: int
    mantissa_bits: int
    specials: Specials
    bias: int
    subnormals: bool

    @property
    def bits(self) -> int:
        """Width of a code in bits; 19 for tf32, which is stored in 32."""
        return self.signed + self.exponent_bits + self.mantissa_bits

    @property
    def signed(self) -> bool:
        """Whether codes have a sign bit."""
        return self.specials != "scale"

    @property
    def has_inf(self) -> bool:
        """Whether the format has infinities."""
        return self.specials == "ieee"

    @property
    def has_nan(self) -> bool:
        """Whether the format has a code for NaN."""
        return self.specials != "finite"

    @property
    def has_negative_zero(self) -> bool:
        """Whether zero has a sign."""
        return self.specials in ("ieee", "fn", "finite")

    @property
    def has_subnormals(self) -> bool:
        """Whether there are values between zero and the smallest normal one."""
        return self.subnormals and self.specials != "scale"

    @property
    def max_exponent(self) -> int:
        """Exponent of the largest finite value: it lies in [2^max_exponent, 2^(max_exponent + 1))."""
        return (self._max_code >> self.mantissa_bits) - self.bias

    @property
    def min_exponent(self) -> int:
        """Exponent of the smallest normal value, 2^min_exponent."""
        return -self.bias if self.specials == "scale" else 1 - self.bias

    @property
    def max(self) -> float:
        """The largest finite value."""
        return self._value(self._max_code)

    @property
    def smallest_normal(self) -> float:
        """The smallest positive value with the full precision of the mantissa."""
        return math.ldexp(1.0, self.min_exponent)

    @property
    def smallest_subnormal(self) -> float:
        """The smallest positive value; without subnormals, the smallest normal one."""
        return math.ldexp(1.0, self.min_exponent - self.mantissa_bits) if self.has_subnormals else self.smallest_normal

    @property
    def eps(self) -> float:
        """The gap between 1 and the next larger value."""
        return math.ldexp(1.0, -self.mantissa_bits)

    @property
    def unit_roundoff(self) -> float:
        """The largest relative error of one rounding to nearest, eps / 2."""
        return self.eps / 2

    @property
    def overflow_threshold(self) -> float:
        """The smallest float64 magnitude that rounds beyond `max`, to nearest even; inf for fp64.

        >>> from mixlab.formats import E4M3FN, FP16
        >>> FP16.overflow_threshold, E4M3FN.overflow_threshold  # a tie goes to the even 448
        (65520.0, 464.00000000000006)
        """
        tie = self.max + self.ulp(self.max) / 2
        return tie if self._max_code % 2 else math.nextafter(tie, math.inf)

    @property
    def usual_overflow(self) -> Literal["inf", "saturate"]:
        """What becomes of a value out of range where nothing else is said: "inf", or "saturate" without infinities.

        PyTorch's casts do the same, but for the fnuz formats, where they give NaN (torch 2.13). NVIDIA's conversions to
        e5m2 saturate, although it has infinities (CUDA Math API, `__nv_fp8_e5m2`).
        """
        return "inf" if self.has_inf else "saturate"

    def decode(self, code: int) -> Code:
        """Returns the meaning of a code.

        Args:
            code: From 0 to 2^bits - 1.

        Raises:
            ValueError: If `code` is out of range, or not a whole number.
        """
        if isinstance(code, bool) or not isinstance(code, Integral) or not 0 <= code < 1 << self.bits:
            raise ValueError(f"{self}: a code must be a whole number from 0 to {(1 << self.bits) - 1}, got {code!r}")
        code = int(code)
        sign = code >> (self.bits - 1) if self.signed else 0
        magnitude = code & ((1 << (self.exponent_bits + self.mantissa_bits)) - 1)
        exponent_field, mantissa_field = divmod(magnitude, 1 << self.mantissa_bits)
        kind: Kind
        if magnitude > self._max_code or (self.specials == "fnuz" and sign and not magnitude):
            kind = "inf" if self.has_inf and not mantissa_field else "nan"
            value = math.inf if kind == "inf" else math.nan
        else:
            value = self._value(magnitude)
            kind = "zero" if value == 0 else "normal" if value >= self.smallest_normal else "subnormal"
        return Code(code, sign, exponent_field, mantissa_field, -value if sign else value, kind)

    def encode(self, value: float) -> int:
        """Returns the code of a value of this format.

        Args:
            value: One of the format's values. NaN gives the code of the quiet positive NaN.

        Raises:
            ValueError: If the format does not have this value. `mixlab.round_to` rounds to one it has.
        """
        value = as_float(value, str(self))
        if math.isnan(value) and self.has_nan:
            if self.specials == "fnuz":
                return 1 << (self.bits - 1)
            all_ones = (1 << (self.exponent_bits + self.mantissa_bits)) - 1
            return self._max_code + 1 + (1 << (self.mantissa_bits - 1)) if self.has_inf else all_ones
        negative = math.copysign(1.0, value) < 0
        impossible = negative and not (self.signed if value else self.has_negative_zero)
        magnitude = None if impossible or math.isnan(value) else self._floor(abs(value))
        if self.has_inf and math.isinf(value):
            magnitude = self._max_code + 1
        elif magnitude is None or self._value(magnitude) != abs(value):
            raise ValueError(
                f"{self} has no value {value!r}: its neighbours are {self.next_down(value)!r} and "
                f"{self.next_up(value)!r}; round_to rounds to one of them"
            )
        return magnitude | (negative << (self.bits - 1))

    def values(self) -> NDArray[np.float64]:
        """Returns the value of every code, in code order, (2^bits,); NaN for codes that mean NaN.

        Raises:
            ValueError: If the format has more than 16 bits.
        """
        import numpy as np  # a tenth of a second that a command which lists formats does not need

        if self.bits > 16:
            raise ValueError(f"{self}: values() lists formats of up to 16 bits, and this one has {self.bits}")
        codes = np.arange(1 << (self.exponent_bits + self.mantissa_bits))
        exponents, mantissas = np.divmod(codes, 1 << self.mantissa_bits)
        if self.specials == "scale":
            positive = np.ldexp(1.0, codes - self.bias)
        else:
            significands = mantissas * self.eps * np.where(exponents, 1.0, float(self.subnormals)) + (exponents > 0)
            positive = np.ldexp(significands, np.maximum(exponents, 1) - self.bias)
        positive[self._max_code + 1 :] = math.nan
        if self.has_inf:
            positive[self._max_code + 1] = math.inf
        if not self.signed:
            return positive
        negative = -positive
        if self.specials == "fnuz":
            negative[0] = math.nan
        return np.concatenate([positive, negative])

    def ulp(self, x: float) -> float:
        """Returns the unit in the last place at x: the gap between the format's values in the binade of x.

        Below the smallest normal value it is the gap between subnormals; beyond `max`, the gap that would follow.

        Args:
            x: Any number; inf and NaN give NaN.
        """
        magnitude = abs(as_float(x, str(self)))
        if not math.isfinite(magnitude):
            return math.nan
        if magnitude < self.smallest_normal:
            return self.smallest_subnormal
        return math.ldexp(1.0, math.frexp(magnitude)[1] - 1 - self.mantissa_bits)

    def next_up(self, x: float) -> float:
        """Returns the smallest value of the format above x.

        Args:
            x: Any number. From the largest value up, the result is inf, or NaN in formats without infinities.
        """
        x = as_float(x, str(self))
        if math.isnan(x):
            return x
        if x >= 0:
            return self._above(x)
        if not self.signed:
            return self.smallest_normal
        below = self._below(-x)
        return -below if below or self.has_negative_zero else 0.0

    def next_down(self, x: float) -> float:
        """Returns the largest value of the format below x.

        Args:
            x: Any number. From the lowest value down, the result is -inf, or NaN in formats without infinities.
        """
        x = as_float(x, str(self))
        if math.isnan(x):
            return x
        if x > 0:
            return self._below(x)
        return -self._above(-x) if self.signed else math.nan

    @property
    def _max_code(self) -> int:
        """The code of the largest finite value."""
        codes = 1 << (self.exponent_bits + self.mantissa_bits)
        lost = {"ieee": 1 << self.mantissa_bits, "fn": 1, "fnuz": 0, "finite": 0, "scale": 1}[self.specials]
        return codes - lost - 1

    def _value(self, code: int) -> float:
        """Returns the value of a finite code without its sign."""
        exponent, mantissa = divmod(code, 1 << self.mantissa_bits)
        if exponent == 0 and self.specials != "scale":
            return math.ldexp(mantissa, self.min_exponent - self.mantissa_bits) if self.subnormals else 0.0
        return math.ldexp((1 << self.mantissa_bits) + mantissa, exponent - self.bias - self.mantissa_bits)

    def _floor(self, magnitude: float) -> int | None:
        """Returns the code of the largest value not above the magnitude; None below the smallest scale."""
        if magnitude >= self.max:
            return self._max_code
        if magnitude < self.smallest_subnormal:
            return None if self.specials == "scale" else 0
        exponent = max(math.frexp(magnitude)[1] - 1, self.min_exponent)
        units = math.floor(math.ldexp(magnitude, self.mantissa_bits - exponent))
        return units + (exponent - self.min_exponent << self.mantissa_bits) - (self.specials == "scale")

    def _above(self, magnitude: float) -> float:
        code = self._floor(magnitude)
        if code is None:
            return self.smallest_normal
        if code == self._max_code:
            return math.inf if self.has_inf else math.nan
        return self._value(code + 1) or self.smallest_normal  # without subnormals, zero has many codes

    def _below(self, magnitude: float) -> float:
        if magnitude == math.inf:
            return self.max
        code = self._floor(magnitude)
        if code is None:
            return math.nan
        value = self._value(code)
        if value < magnitude:
            return value
        return self._value(code - 1) if code else math.nan


def as_float(value: float, owner: str) -> float:
    """Returns a number as a float64.

    Args:
        value: The number.
        owner: Start of the message: the function or format.

    Raises:
        ValueError: If it is a whole number too large for float64.
    """
    try:
        return float(value)
    except OverflowError:
        digits = math.floor(math.log10(abs(value))) + 1
        raise ValueError(f"{owner}: value must fit float64, got a whole number of {digits} digits") from None
