"""Rounds tensors to a number format, bit for bit as a hardware cast does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import get_args

import torch
from torch import Tensor

from mixlab.formats._compile import compiled_variant
from mixlab.formats.choices import Overflow, Rounding
from mixlab.formats.format import Format
from mixlab.formats.random_bits import draw_bits, hashed_bits
from mixlab.formats.rounding_kernels import rounded_values
from mixlab.formats.rounding_rules import Limits, Plan, as_tensors, limits_for, plan_for

_PIECE = 1 << 17  # elements rounded at a time on a CPU, so that intermediate results stay in the cache


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
    """Rounds every element of `x` to a value of `fmt` (IEEE 754-2019).

    Subnormals and NaN are kept, and so is the sign of zero in formats that have it. A value is out of range if it
    would round beyond `fmt.max` without an upper limit on exponents; infinity always is. Finite values beyond `fmt.max`
    that are rounded toward zero become ±`fmt.max`.

    Args:
        x: Any shape, strides and device; float64, float32, float16 or bfloat16.
        fmt: The format, or its name. (Not e8m0fnu, which is a scale: `mixlab.quantize_blocks` uses it.)
        overflow: What a value out of range becomes: "inf" (in formats with infinities), "nan" (in formats with NaN), or
            "saturate" (±`fmt.max`). There is no default, because hardware and libraries differ.
        rounding: "nearest_even" and "nearest_away" say where ties go. "toward_zero", "toward_positive" and
            "toward_negative" are the directed roundings. "stochastic" goes to either neighbour, with a probability that
            makes the result correct on average (Croci et al., Stochastic rounding: implementation, error analysis and
            applications, 2022), in steps of 2^-24.
        random_bits: For "stochastic": int32 of `x`'s shape, all 2^32 values equally likely. None draws them.
        generator: For "stochastic" without `random_bits`: draws them, on `x`'s device. None uses torch's global one.
        out: The tensor to write to, of the result's shape and dtype; may be `x` itself. None makes a new tensor.
        compiled: True runs one `torch.compile`d kernel that serves every format (on a CPU it needs a C++ compiler, and
            the first call of each rounding takes about ten seconds). The bits of "stochastic" are then hashed from the
            element's index and two numbers drawn from the generator (Steele et al., Fast Splittable Pseudorandom
            Number Generators, 2014).

    Returns:
        A new tensor of values of `fmt`, of `x`'s shape: float64 for float64 input, float32 for all others; or `out`.

    Raises:
        TypeError: If `x` is not a tensor of these dtypes, or `fmt` is not a format.
        ValueError: If `x` requires a gradient, an argument is not allowed, or `fmt` lacks what `overflow` asks for.

    >>> x = torch.tensor([957.0, 1e-8, 7e4])
    >>> round_to(x, "fp16", overflow="inf")
    tensor([957.,   0.,  inf])
    >>> round_to(x, "e4m3fn", overflow="saturate")
    tensor([448.,   0., 448.])
    >>> round_to(torch.tensor([2.5, 3.5]), "e2m1fn", overflow="saturate", rounding="toward_zero")
    tensor([2., 3.])
    >>> thirds = torch.full((100_000,), 1 / 3)
    >>> round_to(thirds, "e2m1fn", overflow="saturate").mean()  # all go to 0.5
    tensor(0.5000)
    >>> coin = torch.Generator().manual_seed(0)
    >>> round_to(thirds, "e2m1fn", overflow="saturate", rounding="stochastic", generator=coin).mean()
    tensor(0.3336)
    >>> round_to(x, "bf16", overflow="inf", out=x) is x
    True
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
    """Returns `x` in the dtype to round in, and the format. Raises as `round_to` does."""
    fmt = Format.of(fmt)
    _require_input(x, fmt)
    _require_rules(fmt, overflow, rounding)
    x = x if x.dtype is torch.float64 else x.to(torch.float32)
    _require_out(x, out)
    return x, fmt


def _pieces(x: Tensor, bits: Tensor | None, out: Tensor) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
    """Yields matching parts of the three tensors: small pieces of contiguous CPU tensors, others whole."""
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


def _require_input(x: object, fmt: Format) -> None:
    if not fmt.signed:
        raise ValueError(f"round_to: {fmt} is a scale, without sign or zero; round to one of the other formats")
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
