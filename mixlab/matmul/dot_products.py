"""Dot products in any format of operands and sums, and in any order, bit for bit; many at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from mixlab.arguments import require_whole
from mixlab.formats import FP32, Format, round_to
from mixlab.matmul.rounded_sums import Floats, Integers, overflow_of, pairwise_sums, rounded, running_sums
from mixlab.matmul.summations import Summation
from mixlab.matmul.tensor_cores import TensorCore, aligned_sums, tensor_core

_STRETCH = 1 << 9  # products of a row that are in memory at a time
_PIECE = 1 << 22  # products in memory at a time


def dot(
    x: Tensor,
    y: Tensor,
    *,
    operands: Format | str = FP32,
    summation: Summation | TensorCore | str = Summation(),  # noqa: B008 -- frozen
) -> Tensor:
    """Computes the dot product of each row of `x` with the same row of `y`, rounding as hardware would.

    NaN and inf follow IEEE 754: inf times zero and inf minus inf are NaN. An operand or a sum out of range becomes inf,
    or ±max in formats without infinities.

    Args:
        x: (rows, K), float64, float32, float16 or bfloat16.
        y: The same shape.
        operands: The format to which both are first rounded, to nearest; of at most 23 mantissa bits.
        summation: How the products are added: a `Summation`, a `TensorCore`, or one of `TENSOR_CORES` by name. A tensor
            core adds whole groups; the last is filled up with zeros.

    Returns:
        The dot products, (rows,) float64, each a value of the accumulator's format.

    Raises:
        TypeError: If an argument is of another type.
        ValueError: If the shapes differ or have no K, or a format or name is unknown or not allowed here.

    >>> x = torch.full((1, 10_000), 0.01)
    >>> dot(x, torch.ones_like(x), operands="fp16")  # 0.01 is 0.01000213623046875 in fp16
    tensor([100.0214], dtype=torch.float64)
    >>> dot(x, torch.ones_like(x), operands="fp16", summation=Summation("fp16"))  # 0.01 is under half a gap at 32
    tensor([32.], dtype=torch.float64)
    """
    return sums_at(x, y, [_length_of(x, y)], operands=operands, summation=summation)[0][0]


def sums_at(
    x: Tensor,
    y: Tensor,
    lengths: Sequence[int],
    *,
    operands: Format | str = FP32,
    summation: Summation | TensorCore | str = Summation(),  # noqa: B008 -- frozen
) -> tuple[Tensor, Tensor]:
    """Computes `dot` of the first products of each row, for several lengths, and where the sums came to a halt.

    Args:
        x, y: As in `dot`.
        lengths: How many products to add, each from 1 to K.
        operands, summation: As in `dot`.

    Returns:
        The dot products, (lengths, rows) float64; and the last product of each that changed the running sum, counted
        from 1, 0 if none did, (lengths, rows) int64. Where blocks are added, the count is of the last product of the
        last block that changed their sum; -1 for pairwise, which has no running sum.

    Raises:
        TypeError, ValueError: As `dot`; or if a length is no whole number from 1 to K.
    """
    operands = _operand_format(operands)
    if isinstance(summation, str):
        summation = tensor_core(summation, operands)
    if not isinstance(summation, Summation | TensorCore):
        raise TypeError(f"dot: summation must be a Summation or a TensorCore, got {summation!r:.60}")
    if isinstance(summation, TensorCore) and operands.mantissa_bits > 10:
        raise ValueError(f"dot: tensor cores multiply operands of up to 10 mantissa bits, got {operands}")
    longest = _length_of(x, y)
    if not len(lengths):
        raise ValueError("dot: lengths must name at least one length, got none")
    for length in lengths:
        require_whole("dot: a length", length, 1, longest)
    a, b = (_operand(each, operands) for each in (x, y))
    if isinstance(summation, Summation) and summation.order != "sequential":
        found = [_in_pieces(a[:, :length], b[:, :length], summation) for length in lengths]
    else:
        found = _in_sequence(a, b, list(lengths), operands, summation)
    sums = np.array([each for each, _ in found]).reshape(len(found), -1)
    changed = np.array([each for _, each in found], np.int64).reshape(len(found), -1)
    return torch.from_numpy(sums), torch.from_numpy(changed)


def sequential_stretches(
    x: Tensor, y: Tensor, *, operands: Format | str, summation: Summation
) -> Iterator[tuple[int, Floats]]:
    """Yields how many products are done, and the running sums from there on, a stretch of products at a time.

    Args:
        x, y, operands: As in `dot`.
        summation: A sequential summation.
    """
    operands = _operand_format(operands)
    length = _length_of(x, y)
    a, b = (_operand(each, operands) for each in (x, y))
    sums = np.zeros(len(a))
    for done in range(0, length, _STRETCH):
        part = slice(done, done + _STRETCH)
        history = running_sums(sums, _products(a[:, part], b[:, part], summation), summation.format)
        yield done, history
        sums = history[-1]


def _operand_format(operands: Format | str) -> Format:
    operands = Format.of(operands)
    if not operands.signed or operands.mantissa_bits > 23:
        raise ValueError(f"dot: operands must have a sign and up to 23 mantissa bits, got {operands}")
    return operands


def _length_of(x: Tensor, y: Tensor) -> int:
    for what, each in (("x", x), ("y", y)):
        if not isinstance(each, Tensor) or not each.is_floating_point():
            came = each.dtype if isinstance(each, Tensor) else type(each).__name__
            raise TypeError(f"dot: {what} must be a floating tensor, got {came}")
    if x.dim() != 2 or x.shape != y.shape:
        raise ValueError(f"dot: x and y must both be (rows, K), got {tuple(x.shape)} and {tuple(y.shape)}")
    if not x.numel():
        raise ValueError(f"dot: x and y must have at least one row and K of at least 1, got {tuple(x.shape)}")
    return x.shape[1]


def _operand(each: Tensor, fmt: Format) -> Floats:
    return round_to(each.detach().cpu(), fmt, overflow=overflow_of(fmt)).double().numpy()


def _products(a: Floats, b: Floats, summation: Summation) -> Floats:
    """Returns products, (n, rows) from (rows, n)."""
    with np.errstate(all="ignore"):
        products = np.ascontiguousarray(a.T) * b.T
    return rounded(products, summation.format) if summation.products == "rounded" else products


def _in_sequence(
    a: Floats, b: Floats, lengths: list[int], operands: Format, summation: Summation | TensorCore
) -> list[tuple[Floats, Integers]]:
    """Returns the running sums at each length, and the last product that changed them, in one pass over the rows."""
    rows = len(a)
    sums, changed = np.zeros(rows), np.zeros(rows, np.int64)
    found: dict[int, tuple[Floats, Integers]] = {}
    done = 0
    for stop in sorted({*lengths, *range(_STRETCH, max(lengths), _STRETCH)}):
        part = slice(done, stop)
        if isinstance(summation, TensorCore):
            history = _core_steps(a[:, part], b[:, part], sums, operands, summation)
            stride = summation.group
        else:
            history = running_sums(sums, _products(a[:, part], b[:, part], summation), summation.format)
            stride = 1
        found[stop] = history[-1], _last_change(history, changed, done, stride, stop)
        whole = stop // stride * stride  # a group that a length cuts short begins anew for the next length
        history = history[: (whole - done) // stride + 1]
        changed = _last_change(history, changed, done, stride, whole)
        sums, done = history[-1], whole
    return [found[length] for length in lengths]


def _core_steps(a: Floats, b: Floats, sums: Floats, operands: Format, core: TensorCore) -> Floats:
    filling = ((0, -a.shape[1] % core.group), (0, 0))
    return aligned_sums(np.pad(a.T, filling), np.pad(b.T, filling), sums, operands, core)


def _last_change(history: Floats, before: Integers, done: int, stride: int, stop: int) -> Integers:
    """Returns which product last changed the sum, given the sums before and after each step of `stride` products."""
    steps = np.arange(1, len(history))[:, None]
    moved = history[1:] != history[:-1]
    last = (steps * moved).max(0, initial=0)
    return np.where(last > 0, np.minimum(done + last * stride, stop), before)


def _in_pieces(a: Floats, b: Floats, summation: Summation) -> tuple[Floats, Integers]:
    """Returns sums in orders other than the sequential, some rows at a time."""
    rows, length = a.shape
    many = max(1, _PIECE // length)
    pieces = [slice(start, start + many) for start in range(0, rows, many)]
    parts = [_out_of_order(_products(a[piece], b[piece], summation), summation) for piece in pieces]
    return np.concatenate([sums for sums, _ in parts]), np.concatenate([changed for _, changed in parts])


def _out_of_order(products: Floats, summation: Summation) -> tuple[Floats, Integers]:
    length, rows = products.shape
    if summation.order == "pairwise":
        return pairwise_sums(products, summation.format), np.full(rows, -1)
    block = summation.block_length(length)
    count = -(-length // block)
    filled = np.pad(products, ((0, count * block - length), (0, 0))).reshape(count, block, rows)
    lanes = np.ascontiguousarray(filled.transpose(1, 0, 2)).reshape(block, count * rows)  # all blocks side by side
    within = running_sums(np.zeros(count * rows), lanes, summation.format)[-1].reshape(count, rows)
    history = running_sums(np.zeros(rows), within, summation.format)
    return history[-1], _last_change(history, np.zeros(rows, np.int64), 0, block, length)
