"""Watches an optimizer's steps for what they lose to the formats of weights and states, parameter by parameter."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from mixlab.arguments import require_whole
from mixlab.optimizers import unwrapped
from mixlab.probes.left_out import left_out_lines
from mixlab.probes.lost import SHARES, Lost, Share
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

    Steps that a scaler skips do not count, except those between the watched ones that torch's GradScaler leaves to a
    fused optimizer to skip. Watching a step costs about as much as a few more optimizer steps, in time
    and, during the step, in memory. If the step gets a closure, the gradients are those of its first call. A complex
    number counts as two. Sparse gradients count as if dense, but SparseAdam steps only their rows. Of a sharded
    parameter, this process's part counts.

    Any optimizer can be watched. `swallowed` is counted for all. Second moments are judged for the classes that are
    known to keep a mean of squared gradients: mixlab's, Adam, AdamW, NAdam, RAdam, SparseAdam, RMSprop and Adadelta of
    torch.optim, torchao's, and optimi's but for Adan. For others, a float32 state that may be a second moment is
    checked at each step against the gradients, and judged only if it is their running mean. `eps_lost` and `decay_lost`
    are counted for Adam and AdamW of mixlab and torch.optim. What could not be judged stands in `left_out`; nothing
    that goes wrong while a step is watched reaches the training.

    Args:
        model: The model whose parameter names are used.
        optimizer: Any optimizer of torch's interface. Wrappers such as accelerate's are opened.
        every: Watches every n-th step, starting with the first.

    Attributes:
        left_out: By parameter, what could not be judged and why; the latest reason stands.

    Raises:
        TypeError: If `model` is not a module, or `optimizer` is not an optimizer with hooks.
        ValueError: If `every` is not a whole number from 1 up.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, *, every: int = 1) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"track_updates: model must be a torch.nn.Module, got {type(model).__name__}")
        require_whole("track_updates: every", every, 1)
        self.left_out: dict[str, str] = {}
        self._names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
        self._optimizer = _hooked(optimizer)
        self._every = every
        self._steps = 0
        self._in_step = self._skipped = False
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

    def to_frame(self) -> Any:
        """Returns a pandas DataFrame with one row for each step and parameter.

        For each share of `Lost` there are two columns: under its name the fraction that lost something, and under its
        name with "_of" how many elements could have; the fraction is NaN where none could.

        Raises:
            ImportError: If pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("track_updates.to_frame needs pandas; install it with pip install pandas") from error
        columns = ["step", "parameter", *(column for name in SHARES for column in (name, f"{name}_of"))]
        rows = [
            [one.step, one.parameter, *(number for name in SHARES for number in _columns(getattr(one, name)))]
            for one in self._seen
        ]
        return pandas.DataFrame(rows, columns=columns)

    def __str__(self) -> str:
        """Returns the sum over all steps, and how many parameters were left out and why."""
        seen = str(self.total()) if self._seen else "no step was seen"
        return "\n".join([seen, *left_out_lines(self.left_out)])

    def _begin(self, optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        """Reads the parameters before the step or, if a closure computes the gradients, after its first call."""
        self._before.clear()
        self._in_step, self._skipped = True, False
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
        found_inf = getattr(optimizer, "found_inf", None)  # a scaler leaves it to fused optimizers to skip a step
        self._skipped = found_inf is not None and bool(found_inf)
        if self._skipped:
            return
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.numel():
                    with self._leaving_out(parameter):
                        self._before[parameter] = look_before(optimizer, parameter)

    @torch.no_grad()
    def _compare(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        if not self._in_step:  # of a subclass whose step calls this one, and so its hooks, again
            return
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if (before := self._before.get(parameter)) is not None:
                    with self._leaving_out(parameter):
                        shares, why = shares_lost(optimizer, group, parameter, before)
                        if shares:
                            self._seen.append(Lost(self._steps, self._name(parameter), **shares))
                        if why:
                            self.left_out[self._name(parameter)] = why
        self._before.clear()
        self._steps += not self._skipped
        self._in_step = False

    @contextmanager
    def _leaving_out(self, parameter: Tensor) -> Iterator[None]:
        """Leaves a parameter out if it cannot be watched: the training goes on."""
        try:
            yield
        except Exception as error:
            self.left_out[self._name(parameter)] = f"it could not be read: {type(error).__name__}: {error}"

    def _name(self, parameter: Tensor) -> str:
        return self._names.get(parameter, "unnamed")


def _columns(share: Share) -> tuple[float, int]:
    return (share.value if share.of else math.nan), share.of


def _hooked(optimizer: Any) -> Optimizer:
    """Returns the optimizer, or the one inside a wrapper, once it is certain that its steps call hooks."""
    inner = unwrapped(optimizer)
    if not isinstance(inner, Optimizer):
        raise TypeError(
            f"track_updates: optimizer must be a torch.optim.Optimizer, got {type(inner).__name__}; "
            "a trainer has it as trainer.optimizer"
        )
    if not (hasattr(inner, "_optimizer_step_pre_hooks") and getattr(type(inner).step, "hooked", False)):
        raise TypeError(
            f"track_updates: {type(inner).__name__} has no hooks, since it does not call Optimizer.__init__; "
            "pass the optimizer inside it"
        )
    return inner
