"""Corrections for ops that allocate different memory for fake tensors than for ordinary ones.

A fake tensor is a subclass of `Tensor`, and its ops are decompositions or meta kernels. Their shapes are right, but not
always their memory: autograd's formulas avoid in-place updates of subclasses (`areAnyTensorSubclassLike` in
torch/csrc/autograd/FunctionsManual.cpp and its callers in ATen), and kernels keep storages and dtypes that the fake op
does not have. Each entry here says what the kernel does; tests compare them with real steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

_aten = torch.ops.aten
_SIXTEEN_BIT = (torch.float16, torch.bfloat16)
_SUM = 0  # the mode of an EmbeddingBag


def instead_of(op: Any, *, as_on: str) -> Callable[..., Any] | None:
    """Returns the replacement of an op whose fake refuses what its kernels take; None for other ops."""
    replacement = _INSTEAD.get(op)
    return None if replacement is None else partial(replacement, as_on=as_on)


def corrected(op: Any, args: tuple[Any, ...], result: Any, *, as_on: str) -> Any:
    """Returns the result of a fake op with the storages and dtypes that the kernel's result has.

    Call it where no mode but the `FakeTensorMode` sees ops.

    Args:
        op: An overload of aten.
        args: Its positional arguments.
        result: The fake op's result.
        as_on: "cuda" or "cpu".
    """
    correct = _CORRECTIONS.get(op)
    return result if correct is None else correct(args, result, as_on)


def overwrites_own(op: Any, node: Any, made_by: str) -> bool:
    """Whether an autograd node writes an op's result into its first operand, provided the node made that operand.

    Args:
        op: An overload of aten.
        node: The node whose backward is running; False for one written in Python, which does exactly what its code
            says.
        made_by: The op that made the operand.
    """
    if node is None or isinstance(node, torch.autograd.function.BackwardCFunction):
        return False
    makers = _INTO_ZEROS if op in _GATHERED else _INTO_OWN.get(node.name(), {}).get(op, ())
    return made_by in makers


# Gradients of indexing, gather, take, max(dim), topk, sort, ...: zeros, into which the gradient is written.
_GATHERED = frozenset(
    {
        _aten.index_put.default,
        _aten.index_add.default,
        _aten.scatter_add.default,
        _aten.scatter.src,
        _aten.put.default,
    }
)


def _said(*ops: Any) -> tuple[str, ...]:
    return tuple(map(str, ops))


_INTO_ZEROS = _said(_aten.new_zeros.default, _aten.zeros.default, _aten.zeros_like.default)
_OF_SIGMOID = _said(
    *(_aten.sigmoid.default, _aten.add.Scalar, _aten.add.Tensor, _aten.log_sigmoid_forward.default, _aten.mul.Tensor)
)
_COMPARED = _said(
    *(_aten.lt.Tensor, _aten.gt.Tensor, _aten.le.Tensor, _aten.ge.Tensor, _aten.eq.Tensor, _aten.isnan.default)
)
_CLAMPED = {_aten.logical_and.default: _COMPARED, _aten.logical_or.default: _COMPARED}
# By node and op, the ops that made an operand which is overwritten.
_INTO_OWN: dict[str, dict[Any, tuple[str, ...]]] = {
    "BinaryCrossEntropyWithLogitsBackward0": dict.fromkeys(
        (_aten.sub.Tensor, _aten.mul.Tensor, _aten.div.Tensor, _aten.div.Scalar), _OF_SIGMOID
    ),
    "ClampBackward0": _CLAMPED,
    "ClampBackward1": _CLAMPED,
    # On CUDA; a CPU's are in `value_gradients`.
    **{f"{name}Backward{number}": _CLAMPED for name in ("Max", "Min", "Median", "Nanmedian") for number in (0, 1)},
}


def _within(storage: Tensor, result: Tensor) -> Tensor:
    """Returns a tensor of the result's shape that owns a larger storage."""
    return storage.as_strided(result.shape, result.stride())


def _mean_in_place(args: tuple[Any, ...], result: Tensor, _as_on: str) -> Tensor:
    """The mean or sum is written over the losses of all elements, and owns their storage."""
    if result.dim():
        return result
    of_all = torch.empty_like(args[0], dtype=result.dtype)
    return _within(of_all, result)


def _mean_in_place_as_input(args: tuple[Any, ...], result: Tensor, as_on: str) -> Tensor:
    return _mean_in_place(args, result.to(args[0].dtype), as_on)


def _like_input(args: tuple[Any, ...], result: Tensor, _as_on: str) -> Tensor:
    """A loss's gradient has the dtype of the input, whatever the target's."""
    return result if result.dtype is args[1].dtype else torch.empty_like(result, dtype=args[1].dtype)


def _larger_of_both(args: tuple[Any, ...], result: Tensor, _as_on: str) -> Tensor:
    """The result is allocated as large as the input, and then resized."""
    missing = args[0].numel() > result.numel()
    return _within(torch.empty(args[0].numel(), dtype=result.dtype), result) if missing else result


def _batch_norm(args: tuple[Any, ...], result: Any, as_on: str) -> Any:
    """A CPU's result has the input's memory format: of transposed rows it lies in order.

    Statistics are float32 on CUDA, and on a CPU if a parameter or running statistic is (mixed types).
    """
    out, *statistics = result
    if as_on == "cpu":
        out = torch.empty_like(out, memory_format=_format_of(args[0]))
    wide = as_on == "cuda" or any(isinstance(a, Tensor) and a.dtype is torch.float32 for a in args[1:5])
    if out.dtype in _SIXTEEN_BIT and wide:
        statistics = [torch.empty_like(one, dtype=torch.float32) for one in statistics]
    return (out, *statistics)


def _contiguous_gradient(_args: tuple[Any, ...], result: Any, _as_on: str) -> Any:
    """A layer norm's gradient of its input lies in order, however the input does."""
    gradient, *others = result
    if gradient is None:
        return result
    return (torch.empty_like(gradient, memory_format=torch.contiguous_format), *others)


def _gradient_as_input(args: tuple[Any, ...], result: Any, _as_on: str) -> Any:
    """The gradient of a norm's input has the input's memory format, not that of the gradient that comes."""
    gradient, *others = result
    if gradient is None:
        return result
    return (torch.empty_like(gradient, memory_format=_format_of(args[1])), *others)


def _as_gradient(args: tuple[Any, ...], result: Tensor, _as_on: str) -> Tensor:
    """The gradient of an activation lies as the gradient that comes."""
    return torch.empty_like(args[0], dtype=result.dtype) if args[0].shape == result.shape else result


def _format_of(tensor: Tensor) -> torch.memory_format:
    for dims, memory_format in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        ordered = tensor.dim() == dims and tensor.is_contiguous(memory_format=memory_format)
        if ordered and not tensor.is_contiguous():
            return memory_format
    return torch.contiguous_format


def _batch_norm_gradients(args: tuple[Any, ...], result: Any, as_on: str) -> Any:
    return _wanted_gradients(args, _gradient_as_input(args, result, as_on), as_on)


def _wanted_gradients(args: tuple[Any, ...], result: Any, as_on: str) -> Any:
    """A CPU's kernel makes no gradient that nobody needs, such as the batch's."""
    if as_on == "cuda":
        return result
    return tuple(part if wanted else None for part, wanted in zip(result, args[-1], strict=True))


def _bag_of_each_index(args: tuple[Any, ...], result: Any, as_on: str) -> Any:
    """A CPU sums bags without listing the bag of each index; in other modes that list has one more element."""
    if as_on == "cuda":
        return result
    weight, indices = args[:2]
    mode, padding = (args[place] if len(args) > place else default for place, default in ((4, _SUM), (8, -1)))
    fast = mode == _SUM and padding < 0 and weight.dtype in (torch.float32, *_SIXTEEN_BIT)
    size = indices.numel()
    bags = indices.new_empty(0) if fast else indices.new_empty(size + 1).as_strided((size,), (1,))
    return (result[0], bags, *result[2:])


def _grouped_mm(
    first: Tensor,
    second: Tensor,
    offs: Tensor | None = None,
    _bias: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    *,
    as_on: str,
) -> Tensor:
    """Multiplies groups of rows, as in mixtures of experts; torch's own fake takes bfloat16 only.

    One of (rows, K) x (G, K, N), (G, M, K) x (K, columns), (M, K) x (K, N) split along K, and (G, M, K) x (G, K, N). In
    builds with CUDA, rows are padded to 16 bytes (PyTorch, aten/src/ATen/native/GroupedMMUtils.h).
    """
    groups = offs.shape[:1] if offs is not None else first.shape[:1]
    rows, columns = first.shape[-2], second.shape[-1]
    shape = (*(groups if first.dim() == second.dim() else ()), rows, columns)
    dtype = out_dtype or first.dtype
    unit = 16 // dtype.itemsize if as_on == "cuda" or torch.version.cuda else 1
    padded = -(-columns // unit) * unit
    return first.new_empty((*shape[:-1], padded), dtype=dtype)[..., :columns]


def _ctc_loss(
    log_probabilities: Tensor,
    _targets: Tensor,
    _input_lengths: Sequence[int],
    target_lengths: Sequence[int],
    *_: Any,
    **_as_on: str,
) -> tuple[Tensor, Tensor]:
    """Losses, and for each step and each place in the longest target the probability of all ways there."""
    if log_probabilities.dtype in _SIXTEEN_BIT:
        raise NotImplementedError(f"no kernel takes {log_probabilities.dtype}: use .float()")
    steps, batch, _classes = log_probabilities.shape
    places = 2 * max(target_lengths, default=0) + 1
    return log_probabilities.new_empty(batch), log_probabilities.new_empty(batch, steps, places)


def _ctc_loss_gradient(_gradient: Tensor, log_probabilities: Tensor, *_: Any, **_as_on: str) -> Tensor:
    return torch.empty_like(log_probabilities, memory_format=torch.contiguous_format)


def _named(*names: str) -> list[Any]:
    """Returns those of these overloads ("op.overload") of aten that this version of torch has."""
    pairs = (name.split(".") for name in names)
    return [getattr(getattr(_aten, op), overload) for op, overload in pairs if hasattr(_aten, op)]


_INSTEAD: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys(_named("_grouped_mm.default"), _grouped_mm),
    _aten._ctc_loss.default: _ctc_loss,
    _aten._ctc_loss_backward.default: _ctc_loss_gradient,
}
_CORRECTIONS: dict[Any, Callable[[tuple[Any, ...], Any, str], Any]] = {
    **dict.fromkeys(_named("mse_loss.default", "smooth_l1_loss.default"), _mean_in_place),
    **dict.fromkeys(_named("soft_margin_loss.default", "binary_cross_entropy.default"), _mean_in_place_as_input),
    **dict.fromkeys(
        _named("mse_loss_backward.default", "smooth_l1_loss_backward.default", "soft_margin_loss_backward.default"),
        _like_input,
    ),
    **dict.fromkeys(_named("im2col.default", "col2im.default"), _larger_of_both),
    **dict.fromkeys(_named("native_batch_norm.default"), _batch_norm),
    **dict.fromkeys(_named("native_batch_norm_backward.default"), _batch_norm_gradients),
    **dict.fromkeys(_named("native_group_norm_backward.default"), _gradient_as_input),
    **dict.fromkeys(_named("native_layer_norm_backward.default"), _contiguous_gradient),
    **dict.fromkeys(
        _named("hardswish_backward.default", "softplus_backward.default", "elu_backward.default"), _as_gradient
    ),
    **dict.fromkeys(_named("_embedding_bag.default"), _bag_of_each_index),
}
