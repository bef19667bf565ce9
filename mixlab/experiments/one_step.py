"""One training step taken apart: cast, forward, scaled loss, backward, unscale, check, step, update."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mixlab.formats import FP32, Format, dtype_name, round_to
from mixlab.layers import floating_outputs, layer_of, require_hooks
from mixlab.optimizers import state_tensors
from mixlab.probes.histograms import dense, stored_values
from mixlab.training import Batch, Trainer


@dataclass(frozen=True)
class Card:
    """One tensor as it is at one stage.

    Attributes:
        name: E.g. "gradient of hidden1.weight".
        format: In which it is stored.
        value: The element that is followed, or the only one; NaN and inf are values too.
        amax: The largest finite magnitude.
        numel, zeros, non_finite: Counts of elements.
    """

    name: str
    format: str
    value: float
    amax: float
    numel: int
    zeros: int
    non_finite: int


@dataclass(frozen=True)
class Stage:
    """One of the eight parts of a step: the line of code that does it, what it did in words, and the tensors."""

    name: str
    code: str
    words: str
    cards: tuple[Card, ...]


def dissect(trainer: Trainer, *, parameter: str | None = None, element: int | None = None) -> tuple[Stage, ...]:
    """Takes the trainer's next step, exactly as `trainer.steps(1)` does, and returns its eight stages.

    Args:
        trainer: At any step.
        parameter: Whose weight is followed; None takes the first of the model that is trained.
        element: Its index in the flattened parameter; None takes one whose gradient has the median magnitude.

    Raises:
        ValueError: No such parameter or element, or one that no gradient reaches.
        TypeError: The model, or a part of it, runs as compiled code.
    """
    if not isinstance(trainer, Trainer):
        raise TypeError(f"dissect: trainer must be a Trainer, got {type(trainer).__name__}")
    require_hooks(trainer.model, "dissect")
    batch = trainer.next_batch()
    name, exact = _followed(trainer, parameter, batch)  # the gradient as float32 would have it
    weight = dict(trainer.model.named_parameters(remove_duplicate=False))[name]
    if element is None:
        element = _median(exact)
    if type(element) is not int or not 0 <= element < weight.numel():
        raise ValueError(f"dissect: element must be from 0 to {weight.numel() - 1}, got {element!r}")
    return tuple(_stages(trainer, batch, name, weight, element, float(exact.flatten()[element])))


def _stages(
    trainer: Trainer, batch: Any, name: str, weight: nn.Parameter, element: int, exact: float
) -> Iterator[Stage]:
    recipe, scaler = trainer.recipe, trainer.scaler
    checked = recipe.scaler != "none"
    scale = scaler.get_scale()
    before = weight.detach().clone()
    computed = _computed(before, recipe.compute)
    yield Stage(
        "cast",
        "with autocast(...):" if recipe.autocast else "model(inputs)",
        _cast_words(recipe.weights, recipe.compute),
        (_card(f"stored {name}", before, element), _card("as the product sees it", computed, element, recipe.compute)),
    )

    with _watching(trainer.model, layer_of(name)) as modules:
        loss, _ = trainer.backward(batch)
    seen = next(module for module in modules if module.output is not None)
    layer, output, output_gradient = seen.name or "the model", seen.output, seen.gradient
    assert output is not None
    yield Stage(
        "forward",
        "loss = criterion(model(inputs), targets)",
        f"{f'Layer {layer}' if seen.name else 'The model'} multiplies in {recipe.compute} and hands on "
        f"{dtype_name(output.dtype)}; the loss is {float(loss):.4g}.",
        (_card(f"output of {layer}", output), _card("loss", loss)),
    )
    scaled = loss.float() * trainer.task.loss_weight * scale
    yield Stage(
        "scaled loss",
        "scaler.scale(loss).backward()",
        f"The loss is multiplied by {scale:g}, and with it every gradient to come."
        if recipe.scaler != "none"
        else "There is no scaler: gradients keep their size, however small.",
        (_card("loss", loss), _card("scaled loss", scaled)),
    )
    assert weight.grad is not None
    scaled_gradient = dense(weight.grad.detach()).clone()
    lost = int((scaled_gradient == 0).sum())
    yield Stage(
        "backward",
        "scaler.scale(loss).backward()",
        f"The gradient of {name} arrives in {dtype_name(scaled_gradient.dtype)}"
        f"{', the scale still in it' if checked else ''}: {lost:,} of {scaled_gradient.numel():,} elements are zero.",
        (
            *([_card(f"gradient of the output of {layer}", output_gradient)] if output_gradient is not None else []),
            _card(f"gradient of {name}", scaled_gradient, element),
        ),
    )
    gradients = trainer.unscale()
    unscaled = dense(weight.grad.detach()).clone()
    yield Stage(
        "unscale",
        "scaler.unscale_(optimizer)",
        f"Divided by {scale:g}, the gradient has its own size again; in float32 it would be {exact:.4g}."
        if recipe.scaler != "none"
        else f"Nothing to divide by. In float32 the gradient would be {exact:.4g}.",
        (_card("gradient, unscaled", unscaled, element), _card("as float32 computes it", torch.tensor(exact))),
    )
    found_inf = any(not bool(stored_values(gradient).isfinite().all()) for gradient in gradients.values())
    yield Stage(
        "check",
        "found_inf",
        _check_words(checked, found_inf, recipe.on_overflow),
        (_card("gradient, unscaled", unscaled, element),),
    )
    taken = not (found_inf and checked and scaler.skips)
    trainer.update()
    after = weight.detach().clone()
    kept = [_card(state, value, element) for state, value in _states_of(trainer, weight)]
    change = float(after.flatten()[element].double() - before.flatten()[element].double())
    yield Stage(
        "step",
        "scaler.step(optimizer)",
        (
            f"The weight moves by {change:.4g}."
            if change
            else "The update is smaller than the weight can show: the stored weight does not move."
        )
        if taken
        else "The step is skipped: weights and optimizer states stay as they are.",
        (_card("weight before", before, element), _card("weight after", after, element), *kept),
    )
    yield Stage(
        "update",
        "scaler.update()",
        _update_words(scale, scaler.get_scale()) if checked else "No scaler, nothing to adapt.",
        (_card("scale before", torch.tensor(scale)), _card("scale after", torch.tensor(scaler.get_scale()))),
    )


class _Watched:
    """A module's first output in a forward pass, and that output's gradient."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.output: Tensor | None = None
        self.gradient: Tensor | None = None
        self._waiting = False

    def see(self, module: nn.Module, _inputs: Any, output: Any) -> None:
        for tensor in floating_outputs(module, output)[:1]:
            if self.output is None:
                self.output = tensor.detach().clone()
            if tensor.requires_grad and not self._waiting:  # in a checkpoint only when it is computed again
                self._waiting = True
                tensor.register_hook(self._keep)  # type: ignore[no-untyped-call]

    def _keep(self, gradient: Tensor) -> None:
        self.gradient = gradient.detach().clone()


@contextmanager
def _watching(model: nn.Module, layer: str) -> Iterator[list[_Watched]]:
    """Watches a layer and the modules around it: some layers are never called, and their parameters are used outside.

    (Such as `out_proj` of an `nn.MultiheadAttention`, or an `nn.ParameterList`.)

    Yields:
        The layer and those around it, from the innermost out.
    """
    parts = layer.split(".") if layer else []
    modules = [_Watched(".".join(parts[:depth])) for depth in range(len(parts), -1, -1)]
    handles = [model.get_submodule(module.name).register_forward_hook(module.see) for module in modules]
    try:
        yield modules
    finally:
        for handle in handles:
            handle.remove()


def _card(name: str, tensor: Tensor, element: int = 0, fmt: Format | None = None) -> Card:
    tensor = tensor.detach()
    finite = tensor[tensor.isfinite()]
    return Card(
        name,
        dtype_name(tensor.dtype) if fmt is None else fmt.name,
        float(tensor.flatten()[element]),
        float(finite.abs().max()) if finite.numel() else 0.0,
        tensor.numel(),
        int((tensor == 0).sum()),
        tensor.numel() - finite.numel(),
    )


def _computed(weight: Tensor, compute: Format) -> Tensor:
    return weight if compute == FP32 else round_to(weight.float(), compute, overflow="inf")


def _states_of(trainer: Trainer, weight: nn.Parameter) -> Iterable[tuple[str, Tensor]]:
    names = {"master": "master weight", "compensation": "Kahan compensation", "momentum_buffer": "momentum"}
    return ((names.get(name, name), state) for name, state in state_tensors(trainer.optimizer, weight))


def median_element(trainer: Trainer, parameter: str | None = None) -> int:
    """Returns the index, in the flattened parameter, of the non-zero gradient of median magnitude in the next step.

    0 if there is no such gradient.
    """
    return _median(_followed(trainer, parameter, trainer.next_batch())[1])


def _median(gradient: Tensor) -> int:
    magnitudes = gradient.flatten().abs()
    alive = magnitudes.nonzero().flatten()
    if not len(alive):
        return 0
    return int(alive[magnitudes[alive].argsort()[len(alive) // 2]])


def _followed(trainer: Trainer, parameter: str | None, batch: Batch) -> tuple[str, Tensor]:
    """Returns the name of the parameter that is followed, and its gradient in float32."""
    references = trainer.reference_gradients(batch)
    allowed = f"use one of {', '.join(references)}"
    if parameter is None:
        return next(iter(references.items()))
    parameters = dict(trainer.model.named_parameters(remove_duplicate=False))
    if parameter not in parameters:
        raise ValueError(f"dissect: unknown parameter {parameter!r}: {allowed}")
    if not parameters[parameter].requires_grad:
        raise ValueError(f"dissect: parameter {parameter!r} is frozen (requires_grad=False): {allowed}")
    first = next(name for name, one in parameters.items() if one is parameters[parameter])  # of those that share it
    if first not in references:
        raise ValueError(f"dissect: no gradient reaches parameter {parameter!r}: {allowed}")
    return parameter, references[first]


def _cast_words(weights: Format, compute: Format) -> str:
    if weights == compute:
        return f"Weights are stored in {weights} and used as they are: nothing is cast."
    kept = "a copy is kept until backward has used it" if compute.bits <= 16 else "inside the product, nothing is kept"
    return f"Weights are stored in {weights} and cast to {compute} for each product; {kept}."


def _check_words(checked: bool, found_inf: bool, on_overflow: str) -> str:
    if not checked:
        return "Without a scaler nobody looks: a step with inf or NaN would be taken."
    if not found_inf:
        return "Every element of every gradient is finite: the step may be taken."
    becomes = "skipped" if on_overflow == "skip" else "taken with all gradients set to zero"
    return f"A gradient holds inf or NaN: the step will be {becomes}."


def _update_words(before: float, after: float) -> str:
    if after == before:
        return f"The scale stays at {before:g}; one more clean step is counted, unless the step overflowed."
    return f"The scale {'grows' if after > before else 'falls'} from {before:g} to {after:g}."
