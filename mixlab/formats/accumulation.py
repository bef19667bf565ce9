"""A long sum in a number format, one addition at a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mixlab.arguments import require_whole
from mixlab.formats.choices import Overflow, Rounding
from mixlab.formats.encoding import as_float
from mixlab.formats.format import Format
from mixlab.formats.random_bits import draw_bits
from mixlab.formats.rounding import checked, round_to
from mixlab.formats.rounding_kernels import rounded_values
from mixlab.formats.rounding_rules import limits_for, plan_for


def accumulate(
    value: float,
    count: int,
    fmt: Format | str,
    *,
    overflow: Overflow,
    rounding: Rounding = "nearest_even",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Adds `value` to a sum `count` times, and rounds the sum to `fmt` after each addition.

    The value itself is first rounded to nearest, as if stored in `fmt`. Additions are computed in float64. With
    rounding to nearest, this gives the correctly rounded sum in formats of up to 25 mantissa bits (Figueroa, When is
    double rounding innocuous?, 1995).

    Args:
        value: A finite number.
        count: How many additions, at least 1.
        fmt: The format, or its name.
        overflow: As in `round_to`, for a value or a sum out of range.
        rounding: As in `round_to`, for the sums.
        generator: As in `round_to`, for rounding="stochastic".

    Returns:
        The sums after each addition, (count,) float64.

    Raises:
        TypeError: If `fmt` is not a format.
        ValueError: If the value is not finite, `count` is not a positive whole number, or `round_to` would refuse the
            rules.

    >>> accumulate(0.001, 10_000, "fp16", overflow="inf")[-1]  # the sum stops at 4: there, neighbours are 0.004 apart
    tensor(4., dtype=torch.float64)
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(as_float(value, "accumulate"))
    ):
        raise ValueError(f"accumulate: value must be a finite number, got {value!r}")
    require_whole("accumulate: count", count, 1)
    fmt = Format.of(fmt)
    step = round_to(torch.tensor(value, dtype=torch.float64), fmt, overflow=overflow)
    total, _ = checked(torch.zeros_like(step), fmt, overflow=overflow, rounding=rounding, out=None)
    plan = plan_for(fmt, rounding, total.dtype)
    limits = limits_for(fmt, plan.carrier, overflow)
    sums = torch.empty(count, dtype=torch.float64)
    bits = draw_bits(sums, generator) if rounding == "stochastic" else None
    for i in range(count):
        before, total = total, rounded_values(total + step, plan, limits, None if bits is None else bits[i])
        sums[i] = total
        if bits is None and total == before:  # later additions change nothing either
            sums[i:] = total
            break
    return sums
