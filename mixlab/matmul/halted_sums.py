"""Where a running sum leaves its format's range, and where it stops to move."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mixlab.formats import FP16, FP32, Format
from mixlab.matmul.dot_products import sequential_stretches
from mixlab.matmul.summations import Summation


@dataclass(frozen=True, eq=False)
class SumLimits:
    """What became of the running sums of several dot products.

    Attributes:
        length: K, the products of each.
        overflowed_at: How many products it took until the sum was no longer finite; 0 if it stayed finite. (rows,)
        last_moved_at: The last product that changed the sum, counted from 1; 0 if none did. (rows,)
    """

    length: int
    overflowed_at: Tensor
    last_moved_at: Tensor

    @property
    def stalled(self) -> Tensor:
        """Whether each sum is finite and did not move for the last half of its products or longer, (rows,) bool."""
        return (self.overflowed_at == 0) & (2 * self.last_moved_at <= self.length)


def sum_limits(x: Tensor, y: Tensor, *, operands: Format | str = FP32, accumulator: Format | str = FP16) -> SumLimits:
    """Finds where the running sums of dot products overflow, and where they come to a halt.

    Products enter the sum one after the other, unrounded. A sum halts where every further product is less than half the
    gap to its next value: in fp16, products up to 1 stop at 2048, where neighbours are 2 apart. In formats without
    infinities a sum stops at ±max instead of overflowing.

    Args:
        x, y: The operands, (rows, K), finite.
        operands: The format to which both are first rounded, or its name.
        accumulator: The format of the sums, or its name.

    Raises:
        TypeError, ValueError: As `dot`; or if an operand is not finite.

    >>> ones = torch.ones(1, 10_000)
    >>> limits = sum_limits(ones, ones)
    >>> limits.last_moved_at, limits.stalled, limits.overflowed_at
    (tensor([2048]), tensor([True]), tensor([0]))
    >>> sum_limits(64 * ones, ones).overflowed_at  # 1023 * 64 = 65472 is finite, and 65536 is not
    tensor([1024])
    """
    require_finite("sum_limits", x, y)
    overflowed = torch.zeros(len(x), dtype=torch.int64)
    moved = torch.zeros(len(x), dtype=torch.int64)
    for done, history in sequential_stretches(x, y, operands=operands, summation=Summation(accumulator)):
        sums = torch.from_numpy(history)
        steps = torch.arange(done + 1, done + len(sums))[:, None]
        inf = ~sums[1:].isfinite()
        first = torch.where(inf, steps, torch.iinfo(torch.int64).max).amin(0)
        overflowed = torch.where((overflowed == 0) & inf.any(0), first, overflowed)
        moved = torch.maximum(moved, (steps * (sums[1:] != sums[:-1])).amax(0))
    moved = torch.where(overflowed > 0, torch.minimum(moved, overflowed), moved)  # NaN differs from itself
    return SumLimits(x.shape[1], overflowed, moved)


def require_finite(what: str, x: Tensor, y: Tensor) -> None:
    """Checks that operands are finite tensors; other checks are `dot`'s."""
    for name, each in (("x", x), ("y", y)):
        if isinstance(each, Tensor) and not bool(each.isfinite().all()):
            raise ValueError(f"{what}: {name} must be finite, got NaN or inf; leave such rows out")
