"""Fake ops with the memory of CUDA's kernels, where these keep different tensors for backward than a CPU's.

On a CPU, RMSNorm is made of several ops, the statistics of LayerNorm and the mask of dropout have the input's dtype, a
softmax from 16 bits to float32 needs a float32 copy of its input, and attention with a mask or dropout keeps all
scores. The replacements compute nothing: like all fake tensors, their results are empty. The sizes come from PyTorch's
sources (ATen/native/layer_norm.cpp, SoftMax.cpp and transformers/cuda/flash_attn/flash_api.cpp), and were compared with
steps on a GPU (the records of `mixlab measure memory`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mixlab.emulation import kernels
from mixlab.memory.fused_attention import attention

_SIXTEEN_BIT = (torch.float16, torch.bfloat16)


def _rms_norm(input: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:  # noqa: A002
    if weight is not None and weight.dtype is not input.dtype:
        return torch.rms_norm(input, normalized_shape, weight, eps)  # CUDA has no fused kernel for this either
    return _FusedNorm.apply(input, len(normalized_shape), False, weight)  # type: ignore[no-any-return, no-untyped-call]


def _layer_norm(
    input: Tensor,  # noqa: A002
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    if weight is not None and weight.dtype is not input.dtype:
        return torch.layer_norm(input, normalized_shape, weight, bias, eps, cudnn_enable)
    return _FusedNorm.apply(input, len(normalized_shape), True, weight, bias)  # type: ignore[no-any-return, no-untyped-call]


class _FusedNorm(torch.autograd.Function):
    """Keeps the input, the weight, and one or two float32 statistics per row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dims: int, centred: bool, *affine: Tensor | None) -> Tensor:
        rows = x.shape[: x.dim() - dims]
        statistics = [torch.empty(rows, device=x.device) for _ in range(2 if centred else 1)]
        ctx.save_for_backward(x, *affine, *statistics)
        ctx.affine = len(affine)
        return torch.empty_like(x, memory_format=torch.contiguous_format)

    @staticmethod
    def backward(ctx: Any, _gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, *affine = ctx.saved_tensors[: 1 + ctx.affine]
        return (
            torch.empty_like(x, memory_format=torch.contiguous_format),
            None,
            None,
            *(None if part is None else torch.empty_like(part) for part in affine),
        )


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:  # noqa: A002
    if inplace or not training or p == 0:
        return F.dropout(input, p, training, inplace)
    return torch.native_dropout(input, p, training)[0]


def _softmax(op: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def softmax(*args: Any, **kwargs: Any) -> Tensor:
        operand = args[0] if args else kwargs["input"]
        asked = [value for value in (*args[2:], kwargs.get("dtype")) if isinstance(value, torch.dtype)]
        wide = asked == [torch.float32] or (not asked and kernels.is_casting())
        if wide and operand.dtype in _SIXTEEN_BIT:
            return _Float32Softmax.apply(operand)  # type: ignore[no-any-return, no-untyped-call]
        return op(*args, **kwargs)

    return softmax


class _Float32Softmax(torch.autograd.Function):
    """Reads 16 bits and writes float32; backward does the reverse."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        result = torch.empty_like(x, dtype=torch.float32)
        ctx.save_for_backward(result)
        ctx.dtype = x.dtype
        return result

    @staticmethod
    def backward(ctx: Any, _gradient: Tensor) -> Tensor:
        return torch.empty_like(ctx.saved_tensors[0], dtype=ctx.dtype)


ON_CUDA: dict[Any, Callable[..., Any]] = {
    torch.Tensor.is_cuda.__get__: lambda _tensor: True,  # type: ignore[attr-defined]
    torch.Tensor.is_cpu.__get__: lambda _tensor: False,  # type: ignore[attr-defined]
    **{op: kernels.as_listed("rms_norm", _rms_norm) for op in (F.rms_norm, torch.rms_norm)},
    **{op: kernels.as_listed("layer_norm", _layer_norm) for op in (F.layer_norm, torch.layer_norm)},
    F.dropout: _dropout,
    **{op: _softmax(op) for op in (F.softmax, F.log_softmax)},
    **{op: _softmax(op) for op in (torch.softmax, torch.log_softmax, Tensor.softmax, Tensor.log_softmax)},
    F.scaled_dot_product_attention: kernels.as_listed("scaled_dot_product_attention", attention),
}
