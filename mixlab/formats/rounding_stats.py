"""Rounding that also counts, in the same pass, what it loses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from mixlab.formats._compile import compiled_variant
from mixlab.formats.choices import Overflow
from mixlab.formats.format import Format
from mixlab.formats.rounding import checked
from mixlab.formats.rounding_kernels import rounded_values
from mixlab.formats.rounding_rules import Limits, Plan, as_tensors, limits_for, plan_for

_ROW = 1 << 12  # elements summed in the tensor's own dtype, before float64 takes over
_NOTHING = torch.tensor([[0.0] * 8 + [1.0, 0.0, 1.0]])  # the sums of an empty tensor
_ROWS_AT_A_TIME = 64  # on a CPU, so that intermediate results stay in the cache


@dataclass(frozen=True)
class RoundingStats:
    """What happened to a tensor's values when they were rounded to nearest, ties to even.

    Attributes:
        numel: Number of elements.
        non_zero: Number of elements that were finite and not zero: the denominator of the four fractions.
        underflow: Fraction that became zero.
        subnormal: Fraction that became a subnormal value.
        overflow: Fraction that became inf or NaN.
        clipped: Fraction that was out of range and became the largest value.
        amax: The largest finite magnitude before rounding.
        mean_square_error: Mean of (rounded - x)^2 over the elements finite before and after; 0 if there are none.
        signal_to_noise_db: 10 log10 of the sum of x^2 over the sum of (rounded - x)^2, over the same elements, in
            decibels; inf if nothing was lost.
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
    """Returns `x` rounded to nearest even, as `round_to` does, and what that lost.

    With `compiled`, both come from one pass over memory. Counts are exact. float32 input is summed in float32 within
    rows of 4096 elements and in float64 across rows, so about six digits are correct.

    Args:
        x: As in `round_to`.
        fmt: The format, or its name.
        overflow: As in `round_to`.
        out: As in `round_to`.
        compiled: As in `round_to`.

    Returns:
        The rounded tensor, or `out`; and the statistics.

    Raises:
        TypeError: As `round_to`.
        ValueError: As `round_to`; also for a meta tensor, which has no values to count.

    >>> _, stats = round_with_stats(torch.tensor([1.0, 1e-8, 1e-7, 7e4]), "fp16", overflow="inf")
    >>> stats.underflow, stats.subnormal, stats.overflow, stats.amax
    (0.25, 0.25, 0.25, 70000.0)
    """
    x, fmt = checked(x, fmt, overflow=overflow, rounding="nearest_even", out=out)
    if x.is_meta:
        raise ValueError("round_with_stats: a meta tensor has no values to count; pass another, or use round_to")
    plan = plan_for(fmt, "nearest_even", x.dtype)
    limits = as_tensors(limits_for(fmt, plan.carrier, overflow), plan.carrier, x.device)
    threshold = _threshold(fmt, plan.carrier, x.device)
    fits = out is not None and out.is_contiguous()
    result = out if out is not None and fits else torch.empty_like(x, memory_format=torch.contiguous_format)
    round_rows = _compiled(plan) if compiled else partial(_round_rows, plan)
    sums = [round_rows(rows, target, limits, threshold) for rows, target in zip(_rows(x), _rows(result), strict=True)]
    stats = _stats(x.numel(), torch.cat(sums) if sums else _NOTHING)
    return (result if fits or out is None else out.copy_(result)), stats


def _rows(x: Tensor) -> list[Tensor]:
    """Returns the elements as tensors of (rows, 4096), and the rest as a last one of (1, rest)."""
    flat = x.reshape(-1)
    whole = x.numel() // _ROW * _ROW
    rows = flat[:whole].view(-1, _ROW)
    parts = torch.split(rows, _ROWS_AT_A_TIME) if x.device.type == "cpu" else [rows]
    return [part for part in (*parts, flat[whole:].view(1, -1)) if part.numel()]


def _round_rows(plan: Plan, x: Tensor, out: Tensor, limits: Limits, threshold: Tensor) -> Tensor:
    """Rounds x (R, C) into `out`, and returns each row's sums for `_stats`, (R, 11)."""
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
        torch.where(a < math.inf, a, 0.0).amax(1),
        *_squares(error),
        *_squares(signal),
    )
    out.copy_(y)
    return torch.stack(columns, 1)


def _squares(x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the sums of the squares of x (R, C) after multiplication by a power of two, (R,), and that power, (R,).

    The squares of very large and very small numbers do not fit the dtype. For all others, the power is 1.
    """
    middle, up, down = (2.0**300, 2.0**700, 2.0**-650) if x.dtype is torch.float64 else (2.0**40, 2.0**90, 2.0**-80)
    amax = x.abs().amax(1, keepdim=True)
    one = torch.ones_like(amax)
    power = torch.where(amax > middle, one * down, torch.where(amax < 1 / middle, one * up, one))
    lifted = x * power
    return (lifted * lifted).sum(1), power.squeeze(1)


@cache
def _threshold(fmt: Format, carrier: torch.dtype, device: torch.device) -> Tensor:
    """Returns the magnitude from which values are out of range, as a tensor, so that one compiled kernel serves all."""
    return torch.tensor(min(fmt.overflow_threshold, torch.finfo(carrier).max), dtype=carrier, device=device)


@cache
def _compiled(plan: Plan) -> Callable[..., Any]:
    return partial(compiled_variant(_round_rows), plan)


def _stats(numel: int, sums: Tensor) -> RoundingStats:
    """Returns the statistics from the rows' sums, (R, 11), which are added up on their own device.

    A GPU sends only nine numbers to the CPU: adding up the rows on the CPU would take longer than all the GPU's work.
    """
    counts, amax, *squares = torch.split(sums.double(), [6, 1, 1, 1, 1, 1], 1)
    (noise, noise_log), (_, signal_log) = _totals(*squares[:2]), _totals(*squares[2:])
    totals = torch.cat([counts.sum(0), amax.amax(0), noise, signal_log - noise_log])
    non_zero, underflow, subnormal, overflow, clipped, kept, largest, noise_sum, ratio_log = totals.tolist()
    denominator = max(non_zero, 1.0)
    return RoundingStats(
        numel=numel,
        non_zero=int(non_zero),
        underflow=underflow / denominator,
        subnormal=subnormal / denominator,
        overflow=overflow / denominator,
        clipped=clipped / denominator,
        amax=largest,
        mean_square_error=noise_sum / kept if kept else 0.0,
        signal_to_noise_db=math.inf if math.isnan(ratio_log) else 10 * ratio_log / math.log(10),
    )


def _totals(squares: Tensor, power: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the sum of the squares of all rows, (), and its natural logarithm, which neither over- nor underflows."""
    total = (squares / power / power).sum(0)
    return total, torch.logsumexp(squares.log() - 2 * power.log(), 0)
