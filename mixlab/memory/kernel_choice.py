"""The mode in which fake ops take the memory of a real step's kernels."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mixlab.memory import cuda_kernels, kept_numbers
from mixlab.memory.lstm import recurrent
from mixlab.memory.packed_rows import pack, pad, with_sizes
from mixlab.memory.stand_ins import passed_through
from mixlab.memory.value_gradients import cumulative_product, extremum, without_zeros


class Kernels(TorchFunctionMode):
    """Replaces ops on fake tensors with ops that take the memory of a real step's kernels.

    It also sees the ops inside functions of torch.nn.functional that are written in Python, such as the attention of
    `nn.MultiheadAttention`. Use it within `stand_ins.answered`.

    Args:
        as_on: "cuda": CUDA's fused kernels, and tensors report that they are on CUDA; "cpu": kernels without oneDNN.
    """

    def __init__(self, as_on: str) -> None:
        super().__init__()
        on_device = cuda_kernels.ON_CUDA if as_on == "cuda" else kept_numbers.ON_CPU | _ON_CPU
        self._replacements = _ANYWHERE | on_device

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        replacement = self._replacements.get(func)
        if replacement is not None:
            return replacement(*args, **kwargs)
        if isinstance(func, FunctionType) and func.__module__ == F.__name__:
            with self, passed_through():
                return func(*args, **kwargs)
        return func(*args, **kwargs)


def _one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    if num_classes < 1:
        return F.one_hot(tensor, num_classes)  # counting the classes needs values
    zeros = torch.zeros(*tensor.shape, num_classes, dtype=torch.long, device=tensor.device)
    return zeros.scatter_(-1, tensor.unsqueeze(-1), 1)


_ANYWHERE: dict[Any, Callable[..., Any]] = {
    torch.lstm: with_sizes(recurrent(torch.lstm)),
    **{op: with_sizes(op) for op in (torch.gru, torch.rnn_tanh, torch.rnn_relu)},
    torch._pack_padded_sequence: pack,
    torch._pad_packed_sequence: pad,
    F.one_hot: _one_hot,
    **{op: without_zeros(op) for op in (torch.prod, Tensor.prod)},
    **{op: cumulative_product(op) for op in (torch.cumprod, Tensor.cumprod)},
}
_ON_CPU: dict[Any, Callable[..., Any]] = {
    op: extremum(op)
    for name in ("max", "min", "median", "nanmedian")
    for op in (getattr(torch, name), getattr(Tensor, name))
}
