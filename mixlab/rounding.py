"""A tensor rounded to a number format, bit for bit as a cast in hardware rounds it."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from mixlab.formats import Format

Overflow = Literal["inf", "nan", "saturate"]


def round_to(x: Tensor, fmt: Format | str, *, overflow: Overflow) -> Tensor:
    """Rounds every element of `x` to the nearest value of `fmt`, ties to even (IEEE 754-2019, section 4.3.1).

    Subnormals are kept, and so are the sign of zero and NaN. A value is out of range when it rounds beyond `fmt.max`
    with an unbounded exponent; infinity always is. The function works under `torch.compile` too.

    Args:
        x: Any shape, any device; float64, float32, or a narrower floating dtype.
        fmt: The format, or its name.
        overflow: What a value out of range becomes: "inf" (formats that have it), "nan", or "saturate" (±`fmt.max`).

    Returns:
        A new tensor of values of `fmt`, of `x`'s shape: float64 for float64 input, float32 for all others.

    Raises:
        TypeError: `x` is not a floating tensor, or `fmt` no format.
        ValueError: `x` needs a gradient, the format or overflow rule is unknown, or `fmt` has no infinity for "inf".

    >>> round_to(torch.tensor([957.0, 1e-8, 7e4]), "fp16", overflow="inf")
    tensor([957.,   0.,  inf])
    >>> round_to(torch.tensor(957.0), "e4m3fn", overflow="saturate")
    tensor(448.)
    """
    fmt = Format.parse(fmt) if isinstance(fmt, str) else fmt
    if not isinstance(fmt, Format):
        raise TypeError(f"round_to: fmt must be a Format or its name, got {fmt!r}")
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"round_to: x must be a floating-point tensor, got {getattr(x, 'dtype', type(x).__name__)}")
    if x.requires_grad and torch.is_grad_enabled():
        raise ValueError("round_to: rounding has no useful gradient; pass x.detach(), or call it under torch.no_grad()")
    if overflow not in get_args(Overflow):
        raise ValueError(f"round_to: overflow must be one of {', '.join(get_args(Overflow))}, got {overflow!r}")
    if overflow == "inf" and not fmt.has_inf:
        raise ValueError(f"round_to: {fmt} has no infinity; use overflow='saturate' or overflow='nan'")

    x = x if x.dtype is torch.float64 else x.to(torch.float32)
    magnitude = x.abs()
    exponent_is_native = x.dtype is torch.float32 and fmt.exponent_bits == 8
    rounded = _round_mantissa(magnitude, fmt) if exponent_is_native else _round_by_addition(magnitude, fmt)
    beyond = {"inf": torch.inf, "nan": torch.nan, "saturate": fmt.max}[overflow]
    return torch.where(rounded > fmt.max, beyond, rounded).copysign(x)


def _round_by_addition(a: Tensor, fmt: Format) -> Tensor:
    """Rounds a >= 0 as (a + c) - c, with c so large that the sum's last bit is fmt's last bit.

    For a in [2^E, 2^(E+1)) that is c = 2^(E + carrier's mantissa bits - fmt.mantissa_bits). E stops at min_exponent,
    which yields subnormals, and at max_exponent + 1, where everything overflows anyway and c must not.
    """
    view, mantissa_bits, bias = (torch.int64, 52, 1023) if a.dtype is torch.float64 else (torch.int32, 23, 127)
    extra = mantissa_bits - fmt.mantissa_bits
    field = a.view(view) >> mantissa_bits
    field = field.clamp(fmt.min_exponent + bias, fmt.max_exponent + 1 + bias) + extra
    c = (field << mantissa_bits).view(a.dtype)
    if extra == 0:  # every normal value is one of fmt's already, and the sum would lose its last bit
        return torch.where(a < fmt.smallest_normal, (a + c) - c, a)
    return (a + c) - c


def _round_mantissa(a: Tensor, fmt: Format) -> Tensor:
    """Rounds float32 a >= 0 to a format with float32's exponents: adds half a last bit to the integer view, and cuts.

    A carry out of the mantissa raises the exponent, and out of the highest exponent gives infinity, as it should.
    """
    cut = 23 - fmt.mantissa_bits
    if cut == 0:
        return a
    bits = a.view(torch.int32)
    last_bit = (bits >> cut) & 1
    bits = (bits + ((1 << (cut - 1)) - 1) + last_bit) & -(1 << cut)
    return torch.where(a.isnan(), a, bits.view(torch.float32))
