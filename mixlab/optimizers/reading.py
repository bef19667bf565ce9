"""The states of any optimizer, found and read as float32."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.optim import Optimizer

from mixlab.optimizers.layout import inner_tensors
from mixlab.optimizers.stored import StoredOptimizer


def unwrapped(optimizer: Optimizer) -> Optimizer:
    """Returns the optimizer inside of wrappers such as accelerate's, which keep it as their `optimizer`; or itself."""
    inner = getattr(optimizer, "optimizer", None)
    return unwrapped(inner) if isinstance(inner, Optimizer) and inner is not optimizer else optimizer


def state_tensors(optimizer: Optimizer, parameter: Tensor | None = None) -> Iterator[tuple[str, Tensor]]:
    """Yields (name, tensor) for each state of one parameter or of all, without the counters of steps."""
    states = optimizer.state.values() if parameter is None else [optimizer.state.get(parameter, {})]
    for state in states:
        yield from ((name, value) for name, value in state.items() if isinstance(value, Tensor) and name != "step")


def read_state(optimizer: Optimizer, parameter: Tensor, name: str) -> Tensor:
    """Returns a state of any optimizer in float32: one of these, or one that keeps plain tensors, as torch.optim does.

    Wrappers such as accelerate's are looked into. Tensors of torchao are dequantized. Complex values are complex64.

    Raises:
        KeyError: The parameter has no such state, or has not taken a step.
        TypeError: It is kept as codes whose meaning only the optimizer knows.
    """
    optimizer = unwrapped(optimizer)
    kept = optimizer.state.get(parameter, {}).get(name)
    if not isinstance(kept, Tensor):
        raise KeyError(f"read_state: this parameter has no {name!r} in {type(optimizer).__name__}")
    if isinstance(optimizer, StoredOptimizer) and name in optimizer._moments:
        return optimizer.read_state(parameter, name)
    if type(kept).dequantize is not Tensor.dequantize:
        return kept.dequantize().float()
    if not (kept.is_floating_point() or kept.is_complex()):
        raise TypeError(
            f"read_state: {name!r} holds codes in {kept.dtype}, which only {type(optimizer).__name__} reads"
        )
    return kept.to(torch.complex64) if kept.is_complex() else kept.float()


def state_bytes(optimizer: Optimizer) -> int:
    """Returns the bytes of all that an optimizer keeps for its parameters, whatever it keeps it in.

    Codes, scales, master weights and compensation count. Counters of steps do not, nor does a map of quantization,
    which is one for all parameters.
    """
    kept = {}
    for state in optimizer.state.values():
        for name, value in state.items():
            if isinstance(value, Tensor) and name not in ("step", "qmap1", "qmap2"):
                for inner, tensor in inner_tensors(value):
                    if inner != "qmap":
                        kept[tensor.data_ptr()] = tensor.nbytes
    return sum(kept.values())
