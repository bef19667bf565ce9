"""The layers of a model: which one a parameter belongs to, what a layer returns, and whether it can be watched."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

_PARAMETRIZATION = re.compile(r"(?:^|\.)parametrizations\.")


def layer_of(parameter: str) -> str:
    """Returns the name of the module that a parameter belongs to.

    >>> layer_of("fc1.weight"), layer_of("fc1.parametrizations.weight.original0"), layer_of("scale")
    ('fc1', 'fc1', '')
    """
    parametrization = _PARAMETRIZATION.search(parameter)
    return parameter[: parametrization.start()] if parametrization else parameter.rpartition(".")[0]


def parameters_by_layer(model: nn.Module) -> dict[str, dict[str, nn.Parameter]]:
    """Returns the parameters of each layer by name, in the order of the model's modules.

    A parameter that several layers share is listed under the first only; a layer may be left with none.
    """
    layers: dict[str, dict[str, nn.Parameter]] = {}
    taken: set[nn.Parameter] = set()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        own = layers.setdefault(layer_of(name), {})
        if parameter not in taken:
            taken.add(parameter)
            own[name] = parameter
    order = [name for name, _ in model.named_modules()]
    return {name: layers[name] for name in order if name in layers}


def floating_outputs(module: nn.Module, output: Any) -> list[Tensor]:
    """Returns the floating and complex tensors in a module's output, each once.

    For a recurrent layer such as an LSTM, only its outputs count, not the states that it returns with them.

    Args:
        module: The module that returned the output.
        output: A tensor, or tuples, lists, dicts and dataclasses of tensors.
    """
    if isinstance(module, nn.RNNBase) and isinstance(output, tuple):
        output = output[0]
    found = {id(tensor): tensor for tensor in _tensors(output, set())}
    return [tensor for tensor in found.values() if tensor.is_floating_point() or tensor.is_complex()]


def _tensors(tree: Any, seen: set[int]) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
        return
    if isinstance(tree, Mapping):
        parts = list(tree.values())
    elif isinstance(tree, tuple | list):
        parts = list(tree)
    elif is_dataclass(tree) and not isinstance(tree, type):
        parts = [getattr(tree, field.name, None) for field in fields(tree)]
    else:
        return
    if id(tree) not in seen:
        seen.add(id(tree))
        for part in parts:
            yield from _tensors(part, seen)


def storage_address(tensor: Tensor) -> int:
    """Returns the address of a tensor's storage, which its views share; of a DTensor, that of this process's part."""
    return local_part(tensor).untyped_storage().data_ptr()


def local_part(tensor: Tensor) -> Tensor:
    """Returns what this process holds of a DTensor, such as a parameter under FSDP, and any other tensor itself."""
    part: Tensor = getattr(tensor, "_local_tensor", tensor)  # `to_local` is an op, which autograd and modes see
    return part


def require_values(model: nn.Module, owner: str) -> None:
    """Raises ValueError, with the parameter's name, if a parameter has no values."""
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise ValueError(
                f"{owner}: parameter {name} has no shape yet, because its lazy module was not called; "
                "call the model once on a batch first"
            )
        if parameter.is_meta:
            raise ValueError(f"{owner}: parameter {name} is on the meta device, where tensors have no values")


def require_hooks(model: nn.Module, owner: str) -> None:
    """Raises TypeError, with the module's name, if a module runs as compiled code, which calls no layer hooks."""
    if compiled := scripted_part(model) or compiled_part(model):
        raise TypeError(
            f"{owner}: {compiled}, so its layers call no hooks; pass the original module, without torch.jit or "
            "torch.compile"
        )


def scripted_part(model: nn.Module) -> str:
    """Returns the first TorchScript module in words, "module encoder is a TorchScript module"; "" if there is none."""
    scripted = (name for name, module in model.named_modules() if isinstance(module, torch.jit.ScriptModule))
    return next((f"{_words(name)} is a TorchScript module" for name in scripted), "")


def compiled_part(model: nn.Module) -> str:
    """Returns the first module under torch.compile in words, "module encoder is compiled"; "" if there is none."""
    compiled = (
        name
        for name, module in model.named_modules()
        if isinstance(module, torch._dynamo.OptimizedModule) or getattr(module, "_compiled_call_impl", None) is not None
    )
    return next((f"{_words(name)} is compiled" for name in compiled), "")


def sharded_part(model: nn.Module) -> str:
    """Returns the first module under FSDP in words, "module encoder is divided by fully_shard"; "" if there is none."""
    for name, module in model.named_modules():
        for made in type(module).__mro__:
            if made.__module__.startswith("torch.distributed.fsdp") and made.__name__ in _SHARDED:
                return f"{_words(name)} is divided over processes by {_SHARDED[made.__name__]}"
    return ""


_SHARDED = {"FSDPModule": "fully_shard", "FullyShardedDataParallel": "FullyShardedDataParallel"}


def _words(name: str) -> str:
    return f"module {name}" if name else "the model"
