"""The states of any optimizer, found and read as float32."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from mixlab.optimizers.layout import inner_tensors
from mixlab.optimizers.stored import StoredOptimizer
from mixlab.wrappers import unwrapped

__all__ = ["read_state", "state_bytes", "state_tensors", "unwrapped"]

_VALUES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)  # others hold codes, which need a scale


def state_tensors(optimizer: Optimizer, parameter: Tensor | None = None) -> Iterator[tuple[str, Tensor]]:
    """Yields (name, tensor) for each state of one parameter, or of all; step counters are left out.

    A state that is a list of tensors yields each of them under its name.

    Args:
        optimizer: Any optimizer with torch's interface, wrapped or not.
        parameter: One of its parameters; None means all. A parameter without state yields nothing.
    """
    kept = unwrapped(optimizer).state
    for state in kept.values() if parameter is None else [kept.get(parameter, {})]:
        for name, value in state.items():
            if name != "step":
                yield from ((name, leaf) for leaf in tree_leaves(value) if isinstance(leaf, Tensor))


def read_state(optimizer: Optimizer, parameter: Tensor, name: str) -> Tensor:
    """Returns one state of a parameter in float32, from mixlab's optimizers or others that keep plain tensors.

    Wrappers such as accelerate's are opened. torchao's tensors are dequantized. Complex states become complex64. Codes
    are never returned as if they were values.

    Args:
        optimizer: Any optimizer with torch's interface, wrapped or not.
        parameter: One of its parameters that has taken a step.
        name: Name of the state, such as "exp_avg", "exp_avg_sq" or "momentum_buffer".

    Raises:
        KeyError: If the parameter has no such state, or has not taken a step.
        TypeError: If the state is stored as codes that only the optimizer can read.
    """
    inner = unwrapped(optimizer)
    kept = inner.state.get(parameter, {}).get(name)
    if not isinstance(kept, Tensor):
        raise KeyError(f"read_state: this parameter has no {name!r} in {type(inner).__name__}")
    if isinstance(inner, StoredOptimizer) and name in inner._moments:
        return inner.read_state(parameter, name)
    if type(kept).dequantize is not Tensor.dequantize:
        return kept.dequantize().float()
    if kept.is_complex():
        return kept.to(torch.complex64)
    if kept.dtype not in _VALUES:
        raise TypeError(f"read_state: {name!r} holds codes in {kept.dtype}, which only {type(inner).__name__} reads")
    return kept.float()


def state_bytes(optimizer: Optimizer) -> int:
    """Returns the bytes of the states of all parameters, in any optimizer and any tensor type.

    Codes, scales, master weights and compensation count. Step counters do not, nor does a quantization map, which all
    parameters share.

    Args:
        optimizer: Any optimizer with torch's interface, wrapped or not.
    """
    kept = {}
    for name, value in state_tensors(optimizer):
        if name not in ("qmap1", "qmap2"):
            for inner, tensor in inner_tensors(value):
                if inner != "qmap":
                    kept[tensor.data_ptr()] = tensor.nbytes
    return sum(kept.values())
