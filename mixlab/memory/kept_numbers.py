"""Numbers of Python that autograd keeps, 8 bytes each, on a CPU.

A product of a tensor and a number keeps the number as a tensor of its own, for the tensor's gradient. It is made below
all that a dispatch mode sees. Given as a fake tensor instead, it is seen, and lives as long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_ATTRIBUTE = "_mixlab_kept"


def _with_kept_number(op: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def product(*args: Any, **kwargs: Any) -> Tensor:
        names = [name for name in ("other", "value") if name in kwargs]
        if len(args) > 1:
            args = (args[0], _kept(args[0], args[1]), *args[2:])
        elif args and names:
            kwargs = {**kwargs, names[0]: _kept(args[0], kwargs[names[0]])}
        return op(*args, **kwargs)

    return product


def _kept(operand: Any, number: Any) -> Any:
    """Returns a 0-dimensional tensor for a number that is kept for the operand's gradient."""
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    if not is_number or not isinstance(operand, Tensor) or not operand.is_floating_point():
        return number
    if not (operand.requires_grad and torch.is_grad_enabled()):
        return number
    if operand.dim():
        return torch.empty((), dtype=torch.float64 if isinstance(number, float) else torch.int64)
    # Next to another scalar, a tensor in float64 would decide on the result's dtype.
    kept = torch.empty(8 // operand.dtype.itemsize, dtype=operand.dtype)[0]
    if operand.dtype.itemsize < 8:
        setattr(kept, _ATTRIBUTE, True)
    return kept


def is_kept(tensor: Tensor) -> bool:
    """Whether a tensor stands for a number that the op copies in its own dtype first."""
    return hasattr(tensor, _ATTRIBUTE)


def _quotient_of_number(tensor: Tensor, number: Any) -> Tensor:
    """Returns number / tensor, which torch computes as a product."""
    return _with_kept_number(Tensor.mul)(tensor.reciprocal(), number)


_PRODUCTS = ("mul", "multiply", "div", "divide", "true_divide")
ON_CPU: dict[Any, Callable[..., Any]] = {
    **{op: _with_kept_number(op) for name in _PRODUCTS for op in (getattr(torch, name), getattr(Tensor, name))},
    **{op: _with_kept_number(op) for name in _PRODUCTS for op in (getattr(Tensor, f"{name}_"),)},
    Tensor.__rdiv__: _quotient_of_number,
}
