"""Number formats as frozen data: the bits of a format, its special values, and what follows from them.

Nothing here touches a tensor; `mixlab.formats.rounding` does.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

Specials = Literal["ieee", "fn", "fnuz", "finite", "scale"]
Kind = Literal["zero", "subnormal", "normal", "inf", "nan"]


@dataclass(frozen=True)
class Code:
    """What one bit pattern of a format means.

    Attributes:
        bits: The pattern itself, as a whole number.
        sign: 0 or 1; 0 for unsigned formats.
        exponent_field, mantissa_field: The other two fields, as stored.
        value: The number; NaN for NaN.
        kind: Its class.
    """

    bits: int
    sign: int
    exponent_field: int
    mantissa_field: int
    value: float
    kind: Kind


@dataclass(frozen=True)
class Format:
    """A binary floating-point format: a sign bit, `exponent_bits`, `mantissa_bits`, and a rule for special values.

    A normal value is (-1)^sign * (1 + mantissa_field / 2^mantissa_bits) * 2^(exponent_field - bias); exponent field 0
    holds zero and the subnormals. The limits carry the names of `numpy.finfo`.

    Args:
        name: What the format is called, e.g. "fp16".
        exponent_bits: Width of the exponent field, 2 to 8.
        mantissa_bits: Stored mantissa bits, without the implicit leading one, 1 to 23. (fp64 is 11 and 52.)
        specials: Which codes are no numbers:
            "ieee": the highest exponent is kept for inf and NaN (IEEE 754-2019, section 3.4);
            "fn": no inf, and only the all-ones code is NaN (Micikevicius et al., FP8 Formats for Deep Learning, 2022,
                section 3);
            "fnuz": no inf, no negative zero, and its code is NaN; the default bias is one higher (Noune et al., 8-bit
                Numerical Formats for Deep Neural Networks, 2022, section 3);
            "finite": none (OCP Microscaling Formats, 2023, sections 5.3.2 and 5.3.3);
            "scale": no sign, no zero, no mantissa, and the all-ones code is NaN (the same, section 5.4.1).
        bias: Of the exponent; None for the usual one, 2^(exponent_bits - 1) - 1.
        subnormals: False for a format in which exponent field 0 means zero, whatever the mantissa.

    Raises:
        ValueError: A width out of range, unknown specials, or values that float32 does not hold.

    >>> FP16.max, FP16.smallest_normal, FP16.smallest_subnormal
    (65504.0, 6.103515625e-05, 5.960464477539063e-08)
    >>> FP16.decode(FP16.encode(-1.5))
    Code(bits=48640, sign=1, exponent_field=15, mantissa_field=512, value=-1.5, kind='normal')
    """

    name: str = field(compare=False)
    exponent_bits: int
    mantissa_bits: int
    specials: Specials = "ieee"
    bias: int = field(default=None, kw_only=True)  # type: ignore[assignment]  # None until __post_init__
    subnormals: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        if self.specials not in get_args(Specials):
            raise ValueError(f"Format: specials must be one of {', '.join(get_args(Specials))}, got {self.specials!r}")
        widths = (self.exponent_bits, self.mantissa_bits)
        if widths != (11, 52):
            low, high = (0, 0) if self.specials == "scale" else (1, 23)
            _require_whole("exponent_bits", self.exponent_bits, 2, 8)
            _require_whole("mantissa_bits", self.mantissa_bits, low, high)
        if self.bias is None:
            object.__setattr__(self, "bias", (1 << (self.exponent_bits - 1)) - (self.specials != "fnuz"))
        if type(self.subnormals) is not bool:
            raise ValueError(f"Format: subnormals must be True or False, got {self.subnormals!r}")
        _require_whole("bias", self.bias, -127, 1023)
        if widths != (11, 52) and (self.max_exponent > 127 or self.min_exponent - self.mantissa_bits < -149):
            raise ValueError(
                f"Format: {self.specials} with {self.exponent_bits} exponent bits and bias {self.bias} reaches from "
                f"2^{self.min_exponent - self.mantissa_bits} to 2^{self.max_exponent}, beyond float32 (2^-149 to "
                "2^127); use fewer exponent bits, or another bias"
            )

    @classmethod
    def parse(cls, text: str) -> Format:
        """Returns the format called `text`: a name of `FORMATS`, or any "eXmY" (X 2 to 8, Y 1 to 23).

        "eXmY" alone is IEEE-like; "b" and a number set its bias, "fn" or "fnuz" its special values: "e4m3b11fnuz".

        >>> Format.parse("e5m10").max
        65504.0

        Raises:
            ValueError: `text` is none of these.
        """
        if text in FORMATS:
            return FORMATS[text]
        match = re.fullmatch(r"e(\d+)m(\d+)(?:b(-?\d+))?(fnuz|fn)?", text) if isinstance(text, str) else None
        if match is None:
            raise ValueError(f"unknown format {text!r}: use one of {', '.join(FORMATS)}, or eXmY such as e5m10")
        bias = None if match[3] is None else int(match[3])
        return cls(text, int(match[1]), int(match[2]), match[4] or "ieee", bias=bias)  # type: ignore[arg-type]

    @classmethod
    def of(cls, fmt: Format | str) -> Format:
        """Returns a format that is given as such or by its name, as `parse` reads it.

        Raises:
            TypeError, ValueError: It is something else, or no format's name.
        """
        if isinstance(fmt, cls):
            return fmt
        if not isinstance(fmt, str):
            raise TypeError(f"a format must be a Format or its name, such as 'fp16', got {fmt!r:.60}")
        return cls.parse(fmt)

    def __str__(self) -> str:
        return self.name

    @property
    def bits(self) -> int:
        """Width of a code in bits; 19 for tf32, which is kept in 32."""
        return self.signed + self.exponent_bits + self.mantissa_bits

    @property
    def signed(self) -> bool:
        return self.specials != "scale"

    @property
    def has_inf(self) -> bool:
        return self.specials == "ieee"

    @property
    def has_nan(self) -> bool:
        return self.specials != "finite"

    @property
    def usual_overflow(self) -> Literal["inf", "saturate"]:
        """What a cast in hardware most often makes of a value out of range: inf, or without infinities `max`."""
        return "inf" if self.has_inf else "saturate"

    @property
    def has_negative_zero(self) -> bool:
        return self.specials in ("ieee", "fn", "finite")

    @property
    def has_subnormals(self) -> bool:
        return self.subnormals and self.specials != "scale"

    @property
    def max_exponent(self) -> int:
        """Exponent of the largest finite value: it lies in [2^max_exponent, 2^(max_exponent + 1))."""
        return (self._max_magnitude >> self.mantissa_bits) - self.bias

    @property
    def min_exponent(self) -> int:
        """Exponent of the smallest normal value, 2^min_exponent."""
        return -self.bias if self.specials == "scale" else 1 - self.bias

    @property
    def max(self) -> float:
        return self._value(self._max_magnitude)

    @property
    def overflow_threshold(self) -> float:
        """The smallest float64 magnitude that rounds, to nearest even, beyond `max`; inf for fp64.

        >>> FP16.overflow_threshold, E4M3FN.overflow_threshold  # a tie goes to the even 448
        (65520.0, 464.00000000000006)
        """
        tie = self.max + self.ulp(self.max) / 2
        return tie if self._max_magnitude % 2 else math.nextafter(tie, math.inf)

    @property
    def smallest_normal(self) -> float:
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
    def dtype(self) -> torch.dtype | None:
        """The torch dtype that stores exactly this format, or None."""
        return _DTYPES.get(self)

    def decode(self, code: int) -> Code:
        """Returns the meaning of a code, 0 to 2^bits - 1.

        Raises:
            ValueError: `code` is out of range, or no whole number.
        """
        if isinstance(code, bool) or not isinstance(code, int | np.integer) or not 0 <= code < 1 << self.bits:
            raise ValueError(f"{self}: a code must be a whole number from 0 to {(1 << self.bits) - 1}, got {code!r}")
        code = int(code)
        sign = code >> (self.bits - 1) if self.signed else 0
        magnitude = code & ((1 << (self.exponent_bits + self.mantissa_bits)) - 1)
        exponent_field, mantissa_field = divmod(magnitude, 1 << self.mantissa_bits)
        kind: Kind
        if magnitude > self._max_magnitude or (self.specials == "fnuz" and sign and not magnitude):
            kind = "inf" if self.has_inf and not mantissa_field else "nan"
            value = math.inf if kind == "inf" else math.nan
        else:
            value = self._value(magnitude)
            kind = "zero" if value == 0 else "normal" if value >= self.smallest_normal else "subnormal"
        return Code(code, sign, exponent_field, mantissa_field, -value if sign else value, kind)

    def encode(self, value: float) -> int:
        """Returns the code of a value of this format; for NaN that of the quiet positive one.

        Raises:
            ValueError: The format does not have this value. `mixlab.round_to` rounds to one that it has.
        """
        value = as_float(value, str(self))
        if math.isnan(value) and self.has_nan:
            if self.specials == "fnuz":
                return 1 << (self.bits - 1)
            all_ones = (1 << (self.exponent_bits + self.mantissa_bits)) - 1
            return self._max_magnitude + 1 + (1 << (self.mantissa_bits - 1)) if self.has_inf else all_ones
        negative = math.copysign(1.0, value) < 0
        impossible = negative and not (self.signed if value else self.has_negative_zero)
        magnitude = None if impossible or math.isnan(value) else self._floor(abs(value))
        if self.has_inf and math.isinf(value):
            magnitude = self._max_magnitude + 1
        elif magnitude is None or self._value(magnitude) != abs(value):
            raise ValueError(
                f"{self} has no value {value!r}: its neighbours are {self.next_down(value)!r} and "
                f"{self.next_up(value)!r}; round_to rounds to one of them"
            )
        return magnitude | (negative << (self.bits - 1))

    def values(self) -> NDArray[np.float64]:
        """Returns the values of all codes, in order of the codes, (2^bits,); NaN for codes that are NaN.

        Raises:
            ValueError: The format has more than 16 bits.
        """
        if self.bits > 16:
            raise ValueError(f"{self}: values() lists formats of up to 16 bits, and this one has {self.bits}")
        codes = np.arange(1 << (self.exponent_bits + self.mantissa_bits))
        exponents, mantissas = np.divmod(codes, 1 << self.mantissa_bits)
        if self.specials == "scale":
            positive = np.ldexp(1.0, codes - self.bias)
        else:
            significands = mantissas * self.eps * np.where(exponents, 1.0, float(self.subnormals)) + (exponents > 0)
            positive = np.ldexp(significands, np.maximum(exponents, 1) - self.bias)
        positive[self._max_magnitude + 1 :] = math.nan
        if self.has_inf:
            positive[self._max_magnitude + 1] = math.inf
        if not self.signed:
            return positive
        negative = -positive
        if self.specials == "fnuz":
            negative[0] = math.nan
        return np.concatenate([positive, negative])

    def ulp(self, x: float) -> float:
        """Returns the unit in the last place at x: the gap between the format's values in the binade of x.

        Below the smallest normal value that is the gap there, and beyond `max` the gap that would follow. NaN for inf
        and NaN.
        """
        magnitude = abs(as_float(x, str(self)))
        if not math.isfinite(magnitude):
            return math.nan
        if magnitude < self.smallest_normal:
            return self.smallest_subnormal
        return math.ldexp(1.0, math.frexp(magnitude)[1] - 1 - self.mantissa_bits)

    def next_up(self, x: float) -> float:
        """Returns the smallest value of the format above x; beyond the last one inf, or NaN without infinities."""
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
        """Returns the largest value of the format below x; beyond the last one -inf, or NaN without infinities."""
        x = as_float(x, str(self))
        if math.isnan(x):
            return x
        if x > 0:
            return self._below(x)
        return -self._above(-x) if self.signed else math.nan

    @property
    def _max_magnitude(self) -> int:
        """The code of the largest finite value."""
        codes = 1 << (self.exponent_bits + self.mantissa_bits)
        lost = {"ieee": 1 << self.mantissa_bits, "fn": 1, "fnuz": 0, "finite": 0, "scale": 1}[self.specials]
        return codes - lost - 1

    def _value(self, magnitude: int) -> float:
        """The value of a finite code without its sign."""
        exponent, mantissa = divmod(magnitude, 1 << self.mantissa_bits)
        if exponent == 0 and self.specials != "scale":
            return math.ldexp(mantissa, self.min_exponent - self.mantissa_bits) if self.subnormals else 0.0
        return math.ldexp((1 << self.mantissa_bits) + mantissa, exponent - self.bias - self.mantissa_bits)

    def _floor(self, magnitude: float) -> int | None:
        """The code of the largest value that is not above the magnitude, if there is one."""
        if magnitude >= self.max:
            return self._max_magnitude
        if magnitude < self.smallest_subnormal:
            return None if self.specials == "scale" else 0
        exponent = max(math.frexp(magnitude)[1] - 1, self.min_exponent)
        units = math.floor(math.ldexp(magnitude, self.mantissa_bits - exponent))
        return units + (exponent - self.min_exponent << self.mantissa_bits) - (self.specials == "scale")

    def _above(self, magnitude: float) -> float:
        code = self._floor(magnitude)
        if code is None:
            return self.smallest_normal
        if code == self._max_magnitude:
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

    Raises:
        ValueError: A whole number beyond float64; `owner` begins the message.
    """
    try:
        return float(value)
    except OverflowError:
        digits = math.floor(math.log10(abs(value))) + 1
        raise ValueError(f"{owner}: value must fit float64, got a whole number of {digits} digits") from None


def _require_whole(what: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"Format: {what} must be a whole number from {low} to {high}, got {value!r}")


FP64 = Format("fp64", 11, 52)
FP32 = Format("fp32", 8, 23)
TF32 = Format("tf32", 8, 10)
FP16 = Format("fp16", 5, 10)
BF16 = Format("bf16", 8, 7)
E5M2 = Format("e5m2", 5, 2)
E5M2FNUZ = Format("e5m2fnuz", 5, 2, "fnuz")
E4M3 = Format("e4m3", 4, 3)
E4M3FN = Format("e4m3fn", 4, 3, "fn")
E4M3FNUZ = Format("e4m3fnuz", 4, 3, "fnuz")
E4M3B11FNUZ = Format("e4m3b11fnuz", 4, 3, "fnuz", bias=11)
E3M4 = Format("e3m4", 3, 4)
E3M2FN = Format("e3m2fn", 3, 2, "finite")
E2M3FN = Format("e2m3fn", 2, 3, "finite")
E2M1FN = Format("e2m1fn", 2, 1, "finite")
E8M0FNU = Format("e8m0fnu", 8, 0, "scale")

FORMATS: dict[str, Format] = {
    fmt.name: fmt
    for fmt in (
        *(FP64, FP32, TF32, FP16, BF16),
        *(E5M2, E5M2FNUZ, E4M3, E4M3FN, E4M3FNUZ, E4M3B11FNUZ, E3M4),
        *(E3M2FN, E2M3FN, E2M1FN, E8M0FNU),
    )
}

_DTYPES: dict[Format, torch.dtype] = {
    FP64: torch.float64,
    FP32: torch.float32,
    FP16: torch.float16,
    BF16: torch.bfloat16,
    E5M2: torch.float8_e5m2,
    E5M2FNUZ: torch.float8_e5m2fnuz,
    E4M3FN: torch.float8_e4m3fn,
    E4M3FNUZ: torch.float8_e4m3fnuz,
    E8M0FNU: torch.float8_e8m0fnu,
}


def dtype_name(dtype: torch.dtype) -> str:
    """Returns the field's name of a torch dtype, such as "bf16"; that of torch where there is no such format."""
    return next((fmt.name for fmt, own in _DTYPES.items() if own is dtype), str(dtype).removeprefix("torch."))
