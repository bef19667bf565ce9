"""A GPU's mixed precision on a CPU: CUDA's autocast lists, and 16-bit matrix products accumulated in float32.

Two contexts, because they end at different places of a training step:

    with arithmetic(device, FP16):              # forward and backward
        with autocast(FP16, device):            # forward
            loss = criterion(model(inputs), targets)
        scaler.scale(loss).backward()

On CUDA the first only switches tf32 on or off, and the second is `torch.autocast`. On a CPU, tensors really are stored
in the 16-bit format, so type promotion, rounding between ops, saved activations and the dtypes of gradients are those
of a GPU. What a CPU does otherwise is mended: softmax, normalisation, exp, sum and the other ops that CUDA keeps in
float32 run in float32, and products and convolutions are computed from 16-bit operands in float32 and rounded once, as
a tensor core does it (and some ten times faster than a CPU's own float16). A convolution's bias is added to the rounded
result, and the backward of tanh rounds after each operation, as CUDA's kernels do. tf32 is float32 storage whose
operands are rounded to tf32, to nearest even, on their way into products and convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from mixlab.cross_entropy import cross_entropy_in_parts
from mixlab.formats import BF16, FP16, FP32, TF32, Format
from mixlab.rounding import round_to


def names(text: str) -> frozenset[str]:
    """Returns the words of a text: lists of ops are long, and read better without quotes."""
    return frozenset(text.split())


# CUDA's lists, by the names under which Python calls the ops (PyTorch, "CUDA Op-Specific Behavior" in the docs of
# torch.amp, and AT_FORALL_* in ATen/autocast_mode.h). The 16-bit ops that are not listed here are on the CPU's own
# 16-bit list.
COMPUTE_OPS = names("""
    mv addmv addr prelu chain_matmul linalg_multi_dot
    lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell
""")
FLOAT32_OPS = names("""
    __pow__ __rpow__ acos arccos asin arcsin cosh erfinv exp expm1 log log10 log2 log1p pow reciprocal rsqrt sinh tan
    softplus softmax softmin log_softmax logsumexp layer_norm native_layer_norm rms_norm group_norm
    sum prod cumsum cumprod norm frobenius_norm nuclear_norm normalize renorm
    linalg_norm linalg_vector_norm linalg_matrix_norm
    cosine_similarity dist pdist cdist nll_loss hinge_embedding_loss kl_div l1_loss smooth_l1_loss
    huber_loss mse_loss margin_ranking_loss multilabel_margin_loss multi_margin_loss soft_margin_loss
    triplet_margin_loss poisson_nll_loss cosine_embedding_loss binary_cross_entropy_with_logits
    interpolate upsample upsample_nearest upsample_bilinear
""")
WIDEST_OPS = names("""
    addcdiv addcmul atan2 arctan2 bilinear cross dot vdot grid_sample grid_sampler index_put index_put_ tensordot
    scatter_add
""")

_SIXTEEN_BIT = (torch.float16, torch.bfloat16)


def autocast(compute: Format | str, device: torch.device | str) -> AbstractContextManager[object]:
    """The context of a forward pass with float32 weights and 16-bit compute: CUDA's rules, whatever the device.

    Weights are cast once and cached until the context ends, as in `torch.autocast`. `binary_cross_entropy` raises, as
    on CUDA. On a CPU, a softmax inside `nn.MultiheadAttention(need_weights=True)` escapes the lists and stays in 16
    bits.

    Args:
        compute: fp16 or bf16, or its name; fp32 and tf32 switch autocast off.
        device: "cpu" or "cuda"; any other device gets its own `torch.autocast`.

    Raises:
        ValueError: Another format.
    """
    compute = Format.parse(compute) if isinstance(compute, str) else compute
    if compute in (FP32, TF32):
        return nullcontext()
    if compute not in (FP16, BF16):
        raise ValueError(f"autocast: compute must be fp32, tf32, fp16 or bf16, got {compute}")
    device_type = torch.device(device).type
    assert compute.dtype is not None
    if device_type != "cpu":
        return torch.autocast(device_type, dtype=compute.dtype)
    return _cpu_autocast(compute.dtype)


def run_backward(loss: Tensor, compute: Format | str, device: torch.device | str) -> None:
    """Runs the backward pass of a scalar loss that was computed under `autocast`, checkpoints included.

    `torch.utils.checkpoint` computes parts of the forward pass again in backward, and then switches autocast on by
    itself, but not what `autocast` adds to it on a CPU. Without checkpoints this is `loss.backward()`.

    Args:
        loss: Needs a gradient.
        compute, device: As for `autocast`.
    """
    compute = Format.parse(compute) if isinstance(compute, str) else compute
    emulated = compute in (FP16, BF16) and torch.device(device).type == "cpu"
    with _CudaLists(compute.dtype) if emulated and compute.dtype else nullcontext():
        # `Tensor.backward` and `torch.autograd.backward` leave function modes for their time; the engine does not.
        torch.autograd.Variable._execution_engine.run_backward(
            (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
        )


def arithmetic(device: torch.device | str, compute: Format | str = FP32) -> AbstractContextManager[object]:
    """The context of forward and backward in which a CPU multiplies 16-bit matrices as a tensor core does.

    With compute="tf32", float32 matrices are multiplied in tf32; with any other, in float32. On CUDA that is all this
    does, by torch's own switches for products and for convolutions; other devices it leaves alone.
    """
    compute = Format.parse(compute) if isinstance(compute, str) else compute
    device_type = torch.device(device).type
    if device_type == "cuda":
        return _cuda_tf32(compute == TF32)
    if device_type == "cpu":
        return _Float32Accumulation(tf32=compute == TF32)
    return nullcontext()


@contextmanager
def _cuda_tf32(on: bool) -> Iterator[None]:
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = on
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


@contextmanager
def _cpu_autocast(dtype: torch.dtype) -> Iterator[None]:
    with torch.autocast("cpu", dtype=dtype), _CudaLists(dtype):
        yield


class _CudaLists(TorchFunctionMode):
    """Adds to the CPU's autocast, which casts for products and convolutions, what CUDA's lists say of the other ops.

    Where autocast is off it does nothing.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.__name__
        if not torch.is_autocast_enabled("cpu"):
            return func(*args, **kwargs)
        if name == "binary_cross_entropy":
            raise RuntimeError(
                "binary_cross_entropy is unsafe under autocast: its input is a 16-bit probability; "
                "use binary_cross_entropy_with_logits on the logits, or leave autocast for this op"
            )
        if name == "cross_entropy":
            with self:
                return cross_entropy_in_parts(*args, **kwargs)
        if name in COMPUTE_OPS:
            dtype = self.dtype
        elif name in ("softmax", "log_softmax"):
            return self._softmax(func, args, kwargs)
        elif name in FLOAT32_OPS and kwargs.get("dtype") is None:
            dtype = torch.float32
        elif name in WIDEST_OPS:
            dtype = _widest((args, kwargs))
        else:
            return func(*args, **kwargs)
        args, kwargs = _cast((args, kwargs), dtype)
        with torch.autocast("cpu", enabled=False):
            return func(*args, **kwargs)

    def _softmax(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Asks for a result in float32, unless the caller asks for another, and leaves the input as it is."""
        operand = args[0] if args else kwargs["input"]
        asked = any(isinstance(value, torch.dtype) for value in (*args[2:], kwargs.get("dtype")))
        if not asked and operand.dtype in _SIXTEEN_BIT:
            args, kwargs = args[:2], {**kwargs, "dtype": torch.float32}
        with torch.autocast("cpu", enabled=False):
            return func(*args, **kwargs)


class _Float32Accumulation(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Computes products, convolutions, attention and softmax of 16-bit CPU tensors in float32, and rounds the results.

    With `tf32`, those of float32 tensors get their operands rounded to tf32, as far as a GPU computes them on tensor
    cores: products of a matrix and a vector it does not.
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
# The places of the operands that are multiplied; a bias or a matrix to add on is not among them.
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
    """Casts the 16- and 32-bit floating tensors among arguments; float64 and integers stay, as in autocast."""

    def cast(tensor: Tensor) -> Tensor:
        return tensor.to(dtype) if tensor.dtype in (torch.float32, *_SIXTEEN_BIT) else tensor

    return tree_map_only(Tensor, cast, tree)


def _widest(tree: Any) -> torch.dtype:
    dtypes: set[torch.dtype] = set()
    tree_map_only(Tensor, lambda tensor: dtypes.add(tensor.dtype), tree)
    sixteen = dtypes & set(_SIXTEEN_BIT)
    return sixteen.pop() if len(sixteen) == 1 and torch.float32 not in dtypes else torch.float32
