"""The states of any optimizer, found and read as float32."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.optim import Optimizer

from mixlab.optimizers.layout import inner_tensors
from mixlab.optimizers.stored import StoredOptimizer


def unwrapped(optimizer: Optimizer) -> Optimizer:
    """Returns the optimizer inside a wrapper, such as accelerate's, that keeps it as `optimizer`; or itself.

    Args:
        optimizer: An optimizer, wrapped any number of times or not at all.
    """
    inner = getattr(optimizer, "optimizer", None)
    return unwrapped(inner) if isinstance(inner, Optimizer) and inner is not optimizer else optimizer


def state_tensors(optimizer: Optimizer, parameter: Tensor | None = None) -> Iterator[tuple[str, Tensor]]:
    """Yields (name, tensor) for each state of one parameter, or of all; step counters are left out.

    Args:
        optimizer: Any optimizer with torch's interface.
        parameter: One of its parameters; None means all. A parameter without state yields nothing.
    """
    states = optimizer.state.values() if parameter is None else [optimizer.state.get(parameter, {})]
    for state in states:
        yield from ((name, value) for name, value in state.items() if isinstance(value, Tensor) and name != "step")


def read_state(optimizer: Optimizer, parameter: Tensor, name: str) -> Tensor:
    """Returns one state of a parameter in float32, from mixlab's optimizers or others that keep plain tensors.

    Wrappers such as accelerate's are opened. torchao's tensors are dequantized. Complex states become complex64.

    Args:
        optimizer: Any optimizer with torch's interface.
        parameter: One of its parameters that has taken a step.
        name: Name of the state, such as "exp_avg", "exp_avg_sq" or "momentum_buffer".

    Raises:
        KeyError: If the parameter has no such state, or has not taken a step.
        TypeError: If the state is stored as codes that only the optimizer can read.
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
    """Returns the bytes of the states of all parameters, in any optimizer and any tensor type.

    Codes, scales, master weights and compensation count. Step counters do not, nor does a quantization map, which all
    parameters share.

    Args:
        optimizer: Any optimizer with torch's interface.
    """
    kept = {}
    for state in optimizer.state.values():
        for name, value in state.items():
            if isinstance(value, Tensor) and name not in ("step", "qmap1", "qmap2"):
                for inner, tensor in inner_tensors(value):
                    if inner != "qmap":
                        kept[tensor.data_ptr()] = tensor.nbytes
    return sum(kept.values())
