"""The rules for rounding a tensor to a format, and the format's limits as the kernels need them."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch

from mixlab.formats.choices import Overflow, Rounding
from mixlab.formats.format import Format


class Plan(NamedTuple):
    """Which kernel path rounds to a format. Each plan is compiled once, whatever the limits.

    Attributes:
        carrier: The dtype to compute in.
        rounding: The rounding mode.
        native: Whether the format has float32's exponents, so that its values are truncated float32 bits.
        whole: Whether it has all mantissa bits of the carrier, so that only subnormals are rounded.
        flush: Whether it lacks subnormals.
        positive_zero: Whether it lacks a negative zero.
    """

    carrier: torch.dtype
    rounding: Rounding
    native: bool
    whole: bool
    flush: bool
    positive_zero: bool


class Limits(NamedTuple):
    """A format's limits in the carrier's dtype; 0-dimensional tensors for compiled kernels.

    Attributes:
        low: The carrier's bits of the smallest normal value.
        high: The carrier's bits of the first power of two beyond `max`.
        cut: How many of the carrier's mantissa bits the format lacks, shifted to the exponent field.
        step: The lowest bit of the carrier that the format keeps.
        share: The carrier's last bit as a fraction of a step, in units of 2^-24.
        smallest_normal: The format's smallest normal value.
        max: The format's largest value.
        beyond: What a value out of range becomes.
    """

    low: Any
    high: Any
    cut: Any
    step: Any
    share: Any
    smallest_normal: Any
    max: Any
    beyond: Any


# Of each carrier: the integer dtype of its width, its mantissa bits, and its exponent bias.
CARRIERS = {torch.float32: (torch.int32, 23, 127), torch.float64: (torch.int64, 52, 1023)}


def _is_native(fmt: Format) -> bool:
    return fmt.exponent_bits == 8 and fmt.bias == 127 and fmt.has_inf and fmt.subnormals


def _needs_float64(fmt: Format) -> bool:
    """Whether float32 holds the format's values, but not all intermediate results of rounding.

    These are the addend, which is larger than the values, and the gaps, which must not be subnormal in float32.
    """
    smallest_gap = fmt.min_exponent - fmt.mantissa_bits
    largest_gap = max(fmt.max_exponent + 1 - fmt.mantissa_bits, smallest_gap if fmt.subnormals else fmt.min_exponent)
    return not _is_native(fmt) and (largest_gap + 23 > 127 or smallest_gap < -126)


def plan_for(fmt: Format, rounding: Rounding, dtype: torch.dtype) -> Plan:
    """Returns how to round tensors of a dtype, float32 or float64, to a format."""
    carrier = torch.float64 if _needs_float64(fmt) else dtype
    _, mantissa_bits, _ = CARRIERS[carrier]
    return Plan(
        carrier,
        rounding,
        native=carrier is torch.float32 and _is_native(fmt),
        whole=fmt.mantissa_bits >= mantissa_bits,
        flush=not fmt.subnormals,
        positive_zero=not fmt.has_negative_zero,
    )


def limits_for(fmt: Format, carrier: torch.dtype, overflow: Overflow) -> Limits:
    """Returns the format's limits in a carrier, and what values out of range become."""
    _, mantissa_bits, bias = CARRIERS[carrier]
    return Limits(
        low=(fmt.min_exponent + bias) << mantissa_bits,
        high=(fmt.max_exponent + 1 + bias) << mantissa_bits,
        cut=(mantissa_bits - fmt.mantissa_bits) << mantissa_bits,
        step=1 << (mantissa_bits - fmt.mantissa_bits),
        share=(1 << 24) >> (mantissa_bits - fmt.mantissa_bits),
        smallest_normal=fmt.smallest_normal,
        max=fmt.max,
        beyond={"inf": torch.inf, "nan": torch.nan, "saturate": fmt.max}[overflow],
    )


@cache
def as_tensors(limits: Limits, carrier: torch.dtype, device: torch.device) -> Limits:
    """Returns the limits as tensors, so that one compiled kernel serves every format."""
    view, _, _ = CARRIERS[carrier]
    dtypes = [view if isinstance(value, int) else carrier for value in limits]
    return Limits(*(torch.tensor(v, dtype=dtype, device=device) for v, dtype in zip(limits, dtypes, strict=True)))
