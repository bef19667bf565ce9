"""A GPU's mixed precision on a CPU: CUDA's autocast lists, and 16-bit matrix products accumulated in float32.

There are two contexts, because they end at different points of a training step:

    with arithmetic(device, FP16):              # forward and backward
        with autocast(device, FP16):            # forward
            loss = criterion(model(inputs), targets)
        scaler.scale(loss).backward()

On CUDA the first only switches tf32 on or off, and the second is `torch.autocast`. On a CPU, tensors really are stored
in the 16-bit format, so type promotion, rounding between ops, saved activations and the dtypes of gradients are the
same as on a GPU. Where a CPU computes differently, it is corrected. CUDA's lists replace the CPU's
(`mixlab.emulation.kernels`), so softmax, layer_norm, exp, sum and the other ops that CUDA keeps in float32 run in
float32; batch norm is on no list and hands on 16 bits. Matrix products and convolutions take 16-bit operands, compute
in float32 and round once, as a tensor core does. On CPUs without units for float16 this is many times as fast as their
own float16. A convolution's bias is added to the rounded result, and the backward of tanh rounds after each operation,
as CUDA's kernels do. tf32 is float32 storage: the operands of matrix products and convolutions are rounded to tf32, to
nearest even.

What is not a GPU's: the order of sums, how a tensor core's accumulator cuts and rounds them, the last bits of exp, erf,
rsqrt and the like, and how a GPU rounds to tf32, which differs from op to op and is compared with no record.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from mixlab.emulation.model_contexts import emulated
from mixlab.formats import BF16, FP16, FP32, TF32, Format, round_to
from mixlab.process import OFF, ON, TF32_SWITCHES

_SIXTEEN_BIT = (torch.float16, torch.bfloat16)


def autocast(device: torch.device | str, compute: Format | str) -> AbstractContextManager[object]:
    """Returns a context for a forward pass with float32 weights and 16-bit compute, by CUDA's rules on CPU and CUDA.

    Weights are cast once and cached until the context ends, as in `torch.autocast`. `binary_cross_entropy` raises, as
    on CUDA. On a CPU, a softmax inside `nn.MultiheadAttention(need_weights=True)` escapes the lists and stays in 16
    bits.

    >>> model, inputs = torch.nn.Linear(4, 1), torch.ones(2, 4)
    >>> with autocast("cpu", "bf16"):
    ...     print(model(inputs).dtype, model(inputs).exp().dtype)  # by CUDA's lists; a CPU's own keep exp in bf16
    torch.bfloat16 torch.float32

    A training step also needs `arithmetic`, in backward too:

    >>> with arithmetic("cpu"):
    ...     with autocast("cpu", "bf16"):
    ...         loss = model(inputs).exp().mean()
    ...     loss.backward()
    >>> model.weight.grad.dtype
    torch.float32

    Args:
        device: Where the model is: "cpu" or "cuda". Another device gets its own `torch.autocast`.
        compute: fp16 or bf16, or its name. fp32 and tf32 switch autocast off.

    Raises:
        TypeError: If `compute` is not a format.
        ValueError: If it is another format.
    """
    compute = Format.of(compute)
    if compute in (FP32, TF32):
        return nullcontext()
    if compute not in (FP16, BF16):
        raise ValueError(f"autocast: compute must be fp32, tf32, fp16 or bf16, got {compute}")
    device_type = torch.device(device).type
    assert compute.dtype is not None
    if device_type != "cpu":
        return torch.autocast(device_type, dtype=compute.dtype)
    return emulated(compute.dtype)


def arithmetic(device: torch.device | str, compute: Format | str = FP32) -> AbstractContextManager[object]:
    """Returns a context for forward and backward in which a CPU multiplies 16-bit matrices as a tensor core does.

    On CUDA it only switches tf32 on or off, for products and convolutions. On other devices it has no effect.

    Args:
        device: Where the model is.
        compute: tf32, or its name, to multiply float32 matrices in tf32. With any other format they stay in float32.

    Raises:
        TypeError: If `compute` is not a format.
        ValueError: If no format has this name.
    """
    compute = Format.of(compute)
    device_type = torch.device(device).type
    if device_type == "cuda":
        return TF32_SWITCHES.held(ON if compute == TF32 else OFF)
    if device_type == "cpu":
        return _Float32Accumulation(tf32=compute == TF32)
    return nullcontext()


class _Float32Accumulation(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Computes products, convolutions, attention and softmax of 16-bit CPU tensors in float32, and rounds the results.

    With `tf32`, it also rounds float32 operands to tf32, in the ops that a GPU computes on tensor cores; products of a
    matrix and a vector are not among them.
    """

    def __init__(self, *, tf32: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tf32 = tf32

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        dtype = next((a.dtype for a in args if isinstance(a, Tensor)), None) if func in _ACCUMULATING_OPS else None
        if dtype is torch.float32 and self.tf32 and func in _TENSOR_CORE_OPERANDS:
            rounded = (_tf32(arg) if place in _TENSOR_CORE_OPERANDS[func] else arg for place, arg in enumerate(args))
            return func(*rounded, **kwargs)
        if dtype not in _SIXTEEN_BIT:
            return func(*args, **kwargs)
        if func is _TANH_BACKWARD:
            gradient, result = args
            return gradient * (1 - result * result)
        if func is _CONVOLUTION and args[2] is not None:
            bias = args[2].view(-1, *[1] * (args[1].dim() - 2))
            return self.__torch_dispatch__(func, types, (*args[:2], None, *args[3:]), kwargs).add_(bias)
        args, kwargs = _cast((args, kwargs), torch.float32)
        result = func(*args, **kwargs)
        if func is _ATTENTION:  # its second result, the softmax statistics, is float32 on every device
            return (_cast(result[0], dtype), *result[1:])
        return _cast(result, dtype)


_aten = torch.ops.aten
_ATTENTION = _aten._scaled_dot_product_flash_attention_for_cpu.default
_CONVOLUTION = _aten.convolution.default
_TANH_BACKWARD = _aten.tanh_backward.default
_ATTENTION_BACKWARD = _aten._scaled_dot_product_flash_attention_for_cpu_backward.default
_ACCUMULATING_OPS = frozenset(
    {
        _aten.mm.default,
        _aten.addmm.default,
        _aten.bmm.default,
        _aten.baddbmm.default,
        _aten.addbmm.default,
        _aten.mv.default,
        _aten.addmv.default,
        _aten.dot.default,
        _aten.linear.default,
        _aten.convolution_backward.default,
        _aten._softmax.default,
        _aten._log_softmax.default,
        _aten.nll_loss_forward.default,
        _aten.nll_loss2d_forward.default,
        _CONVOLUTION,
        _TANH_BACKWARD,
        _ATTENTION,
        _ATTENTION_BACKWARD,
    }
)
# The positions of the operands that are multiplied, without a bias or a matrix to add.
_TENSOR_CORE_OPERANDS = {
    _aten.mm.default: (0, 1),
    _aten.addmm.default: (1, 2),
    _aten.bmm.default: (0, 1),
    _aten.baddbmm.default: (1, 2),
    _aten.addbmm.default: (1, 2),
    _aten.linear.default: (0, 1),
    _CONVOLUTION: (0, 1),
    _aten.convolution_backward.default: (0, 1, 2),
    _ATTENTION: (0, 1, 2),
    _ATTENTION_BACKWARD: (0, 1, 2, 3),
}


def _tf32(operand: Any) -> Any:
    return round_to(operand.detach(), TF32, overflow="inf") if isinstance(operand, Tensor) else operand


def _cast(tree: Any, dtype: torch.dtype) -> Any:
    """Casts the 16- and 32-bit floating tensors in arguments. Others, such as float64 and integers, stay."""

    def cast(tensor: Tensor) -> Tensor:
        return tensor.to(dtype) if tensor.dtype in (torch.float32, *_SIXTEEN_BIT) else tensor

    return tree_map_only(Tensor, cast, tree)
