"""How the errors of dot products grow with K: measured on given operands, with bounds beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mixlab.formats import BF16, FP16, FP32, Format, round_to
from mixlab.matmul.dot_products import sums_at
from mixlab.matmul.error_bounds import error_bound, operand_error_bound, probable_error_bound
from mixlab.matmul.halted_sums import require_finite
from mixlab.matmul.rounded_sums import overflow_of
from mixlab.matmul.summations import Summation
from mixlab.matmul.tensor_cores import TensorCore, tensor_core
from mixlab.tables import NotedTable

_SUMMATIONS: tuple[Summation, ...] = (Summation(FP32), Summation(FP16), Summation(BF16), Summation(FP16, "blocked"))


@dataclass(frozen=True)
class ErrorPoint:
    """Errors of several dot products of one length, in one format and order.

    All errors are relative to sum |x_i y_i|. Those of sums that left the range are left out.

    Attributes:
        length: K.
        operands: The format of the operands.
        summation: How the products were added.
        median_error: Median of the whole error: against the exact dot product of the operands before rounding.
        max_error: The largest of these.
        median_sum_error: Median of the sum's own error: against the exact dot product of the rounded operands.
        max_sum_error: The largest of these.
        bound: What no whole error exceeds; inf where nothing is known.
        sum_bound: What no error of a sum exceeds; inf where nothing is known.
        probable_sum_bound: What an error of a sum exceeds rarely if rounding errors are independent and of mean zero;
            None on tensor cores, whose errors are not.
        probability: The least probability, under that assumption, that one dot product keeps `probable_sum_bound`.
        condition: Median of sum |x_i y_i| / |sum x_i y_i|, by which errors relative to the result are larger.
        overflow_fraction: The share of dot products that are no longer finite.
        stall_fraction: The share that is finite and that no product of the second half changed; None for pairwise
            sums. Where blocks are added, a block counts as one product.
    """

    length: int
    operands: Format
    summation: Summation | TensorCore
    median_error: float
    max_error: float
    median_sum_error: float
    max_sum_error: float
    bound: float
    sum_bound: float
    probable_sum_bound: float | None
    probability: float
    condition: float
    overflow_fraction: float
    stall_fraction: float | None

    @property
    def name(self) -> str:
        """The formats and the order, such as "fp16, fp32 sequential"."""
        return f"{self.operands}, {self.summation}"


class ErrorGrowth(NotedTable):
    """Errors of dot products by length, format and order: a table in a terminal and in a notebook.

    Attributes:
        points: The points, curve by curve, each by growing K.

    Args:
        points: The points.
        rows: How many dot products each point is of.
    """

    def __init__(self, points: Sequence[ErrorPoint], rows: int) -> None:
        self.points = tuple(points)
        whole, alone = ("median error", "largest", "bound"), ("sum's median", "largest", "bound", "probable bound")
        notes = [
            f"Of {rows} dot products each. Errors are relative to the sum of the products' magnitudes. The sum's are "
            "against the exact sum of the rounded operands' products. -: nothing is known, or no sum is finite.",
        ]
        notes += [f"{point.name}, K = {point.length:,}: {said}" for point in points if (said := _events(point))]
        super().__init__(("operands, sum", "K", *whole, *alone), [_cells(point) for point in points], notes)

    def curves(self) -> dict[str, list[ErrorPoint]]:
        """Returns the points of each curve by its name."""
        named: dict[str, list[ErrorPoint]] = {}
        for point in self.points:
            named.setdefault(point.name, []).append(point)
        return named


def error_growth(
    x: Tensor,
    y: Tensor,
    lengths: Sequence[int],
    *,
    operands: Sequence[Format | str] = (FP16,),
    summations: Sequence[Summation | TensorCore | str] = _SUMMATIONS,
    confidence: float = 5.0,
) -> ErrorGrowth:
    """Measures the errors of dot products of the first K operands, for several K, formats and orders.

    Exact sums are float64's, so errors below about 1e-15 mean none.

    Args:
        x: The left operands, (rows, at least the largest K), finite.
        y: The right operands, the same shape.
        lengths: The K, each a whole number from 1 up; they are sorted.
        operands: The formats of the operands, or their names.
        summations: How to add: as in `dot`. A tensor core by its name is that of each operand format.
        confidence: The lambda of `probable_error_bound`.

    Raises:
        TypeError, ValueError: As `dot`; if an operand is not finite, or nothing is to be measured.

    >>> ones = torch.ones(1, 4096)
    >>> growth = error_growth(ones, ones, [2048, 4096], summations=[Summation("fp16")])
    >>> [(point.length, point.max_error) for point in growth.points]
    [(2048, 0.0), (4096, 0.5)]
    """
    require_finite("error_growth", x, y)
    if not len(lengths) or not len(operands) or not len(summations) or isinstance(operands, str | Format):
        raise ValueError("error_growth: lengths, operands and summations must be lists of at least one")
    points: list[ErrorPoint] = []
    for fmt in map(Format.of, operands):
        for given in summations:
            summation = tensor_core(given, fmt) if isinstance(given, str) else given
            points += _curve(x, y, sorted(lengths), fmt, summation, confidence)
    return ErrorGrowth(points, len(x))


def _curve(
    x: Tensor, y: Tensor, lengths: list[int], fmt: Format, summation: Summation | TensorCore, confidence: float
) -> list[ErrorPoint]:
    sums, moved = sums_at(x, y, lengths, operands=fmt, summation=summation)
    stored = [round_to(each.detach().cpu(), fmt, overflow=overflow_of(fmt)).double() for each in (x, y)]
    whole = x.detach().cpu().double() * y.detach().cpu().double()
    kept = stored[0] * stored[1]
    points = []
    for length, found, last in zip(lengths, sums, moved, strict=True):
        exact, size = whole[:, :length].sum(1), whole[:, :length].abs().sum(1)
        exact_kept, size_kept = kept[:, :length].sum(1), kept[:, :length].abs().sum(1)
        finite = found.isfinite()
        error = _relative(found - exact, size)[finite]
        sum_error = _relative(found - exact_kept, size_kept)[finite]
        bound = error_bound(summation, length)
        rounding = float(operand_error_bound(x[:, :length].cpu(), y[:, :length].cpu(), fmt).max())
        likely: tuple[float | None, float] = (None, 0.0)
        if isinstance(summation, Summation):
            likely = probable_error_bound(summation, length, confidence=confidence)
        pairwise = isinstance(summation, Summation) and summation.order == "pairwise"
        points.append(
            ErrorPoint(
                length,
                fmt,
                summation,
                *(_middle(error), _largest(error), _middle(sum_error), _largest(sum_error)),
                rounding + (1 + rounding) * bound,
                bound,
                *likely,
                _middle(_relative(size, exact.abs())),
                float((~finite).double().mean()),
                None if pairwise else float((finite & (2 * last <= length)).double().mean()),
            )
        )
    return points


def _relative(part: Tensor, size: Tensor) -> Tensor:
    return torch.where(size > 0, part.abs() / size, part.abs())


def _middle(values: Tensor) -> float:
    return float(values.median()) if len(values) else float("nan")


def _largest(values: Tensor) -> float:
    return float(values.max()) if len(values) else float("nan")


def _cells(point: ErrorPoint) -> tuple[str, ...]:
    numbers = (point.median_error, point.max_error, point.bound, point.median_sum_error, point.max_sum_error)
    more = (point.sum_bound, float("inf") if point.probable_sum_bound is None else point.probable_sum_bound)
    return point.name, f"{point.length:,}", *(_number(each) for each in (*numbers, *more))


def _number(value: float) -> str:
    return f"{value:.1e}" if 0 <= value < float("inf") else "-"


def _events(point: ErrorPoint) -> str:
    said = []
    if point.overflow_fraction:
        said.append(f"{point.overflow_fraction:.0%} overflowed")
    if point.stall_fraction:
        said.append(f"{point.stall_fraction:.0%} stood still in the second half")
    return ", ".join(said)
