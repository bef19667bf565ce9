"""The arithmetic that rounds tensors, both eager and inside compiled kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from mixlab.formats.choices import Rounding
from mixlab.formats.rounding_rules import CARRIERS, Limits, Plan


def rounded_values(
    x: Tensor, plan: Plan, limits: Limits, random_bits: Tensor | None, out: Tensor | None = None
) -> Tensor:
    """Returns `x` rounded, in the plan's carrier.

    Args:
        x: Float32 or float64, of any shape.
        plan: The format's plan, for `x`'s dtype.
        limits: The format's limits, in the plan's carrier.
        random_bits: int32 of `x`'s shape for stochastic rounding, else None.
        out: The tensor to write to; None makes a new one.
    """
    x = x.to(plan.carrier)
    a = x.abs()
    beyond = limits.beyond
    if plan.rounding == "nearest_even":
        rounded = _nearest_by_cutting(a, plan, limits) if plan.native else _nearest_by_adding(a, plan, limits)
    elif plan.rounding == "stochastic" and plan.native:
        assert random_bits is not None
        rounded = _stochastic_by_cutting(a, limits, random_bits)
    else:
        below, above, part = _between_by_cutting(a, limits) if plan.native else _between_by_adding(a, plan, limits)
        away = _goes_away(x, part, plan.rounding, random_bits)
        rounded = torch.where(away, above, below)
        if plan.rounding in ("toward_zero", "toward_positive", "toward_negative"):
            largest = torch.as_tensor(limits.max, dtype=x.dtype)  # as a Python number, fp64's would not fit float32
            beyond = torch.where(_points_away(x, plan.rounding) | (a == torch.inf), beyond, largest)
    signed = torch.copysign(torch.where(rounded > limits.max, beyond, rounded), x, out=out)
    return signed.add_(0.0) if plan.positive_zero else signed


def _points_away(x: Tensor, rounding: Rounding) -> Tensor:
    """Returns where a directed rounding points away from zero."""
    if rounding == "toward_zero":
        return torch.zeros_like(x, dtype=torch.bool)
    return x > 0 if rounding == "toward_positive" else x < 0


def _goes_away(x: Tensor, part: Tensor, rounding: Rounding, random_bits: Tensor | None) -> Tensor:
    """Returns which elements round away from zero; `part` is how far each lies between its two neighbours."""
    if rounding == "nearest_away":
        return part >= 0.5
    if rounding == "stochastic":
        assert random_bits is not None
        return ((random_bits >> 8) & 0xFFFFFF).to(part.dtype) * 2.0**-24 < part
    return (part > 0) & _points_away(x, rounding)


def _nearest_by_adding(a: Tensor, plan: Plan, limits: Limits) -> Tensor:
    """Rounds a >= 0 as (a + c) - c, with c so large that the sum's last bit is the format's last bit."""
    c = _addend(a, plan, limits)
    if plan.whole:
        return torch.where(a < limits.smallest_normal, (a + c).sub_(c), a)
    return a.add_(c).sub_(c)  # in place, because allocating memory costs most


def _between_by_adding(a: Tensor, plan: Plan, limits: Limits) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the format's value at or below a >= 0, the next one above, and how far a lies between them, in [0, 1)."""
    _, mantissa_bits, _ = CARRIERS[a.dtype]
    c = _addend(a, plan, limits)
    nearest = (a + c).sub_(c)
    gap = c * 2.0**-mantissa_bits
    below = torch.where(nearest > a, nearest - gap, nearest)
    part = (a - below) / gap
    if plan.whole:
        rounds = a < limits.smallest_normal
        below, part = torch.where(rounds, below, a), torch.where(rounds, part, 0.0)
    return below, below + gap, part


def _addend(a: Tensor, plan: Plan, limits: Limits) -> Tensor:
    """Returns 2^(E + cut) for a in [2^E, 2^(E+1)).

    E is clamped: from below to the exponent of the smallest normal value, which yields subnormals; from above to one
    more than that of `max`, where every value overflows but the addend must not. In a format without subnormals, the
    gap below the smallest normal value is that value itself.
    """
    view, mantissa_bits, bias = CARRIERS[a.dtype]
    exponent = a.view(view) & ((2 * bias + 1) << mantissa_bits)
    if plan.flush:
        tiny = exponent < limits.low
        shifted = exponent.clamp_(limits.low, limits.high).add_(limits.cut)
        return torch.where(tiny, limits.low + (mantissa_bits << mantissa_bits), shifted).view(a.dtype)
    return exponent.clamp_(limits.low, limits.high).add_(limits.cut).view(a.dtype)


def _nearest_by_cutting(a: Tensor, plan: Plan, limits: Limits) -> Tensor:
    """Rounds float32 a >= 0 to a format with float32's exponents: adds half a last bit to the integer view, and cuts.

    A carry out of the mantissa raises the exponent, and out of the highest exponent gives infinity, as it should.
    """
    if plan.whole:
        return a
    if not torch.compiler.is_compiling() and limits.step == 1 << 16:
        return a.to(torch.bfloat16).to(torch.float32)  # the same in a third of the time; compiled, it would do nothing
    bits = a.view(torch.int32)
    odd = (bits & limits.step).clamp_(max=1)
    bits = odd.add_(bits).add_((limits.step >> 1) - 1).bitwise_and_(-limits.step)
    return torch.where(a == a, bits.view(torch.float32), a)  # unequal is NaN; isnan() would not be vectorised


def _stochastic_by_cutting(a: Tensor, limits: Limits, random_bits: Tensor) -> Tensor:
    """Rounds float32 a >= 0 as `_between_by_cutting` and `_goes_away` would, in integers alone."""
    bits = a.view(torch.int32)
    rest = bits & (limits.step - 1)
    away = ((random_bits >> 8) & 0xFFFFFF) < rest * limits.share
    return torch.where(a == a, (bits - rest + away.to(torch.int32) * limits.step).view(torch.float32), a)


def _between_by_cutting(a: Tensor, limits: Limits) -> tuple[Tensor, Tensor, Tensor]:
    """Returns what `_between_by_adding` does, for formats with float32's exponents."""
    bits = a.view(torch.int32)
    rest = bits & (limits.step - 1)
    below = torch.where(a == a, (bits - rest).view(torch.float32), a)
    return below, (bits - rest + limits.step).view(torch.float32), rest.to(torch.float32) / limits.step


def bf16_at_random(x: Tensor, random_bits: Tensor) -> Tensor:
    """Returns float32 values rounded stochastically to bfloat16, bit for bit as `round_to` with overflow="inf" does.

    The lower 16 bits carry over if they exceed 16 random bits. This takes one addition, eager or compiled.

    Args:
        x: Float32, of any shape; NaN stays NaN.
        random_bits: int32 of `x`'s shape, all 2^32 values equally likely.
    """
    carry = ((random_bits >> 16) ^ -1) & 0xFFFF
    return torch.where(x == x, ((x.view(torch.int32) + carry) & -0x10000).view(torch.float32), x)
