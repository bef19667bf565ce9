"""A tensor rounded to a number format, bit for bit as a cast in hardware rounds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from mixlab.formats._compile import compiled_variant
from mixlab.formats.format import Format

Overflow = Literal["inf", "nan", "saturate"]
Rounding = Literal["nearest_even", "nearest_away", "toward_zero", "toward_positive", "toward_negative", "stochastic"]

_PIECE = 1 << 17  # elements rounded at a time on a CPU, so that what is computed on the way stays in the cache


def round_to(
    x: Tensor,
    fmt: Format | str,
    *,
    overflow: Overflow,
    rounding: Rounding = "nearest_even",
    random_bits: Tensor | None = None,
    generator: torch.Generator | None = None,
    out: Tensor | None = None,
    compiled: bool = False,
) -> Tensor:
    """Rounds every element of `x` to a value of `fmt` (IEEE 754-2019, section 4.3).

    Subnormals and NaN are kept, and so is the sign of zero in formats that have it. A value is out of range when it
    rounds beyond `fmt.max` with an unbounded exponent; infinity always is. Finite values beyond `fmt.max` that are
    rounded toward zero become ±`fmt.max` (section 7.4).

    Args:
        x: Any shape, strides and device; float64, float32, float16 or bfloat16.
        fmt: The format, or its name. (Not e8m0fnu, which is a scale: see `mixlab.formats.blocks`.)
        overflow: What a value out of range becomes: "inf" (formats that have it), "nan", or "saturate" (±`fmt.max`).
        rounding: "nearest_even" and "nearest_away" name what happens to ties. "stochastic" goes to either neighbour,
            with a probability that makes the result right on average (Croci et al., Stochastic rounding:
            implementation, error analysis and applications, 2022, section 2), in steps of 2^-24.
        random_bits: For "stochastic": int32 of `x`'s shape, any of the 2^32 equally likely; else they are drawn.
        generator: For "stochastic" without `random_bits`: what draws them, on `x`'s device.
        out: Where to write the result, of its shape and dtype; may be `x` itself.
        compiled: True runs one `torch.compile`d kernel that serves every format (on a CPU it needs a C++ compiler, and
            the first call of each rounding takes some ten seconds). The bits of "stochastic" are then hashed from the
            element's index and one number of the generator (Steele et al., Fast Splittable Pseudorandom Number
            Generators, 2014, section 3).

    Returns:
        A new tensor of values of `fmt`, of `x`'s shape: float64 for float64 input, float32 for all others; or `out`.

    Raises:
        TypeError: `x` is not a tensor of these dtypes, or `fmt` no format.
        ValueError: `x` needs a gradient, an argument is not allowed, or `fmt` lacks what `overflow` asks for.

    >>> round_to(torch.tensor([957.0, 1e-8, 7e4]), "fp16", overflow="inf")
    tensor([957.,   0.,  inf])
    >>> round_to(torch.tensor(957.0), "e4m3fn", overflow="saturate")
    tensor(448.)
    >>> round_to(torch.tensor([2.5, 3.5]), "e2m1fn", overflow="saturate", rounding="toward_zero")
    tensor([2., 3.])
    """
    x, fmt = checked(x, fmt, overflow=overflow, rounding=rounding, out=out)
    _require_random_bits(x, rounding, random_bits)
    plan = plan_for(fmt, rounding, x.dtype)
    limits = limits_for(fmt, plan.carrier, overflow)
    if compiled:
        return _run_compiled(x, plan, limits, random_bits, generator, out)
    if rounding == "stochastic" and random_bits is None:
        random_bits = draw_bits(x, generator)
    if torch.compiler.is_compiling():
        rounded = rounded_values(x, plan, limits, random_bits).to(x.dtype)
        return rounded if out is None else out.copy_(rounded)
    out = torch.empty_like(x) if out is None else out
    for piece, bits, target in _pieces(x, random_bits, out):
        if target.dtype is plan.carrier:
            rounded_values(piece, plan, limits, bits, out=target)
        else:
            target.copy_(rounded_values(piece, plan, limits, bits))
    return out


def checked(
    x: Tensor, fmt: Format | str, *, overflow: Overflow, rounding: Rounding, out: Tensor | None
) -> tuple[Tensor, Format]:
    """Returns `x` in the dtype to round in and the format; raises what `round_to` says."""
    fmt = Format.of(fmt)
    _require_input(x, fmt)
    _require_rules(fmt, overflow, rounding)
    x = x if x.dtype is torch.float64 else x.to(torch.float32)
    _require_out(x, out)
    return x, fmt


class Plan(NamedTuple):
    """What decides how a format's values are computed.

    Attributes:
        carrier: The dtype to compute in.
        rounding: The rule.
        native: The format has float32's exponents, so its values are float32's bits cut short.
        whole: It has all mantissa bits of the carrier, so only subnormals are rounded.
        flush: It has no subnormals.
        positive_zero: It has no negative zero.
    """

    carrier: torch.dtype
    rounding: Rounding
    native: bool
    whole: bool
    flush: bool
    positive_zero: bool


class Limits(NamedTuple):
    """A format's numbers, in the carrier; 0-dimensional tensors where a compiled kernel reads them.

    Attributes:
        low, high: The carrier's bits of the smallest normal value, and of the first power of two beyond `max`.
        cut: How many of the carrier's mantissa bits the format lacks, as a part of an exponent field.
        step: The lowest of the carrier's bits that the format keeps.
        share: How many 2^-24 of a step one of the carrier's last bits is.
        smallest_normal, max: As of the format.
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


_CARRIERS = {torch.float32: (torch.int32, 23, 127), torch.float64: (torch.int64, 52, 1023)}


def _is_native(fmt: Format) -> bool:
    return fmt.exponent_bits == 8 and fmt.bias == 127 and fmt.has_inf and fmt.subnormals


def _needs_float64(fmt: Format) -> bool:
    """Whether float32 holds the format's values, but not in full range what they are rounded with.

    That is the addend, which is larger than the values, and their gaps, which must not be subnormal in float32.
    """
    smallest_gap = fmt.min_exponent - fmt.mantissa_bits
    largest_gap = max(fmt.max_exponent + 1 - fmt.mantissa_bits, smallest_gap if fmt.subnormals else fmt.min_exponent)
    return not _is_native(fmt) and (largest_gap + 23 > 127 or smallest_gap < -126)


def plan_for(fmt: Format, rounding: Rounding, dtype: torch.dtype) -> Plan:
    """Returns how to round tensors of a dtype, float32 or float64, to a format."""
    carrier = torch.float64 if _needs_float64(fmt) else dtype
    _, mantissa_bits, _ = _CARRIERS[carrier]
    return Plan(
        carrier,
        rounding,
        native=carrier is torch.float32 and _is_native(fmt),
        whole=fmt.mantissa_bits >= mantissa_bits,
        flush=not fmt.subnormals,
        positive_zero=not fmt.has_negative_zero,
    )


def limits_for(fmt: Format, carrier: torch.dtype, overflow: Overflow) -> Limits:
    _, mantissa_bits, bias = _CARRIERS[carrier]
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


def rounded_values(
    x: Tensor, plan: Plan, limits: Limits, random_bits: Tensor | None, out: Tensor | None = None
) -> Tensor:
    """Returns `x` rounded, in the plan's carrier; what `round_to` and others put into loops and compiled kernels."""
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
            beyond = torch.where(_points_away(x, plan.rounding) | (a == torch.inf), beyond, limits.max)
    signed = torch.copysign(torch.where(rounded > limits.max, beyond, rounded), x, out=out)
    return signed.add_(0.0) if plan.positive_zero else signed


def _points_away(x: Tensor, rounding: Rounding) -> Tensor:
    """Returns where a directed rounding points away from zero."""
    if rounding == "toward_zero":
        return torch.zeros_like(x, dtype=torch.bool)
    return x > 0 if rounding == "toward_positive" else x < 0


def _goes_away(x: Tensor, part: Tensor, rounding: Rounding, random_bits: Tensor | None) -> Tensor:
    """Returns which elements, `part` of the way from one value of the format to the next, go on to the next."""
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
    return a.add_(c).sub_(c)  # in place: new memory is what costs


def _between_by_adding(a: Tensor, plan: Plan, limits: Limits) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the format's values at or below a >= 0 and next above, and how far a lies on the way, in [0, 1)."""
    _, mantissa_bits, _ = _CARRIERS[a.dtype]
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

    E stops at the smallest normal value's, which yields subnormals, and beyond `max`, where everything overflows anyway
    and the addend must not. Below the smallest normal value of a format without subnormals, that value is the gap.
    """
    view, mantissa_bits, bias = _CARRIERS[a.dtype]
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
    """Rounds as `_between_by_cutting` and `_goes_away` do, in integers."""
    bits = a.view(torch.int32)
    rest = bits & (limits.step - 1)
    away = ((random_bits >> 8) & 0xFFFFFF) < rest * limits.share
    return torch.where(a == a, (bits - rest + away.to(torch.int32) * limits.step).view(torch.float32), a)


def _between_by_cutting(a: Tensor, limits: Limits) -> tuple[Tensor, Tensor, Tensor]:
    bits = a.view(torch.int32)
    rest = bits & (limits.step - 1)
    below = torch.where(a == a, (bits - rest).view(torch.float32), a)
    return below, (bits - rest + limits.step).view(torch.float32), rest.to(torch.float32) / limits.step


def draw_bits(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Returns int32 of `x`'s shape and device, any of the 2^32 equally likely."""
    return torch.randint(-(2**31), 2**31, x.shape, dtype=torch.int32, device=x.device, generator=generator)


def _pieces(x: Tensor, bits: Tensor | None, out: Tensor) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
    """Yields parts of the three that belong together; on a CPU small ones, if the memory allows it."""
    if not (x.is_cpu and x.is_contiguous() and out.is_contiguous()):
        yield x, bits, out
        return
    flat_bits = None if bits is None else bits.reshape(-1)
    for start in range(0, x.numel(), _PIECE):
        piece = slice(start, start + _PIECE)
        yield x.view(-1)[piece], None if flat_bits is None else flat_bits[piece], out.view(-1)[piece]


def _run_compiled(
    x: Tensor,
    plan: Plan,
    limits: Limits,
    random_bits: Tensor | None,
    generator: torch.Generator | None,
    out: Tensor | None,
) -> Tensor:
    flat = x.reshape(-1)
    result = (
        torch.empty_like(x, memory_format=torch.contiguous_format) if out is None or not out.is_contiguous() else out
    )
    seed = None
    if plan.rounding == "stochastic" and random_bits is None:
        seed = torch.randint(-(2**31), 2**31, (2,), dtype=torch.int32, device=x.device, generator=generator)
    bits = None if random_bits is None else random_bits.reshape(-1)
    _compiled(plan)(flat, result.view(-1), as_tensors(limits, plan.carrier, x.device), bits, seed)
    return result if out is None or out is result else out.copy_(result)


@cache
def _compiled(plan: Plan) -> Callable[..., None]:
    def run(x: Tensor, out: Tensor, limits: Limits, bits: Tensor | None, seed: Tensor | None) -> None:
        if seed is not None:
            bits = hashed_bits(torch.arange(x.numel(), device=x.device).to(torch.int32), seed)
        out.copy_(rounded_values(x, plan, limits, bits))

    return compiled_variant(run)


@cache
def as_tensors(limits: Limits, carrier: torch.dtype, device: torch.device) -> Limits:
    """Returns the limits as tensors, so that a compiled kernel takes those of any format."""
    view, _, _ = _CARRIERS[carrier]
    dtypes = [view if isinstance(value, int) else carrier for value in limits]
    return Limits(*(torch.tensor(v, dtype=dtype, device=device) for v, dtype in zip(limits, dtypes, strict=True)))


def hashed_bits(index: Tensor, seed: Tensor | Sequence[Tensor]) -> Tensor:
    """Returns int32 bits from int32 indices: the finaliser of MurmurHash3 (Appleby, 2011) twice, keyed before each.

    The last shift of the first and the first of the second would undo each other, and are left out.
    """
    h = index + seed[0]
    h = _multiplied(h ^ ((h >> 16) & 0xFFFF))
    h = _multiplied(h ^ seed[1])
    return h ^ ((h >> 16) & 0xFFFF)


def bf16_at_random(x: Tensor, random_bits: Tensor) -> Tensor:
    """Returns float32 values rounded stochastically to bfloat16's, bit for bit as `round_to` with overflow="inf".

    What is cut off carries over if the random 16 bits are below it: one addition, for compiled kernels and for loops.

    Args:
        x: Float32, of any shape; NaN stays NaN.
        random_bits: int32 of its shape, each of the 2^32 equally likely.
    """
    carry = ((random_bits >> 16) ^ -1) & 0xFFFF
    return torch.where(x == x, ((x.view(torch.int32) + carry) & -0x10000).view(torch.float32), x)


def _multiplied(h: Tensor) -> Tensor:
    h = h * -0x7A143595  # 0x85EBCA6B as int32
    return (h ^ ((h >> 13) & 0x7FFFF)) * -0x3D4D51CB  # 0xC2B2AE35 as int32


def _require_input(x: object, fmt: Format) -> None:
    if not fmt.signed:
        raise ValueError(f"round_to: {fmt} is a scale, without sign and zero; round to one of the other formats")
    dtypes = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    if not isinstance(x, Tensor) or x.dtype not in dtypes:
        came = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"round_to: x must be a float64, float32, float16 or bfloat16 tensor, got {came}")
    if x.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            "round_to: rounding has no useful gradient; pass x.detach(), call it under torch.no_grad(), or use "
            "fake_quantize, which lets gradients through"
        )


def _require_rules(fmt: Format, overflow: object, rounding: object) -> None:
    for what, value, allowed in (
        ("overflow", overflow, get_args(Overflow)),
        ("rounding", rounding, get_args(Rounding)),
    ):
        if value not in allowed:
            raise ValueError(f"round_to: {what} must be one of {', '.join(allowed)}, got {value!r}")
    if overflow == "inf" and not fmt.has_inf:
        raise ValueError(f"round_to: {fmt} has no infinity; use overflow='saturate'{_or_nan(fmt)}")
    if overflow == "nan" and not fmt.has_nan:
        raise ValueError(f"round_to: {fmt} has no NaN; use overflow='saturate'")


def _or_nan(fmt: Format) -> str:
    return " or overflow='nan'" if fmt.has_nan else ""


def _require_random_bits(x: Tensor, rounding: Rounding, random_bits: Tensor | None) -> None:
    if random_bits is None:
        return
    if rounding != "stochastic":
        raise ValueError(f"round_to: random_bits are for rounding='stochastic', got {rounding!r}")
    if not isinstance(random_bits, Tensor) or (random_bits.dtype, random_bits.shape) != (torch.int32, x.shape):
        came = f"{random_bits.dtype} {tuple(random_bits.shape)}" if isinstance(random_bits, Tensor) else random_bits
        raise ValueError(f"round_to: random_bits must be an int32 tensor of x's shape {tuple(x.shape)}, got {came!r}")


def _require_out(x: Tensor, out: Tensor | None) -> None:
    if out is None:
        return
    if not isinstance(out, Tensor) or (out.dtype, out.shape, out.device) != (x.dtype, x.shape, x.device):
        came = f"{out.dtype} {tuple(out.shape)} on {out.device}" if isinstance(out, Tensor) else repr(out)
        raise ValueError(f"round_to: out must be {x.dtype} {tuple(x.shape)} on {x.device}, got {came}")
    if out.requires_grad:
        raise ValueError("round_to: out must not need a gradient; pass out.detach()")
