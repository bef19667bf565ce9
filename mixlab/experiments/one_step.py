"""One training step taken apart: cast, forward, scaled loss, backward, unscale, check, step, update."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mixlab.arguments import require_whole
from mixlab.batches import Batch
from mixlab.formats import FP32, Format, dtype_name, round_to
from mixlab.layers import floating_outputs, layer_of, require_hooks
from mixlab.optimizers import state_tensors
from mixlab.probes.histograms import dense, stored_values
from mixlab.training import Trainer

_MOVING = ("exp_avg", "momentum")  # what moves a weight without a gradient
_KEEPING = ("master weight", "Kahan compensation")  # what keeps an update that the stored weight does not show


@dataclass(frozen=True)
class Card:
    """One tensor at one stage.

    Attributes:
        name: E.g. "gradient of hidden1.weight".
        format: The format of its values.
        value: The followed element, or the only one; may be NaN or inf.
        amax: The largest finite magnitude.
        numel, zeros, non_finite: The number of all elements, of zeros, and of inf and NaN.
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
    """One of the eight stages of a step.

    Attributes:
        name: "cast", "forward", "scaled loss", "backward", "unscale", "check", "step" or "update".
        code: The line of code that does it.
        words: What it did, in words.
        cards: The tensors that it read or produced.
    """

    name: str
    code: str
    words: str
    cards: tuple[Card, ...]


def dissect(trainer: Trainer, *, parameter: str | None = None, element: int | None = None) -> tuple[Stage, ...]:
    """Takes the trainer's next step, exactly as `trainer.steps(1)` does, and returns its eight stages.

    Args:
        trainer: The trainer, at any step.
        parameter: The name of the parameter that holds the weight to follow; None takes the first trained one.
        element: The weight's index in the flattened parameter; None takes one whose gradient has the median magnitude.

    Raises:
        ValueError: If there is no such parameter or element, or no gradient reaches the parameter.
        TypeError: If `trainer` is not a Trainer, or any part of its model runs as compiled code.
    """
    if not isinstance(trainer, Trainer):
        raise TypeError(f"dissect: trainer must be a Trainer, got {type(trainer).__name__}")
    require_hooks(trainer.model, "dissect")
    batch = trainer.next_batch()
    name, exact = _followed(trainer, parameter, batch)
    weight = dict(trainer.model.named_parameters(remove_duplicate=False))[name]
    if element is None:
        element = _median(exact)
    require_whole("dissect: element", element, 0, weight.numel() - 1)
    step = _Step(trainer, name, weight, element, exact)
    return (
        step.cast(),
        step.forward(batch),
        step.scaled_loss(),
        step.backward(),
        step.unscale(),
        step.check(),
        step.update_weights(),
        step.update_scale(),
    )


class _Step:
    """A step in progress. Its methods are the stages; each is called once, in the order of `dissect`."""

    def __init__(self, trainer: Trainer, name: str, weight: nn.Parameter, element: int, exact: Tensor) -> None:
        self.trainer = trainer
        self.name = name
        self.weight = weight
        self.element = element
        self.exact = float(exact.flatten()[element])  # the element's gradient in float32
        self.exact_zeros = int((exact == 0).sum())
        self.scaled = trainer.recipe.scaler != "none"
        self.scale = trainer.scaler.get_scale()
        self.before = weight.detach().clone()
        self.found_inf = False
        self.loss: Tensor
        self.seen: _Watched
        self.unscaled: Tensor

    def cast(self) -> Stage:
        recipe = self.trainer.recipe
        computed = _computed(self.before, recipe.compute)
        return Stage(
            "cast",
            "with autocast(...):" if recipe.autocast else "model(inputs)",
            _cast_words(recipe.weights, recipe.compute),
            (
                _card(f"stored {self.name}", self.before, self.element),
                _card("as the product sees it", computed, self.element, recipe.compute),
            ),
        )

    def forward(self, batch: Batch) -> Stage:
        """Runs backward too, while the hooks are in place; `backward` describes it."""
        with _watching(self.trainer.model, layer_of(self.name)) as modules:
            self.loss, _ = self.trainer.backward(batch)
        self.seen = next(module for module in modules if module.output is not None)
        output = self.seen.output
        assert output is not None
        return Stage(
            "forward",
            "loss = criterion(model(inputs), targets)",
            f"{f'Layer {self.seen.name}' if self.seen.name else 'The model'} multiplies in "
            f"{self.trainer.recipe.compute} and passes on {dtype_name(output.dtype)}; "
            f"the loss is {float(self.loss):.4g}.",
            (_card(f"output of {self.seen}", output), _card("loss", self.loss)),
        )

    def scaled_loss(self) -> Stage:
        scaled = self.loss.float() * self.trainer.task.loss_weight * self.scale
        return Stage(
            "scaled loss",
            "scaler.scale(loss).backward()",
            f"The loss is multiplied by {self.scale:g}, and with it every gradient to come."
            if self.scaled
            else "There is no scaler: gradients keep their size, however small.",
            (_card("loss", self.loss), _card("scaled loss", scaled)),
        )

    def backward(self) -> Stage:
        gradient = self._gradient()
        zeros = int((gradient == 0).sum())
        of_output = self.seen.gradient
        return Stage(
            "backward",
            "scaler.scale(loss).backward()",
            f"The gradient of {self.name} arrives in {dtype_name(gradient.dtype)}"
            f"{', the scale still in it' if self.scaled else ''}: {zeros:,} of {gradient.numel():,} elements are "
            f"zero; in fp32, {self.exact_zeros:,} are.",
            (
                *([_card(f"gradient of the output of {self.seen}", of_output)] if of_output is not None else []),
                _card(f"gradient of {self.name}", gradient, self.element),
            ),
        )

    def unscale(self) -> Stage:
        arrived = self._of(self._gradient())
        gradients = self.trainer.unscale()
        self.unscaled = self._gradient()
        divided = self._of(self.unscaled)
        self.found_inf = any(not bool(stored_values(gradient).isfinite().all()) for gradient in gradients.values())
        return Stage(
            "unscale",
            "scaler.unscale_(optimizer)",
            f"{_unscale_words(self.scale, arrived, divided, self.exact)}; in float32 it would be {self.exact:.4g}."
            if self.scaled
            else f"Nothing to divide by. In float32 the gradient would be {self.exact:.4g}.",
            (
                _card("gradient, unscaled", self.unscaled, self.element),
                _card("as float32 computes it", torch.tensor(self.exact)),
            ),
        )

    def check(self) -> Stage:
        return Stage(
            "check",
            "found_inf",
            _check_words(self.scaled, self.found_inf, self.trainer.recipe.on_overflow),
            (_card("gradient, unscaled", self.unscaled, self.element),),
        )

    def update_weights(self) -> Stage:
        """Updates the scale too; `update_scale` describes it."""
        refused = self.found_inf and self.scaled
        skipped = refused and self.trainer.scaler.skips
        kept = {"master weight": self._of(self.before), "Kahan compensation": 0.0}  # where the optimizer is new
        kept |= {name: self._of(state) for name, state in _states_of(self.trainer, self.weight)}
        self.trainer.update()
        after = self.weight.detach().clone()
        change = self._of(after) - self._of(self.before)
        states = list(_states_of(self.trainer, self.weight))
        moving = [*([] if refused else [self.unscaled]), *(state for name, state in states if name in _MOVING)]
        pushed = any(self._of(tensor) != 0 for tensor in moving)
        keeper = next((name for name, state in states if name in _KEEPING and self._of(state) != kept[name]), "")
        return Stage(
            "step",
            "scaler.step(optimizer)",
            _step_words(change, skipped, pushed, keeper),
            (
                _card("weight before", self.before, self.element),
                _card("weight after", after, self.element),
                *(_card(name, state, self.element) for name, state in states),
            ),
        )

    def update_scale(self) -> Stage:
        after = self.trainer.scaler.get_scale()
        return Stage(
            "update",
            "scaler.update()",
            _update_words(self.scale, after, self.trainer.recipe.scaler == "static")
            if self.scaled
            else "No scaler, nothing to adapt.",
            (_card("scale before", torch.tensor(self.scale)), _card("scale after", torch.tensor(after))),
        )

    def _of(self, tensor: Tensor) -> float:
        """Returns the followed element of a tensor of the weight's shape."""
        return float(tensor.flatten()[self.element])

    def _gradient(self) -> Tensor:
        assert self.weight.grad is not None
        return dense(self.weight.grad.detach()).clone()


class _Watched:
    """A module's first output in a forward pass, and the gradient of this output."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.output: Tensor | None = None
        self.gradient: Tensor | None = None
        self._waiting = False

    def __str__(self) -> str:
        return self.name or "the model"

    def see(self, module: nn.Module, _inputs: Any, output: Any) -> None:
        for tensor in floating_outputs(module, output)[:1]:
            if self.output is None:
                self.output = tensor.detach().clone()
            if tensor.requires_grad and not self._waiting:  # within a checkpoint, only when it recomputes
                self._waiting = True
                tensor.register_hook(self._keep)  # type: ignore[no-untyped-call]

    def _keep(self, gradient: Tensor) -> None:
        self.gradient = gradient.detach().clone()


@contextmanager
def _watching(model: nn.Module, layer: str) -> Iterator[list[_Watched]]:
    """Watches a layer and the modules that contain it; yields them from the innermost out.

    The containing modules matter because some layers are never called: another module uses their parameters, as with
    `out_proj` of an `nn.MultiheadAttention`, or an `nn.ParameterList`.
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
    """Returns the index of the gradient element with the median non-zero magnitude in the next step.

    The step is not taken. The index is 0 if every element is zero.

    Args:
        trainer: The trainer, at any step.
        parameter: The parameter's name; None takes the first trained one.

    Returns:
        The index in the flattened parameter.

    Raises:
        ValueError: If there is no such parameter, or no gradient reaches it.
    """
    return _median(_followed(trainer, parameter, trainer.next_batch())[1])


def _median(gradient: Tensor) -> int:
    magnitudes = gradient.flatten().abs()
    alive = magnitudes.nonzero().flatten()
    if not len(alive):
        return 0
    return int(alive[magnitudes[alive].argsort()[len(alive) // 2]])


def _followed(trainer: Trainer, parameter: str | None, batch: Batch) -> tuple[str, Tensor]:
    """Returns the name of the parameter to follow, and its gradient in float32."""
    references = trainer.reference_gradients(batch)
    allowed = f"use one of {', '.join(references)}"
    if parameter is None:
        return next(iter(references.items()))
    parameters = dict(trainer.model.named_parameters(remove_duplicate=False))
    if parameter not in parameters:
        raise ValueError(f"dissect: unknown parameter {parameter!r}: {allowed}")
    if not parameters[parameter].requires_grad:
        raise ValueError(f"dissect: parameter {parameter!r} is frozen (requires_grad=False): {allowed}")
    first = next(name for name, one in parameters.items() if one is parameters[parameter])  # if it is shared
    if first not in references:
        raise ValueError(f"dissect: no gradient reaches parameter {parameter!r}: {allowed}")
    return parameter, references[first]


def _cast_words(weights: Format, compute: Format) -> str:
    if weights == compute:
        return f"Weights are stored in {weights} and used as they are: nothing is cast."
    kept = "a copy is kept until backward has used it" if compute.bits <= 16 else "inside the product, nothing is kept"
    return f"Weights are stored in {weights} and cast to {compute} once in a forward pass; {kept}."


def _unscale_words(scale: float, arrived: float, divided: float, exact: float) -> str:
    if not math.isfinite(divided):
        return f"Divided by {scale:g}, the gradient is not finite"
    if divided or not exact:
        return f"Divided by {scale:g}, the gradient has its own size again"
    if arrived:
        return f"Divided by {scale:g}, the gradient becomes zero in its format"
    return f"Divided by {scale:g}. The gradient became zero in backward, and no division brings it back"


def _check_words(scaled: bool, found_inf: bool, on_overflow: str) -> str:
    if not scaled:
        return "Without a scaler nothing is checked: a step with inf or NaN would be taken."
    if not found_inf:
        return "Every element of every gradient is finite: the step may be taken."
    becomes = "skipped" if on_overflow == "skip" else "taken with all gradients set to zero"
    return f"A gradient holds inf or NaN: the step will be {becomes}."


def _step_words(change: float, skipped: bool, pushed: bool, keeper: str) -> str:
    if skipped:
        return "The step is skipped: weights and optimizer states stay as they are."
    if change:
        return f"The weight moves by {change:.4g}."
    if not pushed:
        return "The gradient became zero on its way, or was zero, and no momentum is left: there is no update."
    kept = f"; the {keeper} keeps the update for later steps" if keeper else ""
    return f"The update is smaller than the weight can show: the stored weight does not move{kept}."


def _update_words(before: float, after: float, static: bool) -> str:
    if static:
        return f"The scale is static and stays at {before:g}."
    if after == before:
        return f"The scale stays at {before:g}; one more clean step is counted, unless the step overflowed."
    return f"The scale {'grows' if after > before else 'falls'} from {before:g} to {after:g}."
