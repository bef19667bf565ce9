"""Gradients whose formulas depend on values: autograd takes another way for fake tensors, which have none.

The extremum of all elements shares its gradient among the elements that reach it; of the two ways, a CPU takes the one
for a value that is not NaN. Products divide by their factors if none is zero, which is assumed here. The formulas are
those of PyTorch (torch/csrc/autograd/FunctionsManual.cpp and aten/src/ATen/native/ReduceOps.cpp), op by op.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_Op = Callable[..., Any]


def extremum(op: _Op) -> _Op:
    """Returns the replacement of an op such as `torch.max`: it passes all calls but those of one tensor alone."""

    def replacement(*args: Any, **kwargs: Any) -> Any:
        (x, *others) = args or (kwargs.get("input"),)
        if others or len(kwargs) > (not args) or not _differentiated(x):
            return op(*args, **kwargs)
        return _Extremum.apply(x, op)  # type: ignore[no-untyped-call]

    return replacement


def without_zeros(op: _Op) -> _Op:
    """Returns the replacement of `torch.prod`, for factors that are not zero."""

    def replacement(*args: Any, **kwargs: Any) -> Any:
        x: Any = args[0] if args else kwargs.get("input")
        if not _differentiated(x) or x.is_complex() or not x.dim():
            return op(*args, **kwargs)
        dim = args[1] if len(args) > 1 else kwargs.get("dim")
        keepdim = args[2] if len(args) > 2 else kwargs.get("keepdim", False)
        return _Product.apply(x, op, dim, keepdim, args[1:], kwargs)  # type: ignore[no-untyped-call]

    return replacement


def cumulative_product(op: _Op) -> _Op:
    """Returns the replacement of `torch.cumprod`, for factors that are not zero."""

    def replacement(*args: Any, **kwargs: Any) -> Any:
        x: Any = args[0] if args else kwargs.get("input")
        dim = args[1] if len(args) > 1 else kwargs.get("dim")
        if not _differentiated(x) or x.is_complex() or not isinstance(dim, int) or "out" in kwargs:
            return op(*args, **kwargs)
        if x.numel() <= 1 or x.shape[dim] == 1:
            return op(*args, **kwargs)
        return _CumulativeProduct.apply(x, op, dim, args[1:], kwargs)  # type: ignore[no-untyped-call]

    return replacement


def _differentiated(x: Any) -> bool:
    return isinstance(x, Tensor) and x.requires_grad and torch.is_grad_enabled()


class _Extremum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, op: _Op) -> Any:
        value = op(x)
        ctx.save_for_backward(x, value)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        x, value = ctx.saved_tensors
        value.isnan()
        reached = x == value
        shares = gradient.new_zeros(x.shape, dtype=x.dtype)
        return shares.masked_fill_(reached, gradient / reached.sum()), None


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, op: _Op, dim: int | None, keepdim: bool, args: Any, kwargs: Any) -> Any:
        result = op(x, *args, **{name: value for name, value in kwargs.items() if name != "input"})
        ctx.save_for_backward(x, result)
        ctx.dim, ctx.keepdim = dim, keepdim
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, result = ctx.saved_tensors
        x = x.to(gradient.dtype)
        zeros = x == 0
        if ctx.dim is None:
            del zeros
        else:
            if not ctx.keepdim:
                gradient, result = gradient.unsqueeze(ctx.dim), result.unsqueeze(ctx.dim)
            of_each = zeros.sum(ctx.dim, keepdim=True)
            of_each.sum()
        return gradient * (result / x), None, None, None, None, None


class _CumulativeProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, op: _Op, dim: int, args: Any, kwargs: Any) -> Any:
        result = op(x, *args, **{name: value for name, value in kwargs.items() if name != "input"})
        ctx.save_for_backward(x, result)
        ctx.dim = dim
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, result = ctx.saved_tensors
        gradient = gradient.to(x.dtype)
        weighted = result * gradient
        zeros = x == 0
        zeros.any()
        flipped = weighted.flip(ctx.dim)
        summed = flipped.cumsum(ctx.dim)
        summed_back = summed.flip(ctx.dim)
        del flipped, summed
        return summed_back.div(x), None, None, None, None
