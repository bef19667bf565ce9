"""What a batch is, and how a model is called with it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from mixlab.batches.trees import map_tensors, tensors_of

Batch = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]

_HOW = "a tensor, a tuple or list of arguments, a dict of named arguments, or two of them: (inputs, targets)"


class BatchError(TypeError, ValueError):
    """Raised if model, batch and loss do not fit together; the message says which, and what to do."""


def is_pair(batch: object) -> bool:
    """Returns whether a batch is (inputs, targets): a tuple or list of exactly two.

    >>> is_pair((torch.ones(2), torch.ones(2))), is_pair({"a": torch.ones(2), "b": torch.ones(2)})
    (True, False)

    Args:
        batch: Any batch.
    """
    return isinstance(batch, tuple | list) and len(batch) == 2


def model_part(batch: Batch) -> Any:
    """Returns what the model is given: the inputs of (inputs, targets), or any other batch itself.

    Args:
        batch: Any batch.
    """
    return batch[0] if is_pair(batch) else batch  # type: ignore[index]


def loss_part(batch: Batch) -> Any:
    """Returns what the loss is given beside the output: the targets of (inputs, targets), or any other batch itself.

    Args:
        batch: Any batch.
    """
    return batch[1] if is_pair(batch) else batch  # type: ignore[index]


def require_batch(owner: str, batch: object, argument: str = "batch") -> None:
    """Checks that something is a batch with elements.

    Args:
        owner: Start of the message, such as "trace".
        batch: What came.
        argument: The name of what came.

    Raises:
        TypeError: If it is no tensor, tuple, list or mapping, or a mapping whose keys are no names; or if the batch,
            its inputs or its targets are a NumPy array.
        ValueError: If there is nothing in it.
    """
    if any(isinstance(part, np.ndarray) for part in (batch, model_part(batch), loss_part(batch))):  # type: ignore[arg-type]
        raise TypeError(f"{owner}: {argument} holds a NumPy array; torch.as_tensor(array) makes a tensor of it")
    if not isinstance(batch, Tensor | tuple | list | Mapping):
        raise TypeError(
            f"{owner}: {argument} must be {_HOW}; got {type(batch).__name__}; "
            "any other object is passed as a tuple of one, (object,)"
        )
    inputs = model_part(batch)
    for part in (batch, inputs):
        if isinstance(part, Mapping) and not all(isinstance(name, str) for name in part):
            raise TypeError(
                f"{owner}: {argument} must have the names of the model's arguments as keys, got {list(part)!r:.60}"
            )
    tensors = tensors_of(inputs)
    if (isinstance(batch, tuple | list | Mapping) and not len(batch)) or (
        tensors and not any(tensor.numel() for tensor in tensors)
    ):
        raise ValueError(f"{owner}: {argument} is empty: got {form(batch)}; a batch needs at least one row")


def require_dense(owner: str, batch: object, argument: str = "batch") -> None:
    """Raises TypeError if a tensor of the batch is sparse, quantized or nested.

    Args:
        owner: Start of the message, such as "trace".
        batch: The batch.
        argument: Its name.
    """
    for tensor in tensors_of(batch):
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested:
            raise TypeError(f"{owner}: {argument} must hold dense tensors, got one that is sparse, quantized or nested")


def require_real(owner: str, batch: object, argument: str = "batch") -> None:
    """Raises ValueError if a tensor of the batch has no values because it is on the meta device.

    Args:
        owner: Start of the message, such as "real_steps".
        batch: The batch.
        argument: Its name.
    """
    if any(tensor.is_meta for tensor in tensors_of(batch)):
        raise ValueError(f"{owner}: {argument} is on the meta device, where tensors have no values")


def require_same_device(owner: str, model: nn.Module, batch: object) -> None:
    """Raises BatchError if a batch is on another device than the model; the meta device counts as any.

    Args:
        owner: Start of the message, such as "trace".
        model: The model; one that is split over devices takes any batch.
        batch: The batch. Numbers without dimensions may be on the CPU.
    """
    devices = _devices(model)
    real = [tensor for tensor in tensors_of(batch) if not tensor.is_meta]
    if torch.device("meta") not in devices and (words := elsewhere(devices, "the model", real)):
        raise BatchError(f"{owner}: {words}")


def form(batch: object) -> str:
    """Returns what a batch is, in words, two levels deep.

    >>> form(({"a": torch.ones(2, 3)}, torch.zeros(2, dtype=torch.long)))
    '(a dict of a, torch.int64 (2,))'

    Args:
        batch: Anything.
    """
    if is_pair(batch):
        return f"({part_form(batch[0])}, {part_form(batch[1])})"  # type: ignore[index]
    return part_form(batch)


def layout(batch: object) -> str:
    """Returns the parts of a batch in words, without shapes, which may differ from step to step.

    >>> layout(({"b": torch.ones(2, 3), "a": 1}, torch.zeros(2)))
    '(a dict of a, b, a tensor)'

    Args:
        batch: Any batch.
    """
    parts = [_part_layout(part) for part in (batch if is_pair(batch) else (batch,))]  # type: ignore[attr-defined]
    return f"({', '.join(parts)})" if is_pair(batch) else parts[0]


def _part_layout(part: object) -> str:
    if isinstance(part, Mapping):
        return f"a dict of {', '.join(sorted(map(str, part)))}"
    return "a tensor" if isinstance(part, Tensor) else part_form(part)


def part_form(batch: object) -> str:
    """Returns what a batch without targets is, or a part of one, in words."""
    if isinstance(batch, Tensor):
        return f"{batch.dtype} {tuple(batch.shape)}"
    if isinstance(batch, Mapping):
        return f"a dict of {', '.join(map(str, batch)) or 'nothing'}"
    if isinstance(batch, tuple | list) and not isinstance(batch, PackedSequence):
        return f"a {'list' if isinstance(batch, list) else 'tuple'} of {len(batch)}"
    return type(batch).__name__


def map_batch(
    batch: Batch, given: Callable[[Tensor], Tensor], targets: Callable[[Tensor], Tensor] | None = None
) -> Batch:
    """Returns a batch with functions' results in place of its tensors.

    Args:
        batch: The batch.
        given: For the tensors that the model is given.
        targets: For the targets of (inputs, targets); None for the same.
    """
    if is_pair(batch):
        return map_tensors(given, model_part(batch)), map_tensors(targets or given, loss_part(batch))
    return map_tensors(given, batch)  # type: ignore[no-any-return]


def placed(batch: Batch, device: torch.device | str, dtype: torch.dtype | None = None, *, new: bool = False) -> Batch:
    """Returns a batch on a device, with the floating tensors that the model is given in a format.

    Args:
        batch: The batch.
        device: Where.
        dtype: The format of the model's weights; None leaves formats as they are.
        new: Whether tensors are copied even if nothing changes.
    """
    return map_batch(
        batch,
        lambda tensor: tensor.to(device, dtype if tensor.is_floating_point() else None, copy=new),
        lambda tensor: tensor.to(device, copy=new),
    )


def call_model(model: Callable[..., Any], batch: Batch, *, owner: str) -> Any:
    """Calls a model with its part of a batch, and returns its output.

    Args:
        model: The model.
        batch: The batch.
        owner: Start of the messages, such as "trace".

    Raises:
        BatchError: If the model has no forward or takes other arguments, or the batch is on another device.
    """
    inputs = model_part(batch)
    args, kwargs = _arguments(inputs)
    try:
        return model(*args, **kwargs)
    except TypeError as error:
        if reason := misfit(model, args, kwargs):
            raise BatchError(f"{owner}: {_called(batch)} failed: {reason}; {_other_call(model, batch)}") from error
        raise
    except NotImplementedError as error:
        if "forward" in str(error):  # torch's own words, of nn.Module and of modules that inherit its forward
            raise BatchError(
                f"{owner}: {type(model).__name__} has no forward, which the batch is for; write one that returns what "
                "the loss is made of, or the loss itself as {'loss': ...}"
            ) from error
        raise
    except Exception as error:
        if words := elsewhere(_devices(model), "the model", inputs):
            raise BatchError(f"{owner}: {words}") from error
        raise


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, tuple | list) and not isinstance(inputs, PackedSequence):
        return tuple(inputs), {}
    return (inputs,), {}


def misfit(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Returns why a function or module does not take these arguments; "" if it does, or if it has no signature."""
    try:
        signature = inspect.signature(_forward(function))
    except (TypeError, ValueError):
        return ""
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        return str(error)
    return ""


def _forward(function: Callable[..., Any]) -> Callable[..., Any]:
    return function.forward if isinstance(function, nn.Module) else function


def _called(batch: Batch) -> str:
    """Returns how the model was called, such as "model(**batch)"."""
    inputs, name = model_part(batch), "inputs" if is_pair(batch) else "batch"
    args, kwargs = _arguments(inputs)
    return f"model({'**' if kwargs else '' if args and args[0] is inputs else '*'}{name})"


def _other_call(model: Callable[..., Any], batch: Batch) -> str:
    if is_pair(batch) and not isinstance(batch[0], Mapping):  # type: ignore[index]
        return "a batch of two is (inputs, targets); for two arguments give ((a, b), targets) or a dict"
    names = [name for name, one in inspect.signature(_forward(model)).parameters.items() if one.kind in _TAKEN]
    return f"the model takes {', '.join(names) or 'nothing'}"


_TAKEN = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.KEYWORD_ONLY,
)


def elsewhere(devices: set[torch.device], whose: str, part: Any, what: str = "batch") -> str:
    """Returns in words that a tensor is on another device than what uses it; "" if none is.

    Args:
        devices: The devices of what uses the tensors; nothing is said of a model that is split over several.
        whose: Its name, such as "the model".
        part: The batch, or a part of one. Numbers without dimensions may be on the CPU.
        what: The name of the part.
    """
    if len(devices) == 1:
        (home,) = devices
        for tensor in tensors_of(part):
            if tensor.device != home and not (tensor.device.type == "cpu" and tensor.dim() == 0):
                return f"{what} has a tensor on {tensor.device}, {whose} is on {home}; move one of them with .to(...)"
    return ""


def _devices(model: object) -> set[torch.device]:
    return {parameter.device for parameter in model.parameters()} if isinstance(model, nn.Module) else set()
