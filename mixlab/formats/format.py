"""Number formats as frozen data: `Format`, the formats in common use, and the torch dtypes that store them.

Nothing here touches a tensor; `mixlab.round_to` does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, get_args

from mixlab.arguments import require_whole
from mixlab.formats.encoding import Encoding, Specials
from mixlab.powers import power

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Format(Encoding):
    """A binary floating-point format: a sign bit, `exponent_bits`, `mantissa_bits`, and a rule for special values.

    A normal value is (-1)^sign * (1 + mantissa_field / 2^mantissa_bits) * 2^(exponent_field - bias); exponent field 0
    holds zero and the subnormals. The limits are named as in `numpy.finfo`. Formats are equal if they encode the same
    values in the same way; the name does not count.

    Args:
        name: What the format is called, e.g. "fp16".
        exponent_bits: Width of the exponent field, 2 to 8.
        mantissa_bits: Stored mantissa bits, without the implicit leading one, 1 to 23. (The one exception is fp64, with
            11 and 52 bits.)
        specials: Which codes are special:
            "ieee": the highest exponent is reserved for inf and NaN (IEEE 754-2019);
            "fn": no inf, and only the all-ones code is NaN (Micikevicius et al., FP8 Formats for Deep Learning, 2022,
                section 3);
            "fnuz": no inf; the code of negative zero is NaN instead; the default bias is one higher (Noune et al.,
                8-bit Numerical Formats for Deep Neural Networks, 2022);
            "finite": none (OCP Microscaling Formats, 2023, section 5.3.2);
            "scale": no sign, no zero, no mantissa, and the all-ones code is NaN (the same, section 5.4.1).
        bias: Exponent bias; None for the usual one, 2^(exponent_bits - 1) - 1.
        subnormals: False for a format in which exponent field 0 means zero, whatever the mantissa.

    Raises:
        ValueError: If a width is out of range, `specials` is unknown, or float32 cannot hold the values.

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
            require_whole("Format: exponent_bits", self.exponent_bits, 2, 8)
            require_whole("Format: mantissa_bits", self.mantissa_bits, low, high)
        if self.bias is None:
            object.__setattr__(self, "bias", (1 << (self.exponent_bits - 1)) - (self.specials != "fnuz"))
        if type(self.subnormals) is not bool:
            raise ValueError(f"Format: subnormals must be True or False, got {self.subnormals!r}")
        require_whole("Format: bias", self.bias, -127, 1023)
        if widths != (11, 52) and (self.max_exponent > 127 or self.min_exponent - self.mantissa_bits < -149):
            raise ValueError(
                f"Format: {self.specials} with {self.exponent_bits} exponent bits and bias {self.bias} reaches from "
                f"{power(self.min_exponent - self.mantissa_bits)} to {power(self.max_exponent)}, beyond float32 "
                f"({power(-149)} to {power(127)}); use fewer exponent bits, or another bias"
            )

    @classmethod
    def parse(cls, text: str) -> Format:
        """Returns the format called `text`.

        Args:
            text: A name in `FORMATS`, or "eXmY" with X from 2 to 8 and Y from 1 to 23. "eXmY" alone is IEEE-like. "b"
                and a number set its bias, "fn" or "fnuz" its special values, as in "e4m3b11fnuz".

        Raises:
            ValueError: If `text` is none of these.

        >>> Format.parse("e5m10").max, Format.parse("e5m10") == FP16
        (65504.0, True)
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
        """Returns the format itself, or the one with this name.

        Args:
            fmt: A format, or text for `parse`.

        Raises:
            TypeError: If it is neither.
            ValueError: If no format has this name.
        """
        if isinstance(fmt, cls):
            return fmt
        if not isinstance(fmt, str):
            raise TypeError(f"a format must be a Format or its name, such as 'fp16', got {fmt!r:.60}")
        return cls.parse(fmt)

    def __str__(self) -> str:
        return self.name

    @property
    def dtype(self) -> torch.dtype | None:
        """The torch dtype that stores exactly this format, or None."""
        import torch  # only here: formats themselves need not wait for it

        name = _DTYPES.get(self)
        return None if name is None else getattr(torch, name)


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

# Named as in torch.
_DTYPES: dict[Format, str] = {
    FP64: "float64",
    FP32: "float32",
    FP16: "float16",
    BF16: "bfloat16",
    E5M2: "float8_e5m2",
    E5M2FNUZ: "float8_e5m2fnuz",
    E4M3FN: "float8_e4m3fn",
    E4M3FNUZ: "float8_e4m3fnuz",
    E8M0FNU: "float8_e8m0fnu",
}


def dtype_name(dtype: torch.dtype) -> str:
    """Returns the name of the format that a torch dtype stores, such as "bf16", or else torch's name for the dtype.

    Args:
        dtype: Any torch dtype.
    """
    name = str(dtype).removeprefix("torch.")
    return next((fmt.name for fmt, own in _DTYPES.items() if own == name), name)
