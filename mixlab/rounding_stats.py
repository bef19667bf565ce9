"""What rounding a tensor to a format costs, counted in the same pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from mixlab.compiling import compiled_variant
from mixlab.formats import Format
from mixlab.rounding import Limits, Overflow, Plan, as_tensors, checked, limits_for, plan_for, rounded_values

_ROW = 1 << 12  # elements added up in the tensor's own dtype, before float64 takes over
_ROWS_AT_A_TIME = 64  # on a CPU, so that what is computed of them stays in the cache


@dataclass(frozen=True)
class RoundingStats:
    """What happened to a tensor's values when they were rounded to nearest, ties to even.

    Attributes:
        numel: How many elements there were.
        non_zero: How many of them were finite and not zero: the denominator of the four fractions.
        underflow: Fraction that became zero.
        subnormal: Fraction that became a subnormal value.
        overflow: Fraction that became inf or NaN.
        clipped: Fraction that was out of range and became the largest value.
        amax: The largest finite magnitude that came in.
        mean_square_error: Mean of (rounded - x)^2 over the elements that were, and stayed, finite; 0 without any.
        signal_to_noise_db: 10 log10 of the sum of x^2 over the sum of (rounded - x)^2, over the same elements, in
            decibel; inf if nothing was lost.
    """

    numel: int
    non_zero: int
    underflow: float
    subnormal: float
    overflow: float
    clipped: float
    amax: float
    mean_square_error: float
    signal_to_noise_db: float


def round_with_stats(
    x: Tensor, fmt: Format | str, *, overflow: Overflow, out: Tensor | None = None, compiled: bool = False
) -> tuple[Tensor, RoundingStats]:
    """Returns `round_to(x, fmt, overflow=..., out=..., compiled=...)`, and its statistics.

    Compiled, both come from one pass over memory. Counts are exact; sums are float32 within rows of 4096 elements and
    float64 between them, so that about six digits are right.

    Raises:
        TypeError, ValueError: As `round_to`; also for a meta tensor, which has nothing to count.

    >>> _, stats = round_with_stats(torch.tensor([1.0, 1e-8, 1e-7, 7e4]), "fp16", overflow="inf")
    >>> stats.underflow, stats.subnormal, stats.overflow, stats.amax
    (0.25, 0.25, 0.25, 70000.0)
    """
    x, fmt = checked(x, fmt, overflow=overflow, rounding="nearest_even", out=out)
    if x.is_meta:
        raise ValueError("round_with_stats: a meta tensor has no values to count; give one that has, or use round_to")
    plan = plan_for(fmt, "nearest_even", x.dtype)
    limits = as_tensors(limits_for(fmt, plan.carrier, overflow), plan.carrier, x.device)
    threshold = _threshold(fmt, plan.carrier, x.device)
    fits = out is not None and out.is_contiguous()
    result = out if out is not None and fits else torch.empty_like(x, memory_format=torch.contiguous_format)
    round_rows = _compiled(plan) if compiled else partial(_round_rows, plan)
    sums = [round_rows(rows, target, limits, threshold) for rows, target in zip(_rows(x), _rows(result), strict=True)]
    stats = _stats(x.numel(), torch.cat(sums) if sums else torch.zeros(1, 9))
    return (result if fits or out is None else out.copy_(result)), stats


def _rows(x: Tensor) -> list[Tensor]:
    """Returns the elements as tensors of (rows, 4096), and a last one of (1, rest)."""
    flat = x.reshape(-1)
    whole = x.numel() // _ROW * _ROW
    rows = flat[:whole].view(-1, _ROW)
    parts = torch.split(rows, _ROWS_AT_A_TIME) if x.device.type == "cpu" else [rows]
    return [part for part in (*parts, flat[whole:].view(1, -1)) if part.numel()]


def _round_rows(plan: Plan, x: Tensor, out: Tensor, limits: Limits, threshold: Tensor) -> Tensor:
    """Rounds x (R, C) into `out`; returns what `_stats` adds up, (R, 9)."""
    y = rounded_values(x, plan, limits, None)
    x = x.to(y.dtype)
    a, b = x.abs(), y.abs()
    alive = (a < math.inf) & (a > 0)
    kept = (a < math.inf) & (b < math.inf)
    error, signal = torch.where(kept, y - x, 0.0), torch.where(kept, x, 0.0)
    columns = (
        alive.sum(1, dtype=y.dtype),
        (alive & (b == 0)).sum(1, dtype=y.dtype),
        (alive & (b > 0) & (b < limits.smallest_normal)).sum(1, dtype=y.dtype),
        (alive & ~(b < math.inf)).sum(1, dtype=y.dtype),
        (alive & (b < math.inf) & (a >= threshold)).sum(1, dtype=y.dtype),
        kept.sum(1, dtype=y.dtype),
        (error * error).sum(1),
        (signal * signal).sum(1),
        torch.where(a < math.inf, a, 0.0).amax(1),
    )
    out.copy_(y)
    return torch.stack(columns, 1)


@cache
def _threshold(fmt: Format, carrier: torch.dtype, device: torch.device) -> Tensor:
    """Returns from where on values are out of range, as a tensor, so that a compiled kernel takes any format's."""
    return torch.tensor(min(fmt.overflow_threshold, torch.finfo(carrier).max), dtype=carrier, device=device)


@cache
def _compiled(plan: Plan) -> Callable[..., Any]:
    return partial(compiled_variant(_round_rows), plan)


def _stats(numel: int, sums: Tensor) -> RoundingStats:
    """Returns the statistics from what `_round_rows` returned, (R, 9), which is added up where it lies.

    Of a GPU's rows only nine numbers come to the CPU, whose threads need longer to share the rest than the GPU for all.
    """
    sums = sums.double()
    totals = torch.cat([sums[:, :-1].sum(0), sums[:, -1:].amax(0)])
    non_zero, underflow, subnormal, overflow, clipped, kept, noise, signal, amax = totals.tolist()
    denominator = max(non_zero, 1.0)
    return RoundingStats(
        numel=numel,
        non_zero=int(non_zero),
        underflow=underflow / denominator,
        subnormal=subnormal / denominator,
        overflow=overflow / denominator,
        clipped=clipped / denominator,
        amax=amax,
        mean_square_error=noise / kept if kept else 0.0,
        signal_to_noise_db=10 * math.log10(signal / noise) if noise and signal else math.inf,
    )
