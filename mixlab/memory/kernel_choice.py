"""The mode in which fake ops take the memory of a real step's kernels."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mixlab.memory import cuda_kernels, kept_numbers
from mixlab.memory.known_values import give_value, value_of
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
            with self, _ASSUMED.get(func, nullcontext)(), passed_through():
                return func(*args, **kwargs)
        return func(*args, **kwargs)


class _NoneRefused(TorchFunctionMode):
    """Answers `torch.any`, with which a loss refuses values that it cannot take, with no."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.any:
            give_value(result, _NO)
        return result


def _ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: int = 1,
    zero_infinity: bool = False,
) -> Any:
    """The shape of what is kept depends on the lengths, which a batch tells; the mean would write them into a fake."""
    of_inputs, of_targets = _numbers(input_lengths), _numbers(target_lengths)
    if of_inputs is None or of_targets is None:
        return torch.ctc_loss(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity)
    if reduction != 1:
        return torch.ctc_loss(log_probs, targets, of_inputs, of_targets, blank, reduction, zero_infinity)
    losses = torch.ctc_loss(log_probs, targets, of_inputs, of_targets, blank, 0, zero_infinity)
    of_each = torch.empty(losses.shape, dtype=losses.dtype, device=losses.device).clamp_min(1)
    return (losses / of_each).mean()


def _numbers(lengths: Any) -> Any:
    """Returns the numbers in a tensor, None if they are not known; what is no tensor stays as it is."""
    if not isinstance(lengths, Tensor):
        return lengths
    known = value_of(lengths)
    with torch._C._DisableTorchDispatch():
        return None if known is None else known.flatten().tolist()


def _one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    if num_classes < 1:
        return F.one_hot(tensor, num_classes)  # counting the classes needs values
    zeros = torch.zeros(*tensor.shape, num_classes, dtype=torch.long, device=tensor.device)
    return zeros.scatter_(-1, tensor.unsqueeze(-1), 1)


_NO = torch.tensor(False)
_ASSUMED: dict[Any, Callable[[], AbstractContextManager[Any]]] = {F.gaussian_nll_loss: _NoneRefused}
_ANYWHERE: dict[Any, Callable[..., Any]] = {
    torch.lstm: with_sizes(recurrent(torch.lstm)),
    **{op: with_sizes(op) for op in (torch.gru, torch.rnn_tanh, torch.rnn_relu)},
    torch._pack_padded_sequence: pack,
    torch._pad_packed_sequence: pad,
    F.one_hot: _one_hot,
    torch.ctc_loss: _ctc_loss,
    **{op: without_zeros(op) for op in (torch.prod, Tensor.prod)},
    **{op: cumulative_product(op) for op in (torch.cumprod, Tensor.cumprod)},
}
_ON_CPU: dict[Any, Callable[..., Any]] = {
    op: extremum(op)
    for name in ("max", "min", "median", "nanmedian")
    for op in (getattr(torch, name), getattr(Tensor, name))
}
