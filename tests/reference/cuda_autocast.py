"""CUDA's autocast itself, asked without a GPU: every build of torch has its kernels, and they run on fake tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map_only

Outcome = tuple[str, ...]  # dtypes and other types of all results, or ("raises", what)
Call = Callable[..., Any]


@contextmanager
def cuda_autocast(dtype: torch.dtype) -> Iterator[None]:
    """Switches CUDA's autocast on where there is no CUDA, which `torch.autocast` refuses."""
    torch.set_autocast_dtype("cuda", dtype)
    torch.set_autocast_enabled("cuda", True)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", False)
        torch.set_autocast_dtype("cuda", torch.float16)


def mixes(half: torch.dtype) -> dict[str, tuple[torch.dtype, ...]]:
    """Returns the formats of the first floating tensor of a call and of all others."""
    return {
        "16 bits": (half, half),
        "fp32": (torch.float32, torch.float32),
        "16 bits, then fp32": (half, torch.float32),
        "fp32, then 16 bits": (torch.float32, half),
    }


def floats(arguments: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor) and leaf.dtype is torch.float32]


def placed(arguments: Any, mix: tuple[torch.dtype, ...] | None, device: str, *, gradients: bool = False) -> Any:
    """Returns copies of the arguments of a call with their float32 tensors in the formats of a mix, if there is one.

    Under a `FakeTensorMode` they are fakes without values.
    """
    seen = 0

    def copied(tensor: Tensor) -> Tensor:
        nonlocal seen
        dtype = tensor.dtype
        if dtype is torch.float32 and mix is not None:
            dtype = mix[min(seen, 1)]
            seen += 1
        if torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None:
            copy = torch.empty_strided(tensor.shape, tensor.stride(), dtype=dtype, device=device)
        else:
            copy = tensor.detach().to(device, dtype, copy=True)
        return copy.requires_grad_(gradients and dtype.is_floating_point)

    return tree_map_only(Tensor, copied, arguments)


def outcome(call: Call, arguments: Any, context: Any, *, backward: bool = False) -> Outcome:
    """Returns the dtypes of what a call returns under a context, then those of the gradients of its arguments."""
    try:
        with context:
            results = call(*arguments[0], **arguments[1])
        seen = [kind(leaf) for leaf in tree_leaves(results)]
        if backward:
            losses = [r.float().sum() for r in tree_leaves(results) if isinstance(r, Tensor) and r.requires_grad]
            losses = [loss for loss in losses if loss.requires_grad]
            if losses:
                torch.autograd.backward(losses)
            seen += [kind(leaf.grad) for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor) and leaf.is_leaf]
    except Exception as error:  # whatever an op raises is what is compared
        return "raises", f"{type(error).__name__}: {error}"
    return tuple(seen)


def kind(value: object) -> str:
    return str(value.dtype).removeprefix("torch.") if isinstance(value, Tensor) else type(value).__name__


def on_fakes(call: Call, arguments: Any, mix: tuple[torch.dtype, ...] | None, device: str, context: Any) -> Outcome:
    """Returns the outcome on fake tensors of a device, without autograd, whose graph needs the device itself."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        return outcome(call, placed(arguments, mix, device), context)
