"""Rows that a model packs itself, as before an LSTM: their lengths follow from the batch.

The functions call the ops of ATen's own implementation (PyTorch, aten/src/ATen/native/PackedSequence.cpp) in its order,
so that tensors live and die as they do there. Recurrent layers read how many rows each step has; they are given it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from mixlab.memory.known_values import value_of


def with_sizes(op: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the replacement of a recurrent layer's op, which reads the sizes of packed rows that are known.

    Args:
        op: `torch.lstm`, `torch.gru`, `torch.rnn_tanh` or `torch.rnn_relu`.
    """

    def recurrent(*args: Any, **kwargs: Any) -> Any:
        if isinstance(args[1], Tensor) and not args[1].is_floating_point():  # else the state that rows begin with
            sizes = value_of(args[1])
            args = args if sizes is None else (args[0], sizes, *args[2:])
        return op(*args, **kwargs)

    return recurrent


def pack(rows: Tensor, lengths: Tensor, batch_first: bool) -> Any:
    """Stands for `torch._pack_padded_sequence`."""
    known = value_of(lengths)
    if known is None:
        return torch._pack_padded_sequence(rows, lengths, batch_first)
    ordered = _numbers(known)
    batch, longest = rows.shape[:2] if batch_first else (rows.shape[1], rows.shape[0])
    if (
        len(ordered) != batch
        or ordered != sorted(ordered, reverse=True)
        or not 0 < ordered[-1] <= ordered[0] <= longest
    ):
        raise ValueError(
            f"pack_padded_sequence: lengths must be {batch} numbers from 1 to {longest}, in decreasing order unless "
            f"enforce_sorted=False is given; got {ordered!s:.60}"
        )
    counts = [sum(length > step for length in ordered) for step in range(ordered[0])]
    sizes = torch.tensor(counts)
    return _Packing.apply(rows, sizes, counts, sorted({0, *ordered}), batch_first), sizes  # type: ignore[no-untyped-call]


def pad(data: Tensor, sizes: Tensor, batch_first: bool, value: float, total_length: int) -> Any:
    """Stands for `torch._pad_packed_sequence`."""
    known = value_of(sizes)
    if known is None:
        return torch._pad_packed_sequence(data, sizes, batch_first, value, total_length)
    counts = _numbers(known)
    shape = (max(total_length, len(counts)), counts[0], *data.shape[1:])
    padded = torch.full(shape, value, dtype=data.dtype, device=data.device)
    lengths = torch.tensor([sum(count > row for count in counts) for row in range(counts[0])])
    changes = [step for step in range(1, len(counts)) if counts[step] != counts[step - 1]]
    first = 0
    for start, end in pairwise((0, *changes, len(counts))):
        rows = counts[start]
        part = data[first : first + rows * (end - start)]
        padded[start:end, :rows].copy_(part.view(end - start, rows, *data.shape[1:]))
        first += len(part)
    return padded.transpose(0, 1) if batch_first else padded, lengths


class _Packing(torch.autograd.Function):
    """Copies the rows of all steps between two lengths at once, and puts the copies together."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: Tensor, counts: list[int], ends: list[int], batch_first: bool) -> Tensor:
        ctx.shape, ctx.sizes, ctx.counts, ctx.batch_first = rows.shape, sizes, counts, batch_first
        steps = rows.transpose(0, 1) if batch_first else rows
        parts = [steps[start:end, : counts[start]].contiguous() for start, end in pairwise(ends)]
        return torch.cat([part.view(-1, *rows.shape[2:]) for part in parts])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        batch, length, *rest = ctx.shape if ctx.batch_first else (ctx.shape[1], ctx.shape[0], *ctx.shape[2:])
        padded = gradient.new_zeros(length, batch, *rest)
        for step, part in zip(padded, torch.split(gradient, ctx.counts), strict=False):
            step[: len(part)].copy_(part)
        return padded.transpose(0, 1) if ctx.batch_first else padded, None, None, None, None


def _numbers(known: Tensor) -> list[int]:
    with torch._C._DisableTorchDispatch():
        return known.tolist()
