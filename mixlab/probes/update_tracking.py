"""Watches an optimizer's steps for what they lose to the formats of weights and states, parameter by parameter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from mixlab.arguments import require_whole
from mixlab.optimizers import unwrapped
from mixlab.probes.lost import Lost
from mixlab.probes.step_losses import Before, look_before, shares_lost


class track_updates:  # noqa: N801  a context manager, named as a verb
    """Watches an optimizer's steps: a sequence of `Lost`, one for each step and parameter, in order.

    >>> model = nn.Linear(2, 1, dtype=torch.bfloat16)
    >>> _ = nn.init.ones_(model.weight)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    >>> with track_updates(model, optimizer) as lost:
    ...     model(torch.ones(1, 2, dtype=torch.bfloat16)).sum().backward()
    ...     optimizer.step()
    >>> str(lost["weight"][0].swallowed)  # 1 - 1e-4 is 1 in bf16
    '100.0%'

    Steps that a scaler skips do not count. Watching a step costs about as much as a few more optimizer steps, in time
    and, during the step, in memory. If the step gets a closure, the gradients are those of its first call. A complex
    number counts as two. Sparse gradients count as if dense, but SparseAdam steps only their rows.

    Args:
        model: The model whose parameter names are used.
        optimizer: Adam, AdamW or SGD, with or without momentum, from mixlab or torch.optim; wrappers such as
            accelerate's are fine. With other optimizers the weights are watched, and a state called `exp_avg_sq` is
            taken to be Adam's second moment, a mean of squared gradients. `eps_lost` and `decay_lost` are counted for
            Adam and AdamW only.
        every: Watches every n-th step, starting with the first.

    Raises:
        TypeError: If `model` is not a module, or `optimizer` is not an optimizer with hooks.
        ValueError: If `every` is not a whole number from 1 up.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, *, every: int = 1) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"track_updates: model must be a torch.nn.Module, got {type(model).__name__}")
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"track_updates: optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}; "
                "a trainer has it as trainer.optimizer"
            )
        require_whole("track_updates: every", every, 1)
        self._names = {parameter: name for name, parameter in model.named_parameters()}
        self._optimizer = _hooked(optimizer)
        self._every = every
        self._steps = 0
        self._before: dict[Tensor, Before] = {}
        self._seen: list[Lost] = []
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> track_updates:
        self._handles = [
            self._optimizer.register_step_pre_hook(self._begin),
            self._optimizer.register_step_post_hook(self._compare),
        ]
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._before.clear()

    def __iter__(self) -> Iterator[Lost]:
        return iter(self._seen)

    def __len__(self) -> int:
        return len(self._seen)

    def __getitem__(self, parameter: str) -> list[Lost]:
        """Returns the losses of one parameter, step by step.

        Args:
            parameter: Its name in the model.

        Raises:
            KeyError: If no step was seen for it.
        """
        found = [lost for lost in self._seen if lost.parameter == parameter]
        if not found:
            seen = ", ".join(dict.fromkeys(lost.parameter for lost in self._seen)) or "nothing yet"
            raise KeyError(f"track_updates: nothing seen of {parameter!r}; seen: {seen}")
        return found

    def by_step(self) -> list[Lost]:
        """Returns one sum over all parameters for each step."""
        steps: dict[int, Lost] = {}
        for lost in self._seen:
            earlier = steps.get(lost.step)
            steps[lost.step] = earlier + lost if earlier else replace(lost, parameter="all")
        return list(steps.values())

    def total(self) -> Lost:
        """Returns the sum over all steps and parameters.

        Raises:
            RuntimeError: If no step was seen.
        """
        if not self._seen:
            raise RuntimeError("track_updates: no step was seen; take steps of the optimizer inside the with block")
        return replace(reduce(Lost.__add__, self._seen), parameter="all")

    def _begin(self, optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        """Reads the parameters before the step or, if a closure computes the gradients, after its first call."""
        self._before.clear()
        if self._steps % self._every:
            return None
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if not callable(closure):
            self._look(optimizer)
            return None

        def looking() -> Any:
            loss = closure()
            if not self._before:
                self._look(optimizer)
            return loss

        if "closure" in kwargs:
            return args, {**kwargs, "closure": looking}
        return (args[0], looking, *args[2:]), kwargs

    @torch.no_grad()
    def _look(self, optimizer: Optimizer) -> None:
        inner = unwrapped(optimizer)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.numel():
                    self._before[parameter] = look_before(inner, group, parameter)

    @torch.no_grad()
    def _compare(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        inner = unwrapped(optimizer)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if (before := self._before.get(parameter)) is not None:
                    shares = shares_lost(inner, group, parameter, before)
                    self._seen.append(Lost(self._steps, self._names.get(parameter, "unnamed"), **shares))
        self._before.clear()
        self._steps += 1


def _hooked(optimizer: Optimizer) -> Optimizer:
    """Returns the optimizer, or the one inside if it has no hooks: some wrappers do not call Optimizer.__init__."""
    try:
        optimizer.register_step_pre_hook(lambda *_: None).remove()
    except AttributeError:
        inner = unwrapped(optimizer)
        if inner is optimizer:
            raise TypeError(
                f"track_updates: {type(optimizer).__name__} has no hooks, since it does not call Optimizer.__init__; "
                "pass the optimizer inside it"
            ) from None
        return _hooked(inner)
    return optimizer
