"""The loss of a model's output: one that is given, the output's own, or cross-entropy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mixlab.batches.calls import Batch, BatchError, call_model, elsewhere, form, is_pair, loss_part, misfit, part_form
from mixlab.batches.trees import tensors_of

Loss = Callable[[Any, Any], Tensor]

_LOSSES = (
    "the loss is the function that you give as loss, or the output's own .loss, or for a batch (inputs, targets) the "
    "cross-entropy of the output or its .logits"
)

_NO_GRADIENT = (
    "the loss depends on no parameter that requires a gradient; the model and its loss must not detach their outputs, "
    "nor run under torch.no_grad()"
)


def loss_of(output: Any, batch: Batch, loss: Loss | None = None, *, owner: str) -> Tensor:
    """Returns the loss of a model's output, by the order above.

    Args:
        output: What the model returned for the batch.
        batch: The batch.
        loss: Function of (output, targets), or of (output, batch) if the batch has no targets; None takes the output's
            own loss, or else cross-entropy.
        owner: Start of the messages, such as "trace".

    Raises:
        BatchError: If there is no loss, or it is not one floating number.
    """
    if loss is not None:
        return _one_number(call_loss(loss, output, batch, owner=owner), "loss must return", owner)
    own = own_loss(output)
    if own is not None:
        return _one_number(own, "the output's own .loss must be", owner)
    if not is_pair(batch):
        raise BatchError(
            f"{owner}: there is no loss: {_LOSSES}; got {_output_form(output)} for {form(batch)}{_taken(output)}"
        )
    logits = _logits(output, batch, owner)
    try:
        return call_loss(cross_entropy, logits, batch, owner=owner)  # type: ignore[no-any-return]
    except IndexError as error:
        raise BatchError(
            f"{owner}: targets must be class numbers below {logits.shape[-1]}, or -100 for those to ignore: {error}"
        ) from error


def call_loss(loss: Callable[[Any, Any], Any], output: Any, batch: Batch, *, owner: str, argument: str = "loss") -> Any:
    """Calls a loss, or what is called like one, and returns its result.

    Args:
        loss: Function of (output, targets), or of (output, batch) if the batch has no targets.
        output: What the model returned for the batch.
        batch: The batch.
        owner: Start of the messages, such as "trace".
        argument: The name of the function.

    Raises:
        BatchError: If it takes other arguments, or the targets are on another device than the output.
    """
    other = loss_part(batch)
    try:
        return loss(output, other)
    except Exception as error:
        name = "targets" if is_pair(batch) else "batch"
        if isinstance(error, TypeError) and (reason := misfit(loss, (output, other), {})):
            raise BatchError(f"{owner}: {argument}(output, {name}) failed: {reason}") from error
        devices = {tensor.device for tensor in tensors_of(output)}
        if words := elsewhere(devices, "the model's output", other, name):
            raise BatchError(f"{owner}: {words}") from error
        raise


def loss_on(model: Callable[..., Any], batch: Batch, loss: Loss | None = None, *, owner: str) -> Tensor:
    """Returns the loss of a model on a batch; no reference to the model's output is kept, but by autograd.

    Args:
        model: The model.
        batch: The batch.
        loss: As for `loss_of`.
        owner: Start of the messages, such as "trace".

    Raises:
        BatchError: If model, batch and loss do not fit together.
    """
    return loss_of(call_model(model, batch, owner=owner), batch, loss, owner=owner)


def require_loss(owner: str, loss: object, argument: str = "loss") -> None:
    """Raises TypeError if a loss is neither None nor a function, or if it is a class.

    Args:
        owner: Start of the message, such as "trace".
        loss: What came.
        argument: Its name.
    """
    if isinstance(loss, type):
        raise TypeError(f"{owner}: {argument} is the class {loss.__name__}; give an object of it: {loss.__name__}(...)")
    if loss is not None and not callable(loss):
        raise TypeError(
            f"{owner}: {argument} must be a function of (output, targets), or of (output, batch) for a batch without "
            f"targets, or None; got {type(loss).__name__}"
        )


def require_gradient(owner: str, loss: Tensor) -> None:
    """Raises BatchError if nothing can be trained with a loss, because no gradient flows back from it.

    Args:
        owner: Start of the message, such as "trace".
        loss: The loss.
    """
    if not loss.requires_grad:
        raise BatchError(f"{owner}: {_NO_GRADIENT}")


def require_gradients(owner: str, parameters: Iterable[Tensor]) -> None:
    """Raises BatchError if backward gave no parameter a gradient: the loss depends on other tensors alone.

    Args:
        owner: Start of the message, such as "trace".
        parameters: The model's parameters, after backward.
    """
    if all(parameter.grad is None for parameter in parameters):
        raise BatchError(f"{owner}: {_NO_GRADIENT}")


def own_loss(output: Any) -> Any:
    """Returns the loss that a model's output holds as an attribute or key "loss"; None if there is none.

    Args:
        output: What a model returned.
    """
    return _named(output, "loss")


def logits_of(output: Any) -> Any:
    """Returns an output that is a tensor itself, or the logits that it holds as an attribute or key; None if none.

    Args:
        output: What a model returned.
    """
    return output if isinstance(output, Tensor) else _named(output, "logits")


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Returns the mean cross-entropy; targets of -100 are ignored.

    Args:
        logits: Scores of C classes, (..., C); or, as for images, (B, C, ...).
        targets: Class numbers, (...), or for images (B, ...); or the probability of each class, (B, C).
    """
    if targets.is_floating_point() or logits.shape[:-1] != targets.shape:
        return F.cross_entropy(logits, targets)
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten())


def _logits(output: Any, batch: Batch, owner: str) -> Tensor:
    logits, targets = logits_of(output), loss_part(batch)
    if not (isinstance(logits, Tensor) and isinstance(targets, Tensor) and _are_logits(logits, targets)):
        came = _output_form(output if logits is None else logits)
        raise BatchError(
            f"{owner}: without a loss of its own or one that you give, a model must return logits, one floating tensor "
            f"(B, C) or (B, T, C), or an output with .logits; got {came} for targets {part_form(targets)}: "
            "give loss, a function of (output, targets), or to a model that takes the targets itself a dict of all its "
            "arguments"
        )
    return logits


def _are_logits(logits: Tensor, targets: Tensor) -> bool:
    """Whether logits and targets have the shapes that `cross_entropy` takes."""
    if logits.dim() < 2 or not logits.is_floating_point():
        return False
    if targets.is_floating_point():
        return logits.dim() == 2 and logits.shape == targets.shape
    images = logits.shape[:1] + logits.shape[2:]
    return targets.dtype in (torch.int64, torch.uint8) and targets.shape in (logits.shape[:-1], images)


def _one_number(value: object, must: str, owner: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise BatchError(f"{owner}: {must} one floating number, as a tensor; got {type(value).__name__}")
    if value.dim() or not value.is_floating_point():
        advice = ": reduce it with .mean() or .sum()" if value.dim() else ""
        raise BatchError(f"{owner}: {must} one floating number, as a tensor; got {part_form(value)}{advice}")
    return value


def _named(output: Any, name: str) -> Any:
    if isinstance(output, Tensor):
        return None
    return output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)


def _taken(output: Any) -> str:
    """Returns the loss to give if one number stands among the parts of an output; "" if none does, or several."""
    if isinstance(output, tuple | list):
        output = dict(enumerate(output))
    parts = output.items() if isinstance(output, Mapping) else ()
    numbers = [
        name for name, part in parts if isinstance(part, Tensor) and part.dim() == 0 and part.is_floating_point()
    ]
    return f"; give loss=lambda output, batch: output[{numbers[0]!r}]" if len(numbers) == 1 else ""


def _output_form(output: object) -> str:
    return f"an output that is {part_form(output)}"
