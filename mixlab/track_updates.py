"""What the steps of an optimizer lose to the formats that weights and states are stored in, parameter by parameter.

with track_updates(model, optimizer) as lost:
    train()
print(lost.total().swallowed, lost.total().stuck_falling)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from mixlab.histograms import Histogram
from mixlab.optimizers import SGD, Adam, AdamW, read_state
from mixlab.trainer import StepRecord, Trainer


@dataclass(frozen=True)
class Share:
    """How many elements lost something, of those that could have.

    >>> (Share(1, 2) + Share(0, 2)).value
    0.25
    """

    lost: int = 0
    of: int = 0

    @property
    def value(self) -> float:
        """From 0 to 1; 0 of nothing."""
        return self.lost / self.of if self.of else 0.0

    def __add__(self, other: Share) -> Share:
        return Share(self.lost + other.lost, self.of + other.of)

    def __str__(self) -> str:
        return f"{self.value:.1%}"


@dataclass(frozen=True)
class Lost:
    """What one step lost on one parameter; losses add up over steps and over parameters.

    A weight is what the optimizer holds: its master copy if there is one, and with its compensation in a Kahan sum. So
    `swallowed` counts what is gone for good. Under stochastic rounding, of weights or moments, it is not: what stands
    still most of the time moves a whole gap now and then, and the mean is right.

    Attributes:
        step: Counted from 0 over the steps that the optimizer took; -1 of several.
        parameter: Its name in the model; "all" of several.
        swallowed: Weights that did not change, of those with a gradient or a moment other than zero.
        stuck_falling: Second moments that did not fall, of those that should: of which g^2 < v.
        stuck_rising: Second moments that did not rise, of those that should: of which g^2 > v.
        vanished: Second moments stored as zero, of those whose gradient is not zero. Their update is divided by eps
            alone, or by a root that eps was not made for.
        eps_lost: Denominators that eps does not change in the dtype that the optimizer computes in, of those that it
            changes in float32. (torch.optim computes in the parameters' dtype, where 1e-8 may be nothing at all.)
        decay_lost: Weights that decoupled weight decay by itself does not change, of those that are not zero. Under
            stochastic rounding 0: it is kept on average.
    """

    step: int
    parameter: str
    swallowed: Share = Share()
    stuck_falling: Share = Share()
    stuck_rising: Share = Share()
    vanished: Share = Share()
    eps_lost: Share = Share()
    decay_lost: Share = Share()

    def __add__(self, other: Lost) -> Lost:
        sums = {name: getattr(self, name) + getattr(other, name) for name in SHARES}
        step = self.step if self.step == other.step else -1
        return Lost(step, self.parameter if self.parameter == other.parameter else "all", **sums)

    def __str__(self) -> str:
        return ", ".join(f"{name} {share}" for name in SHARES if (share := getattr(self, name)).of)


SHARES: tuple[str, ...] = tuple(field.name for field in fields(Lost) if field.name not in ("step", "parameter"))


_DECOUPLED = (AdamW, torch.optim.AdamW)


@dataclass
class _Before:
    """What a step will need of one parameter, from before it."""

    weight: Tensor
    gradient: Tensor
    moving: Tensor
    second: Tensor | None


class track_updates:  # noqa: N801  a context manager, named as a verb
    """Watches an optimizer's steps: a sequence of `Lost`, one for each step and parameter, in order.

    Steps that a scaler skips are none. It costs about as much as some more steps of the optimizer, in time and, while a
    step is taken, in memory.

    Args:
        model: Whose parameters have the names.
        optimizer: Adam, AdamW or SGD with or without momentum, of mixlab or torch.optim. Of others, whose states have
            other names, only weights are watched.
        every: Watches each n-th step.

    Raises:
        TypeError, ValueError: `every` is not a whole number from 1 up, or something else is given.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, *, every: int = 1) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"track_updates: model must be a torch.nn.Module, got {type(model).__name__}")
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"track_updates: optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}; "
                "a trainer has it as trainer.optimizer"
            )
        if type(every) is not int or every < 1:
            raise ValueError(f"track_updates: every must be a whole number from 1 up, got {every!r}")
        self._names = {parameter: name for name, parameter in model.named_parameters()}
        self._optimizer = optimizer
        self._every = every
        self._steps = 0
        self._before: dict[Tensor, _Before] = {}
        self._seen: list[Lost] = []
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> track_updates:
        self._handles = [
            self._optimizer.register_step_pre_hook(self._look),
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
        """Returns the losses of one parameter over time."""
        found = [lost for lost in self._seen if lost.parameter == parameter]
        if not found:
            seen = ", ".join(dict.fromkeys(lost.parameter for lost in self._seen)) or "nothing yet"
            raise KeyError(f"track_updates: nothing seen of {parameter!r}; seen: {seen}")
        return found

    def by_step(self) -> list[Lost]:
        """Returns the sum over all parameters of each step."""
        steps: dict[int, Lost] = {}
        for lost in self._seen:
            earlier = steps.get(lost.step)
            steps[lost.step] = earlier + lost if earlier else replace(lost, parameter="all")
        return list(steps.values())

    def total(self) -> Lost:
        """Returns the sum over all steps and parameters.

        Raises:
            RuntimeError: No step was taken.
        """
        if not self._seen:
            raise RuntimeError("track_updates: no step was seen; take steps of the optimizer inside the with block")
        return replace(reduce(Lost.__add__, self._seen), parameter="all")

    @torch.no_grad()
    def _look(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        self._before.clear()
        if self._steps % self._every:
            return
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.numel():
                    self._before[parameter] = _before(optimizer, parameter)

    @torch.no_grad()
    def _compare(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if (before := self._before.get(parameter)) is not None:
                    shares = _shares(optimizer, group, parameter, before)
                    self._seen.append(Lost(self._steps, self._names.get(parameter, "unnamed"), **shares))
        self._before.clear()
        self._steps += 1


def _before(optimizer: Optimizer, parameter: Tensor) -> _Before:
    gradient = parameter.grad.detach().float().clone()  # type: ignore[union-attr]
    moving = gradient != 0
    for name in ("exp_avg", "momentum_buffer"):
        if (first := _state(optimizer, parameter, name)) is not None:
            moving |= first != 0
    second = _state(optimizer, parameter, "exp_avg_sq")
    return _Before(_held(optimizer, parameter).clone(), gradient, moving, None if second is None else second.clone())


def _shares(optimizer: Optimizer, group: dict[str, Any], parameter: Tensor, before: _Before) -> dict[str, Share]:
    shares = {"swallowed": _share(_held(optimizer, parameter) == before.weight, before.moving)}
    second = _state(optimizer, parameter, "exp_avg_sq")
    if second is not None:
        v = torch.zeros_like(second) if before.second is None else before.second
        meant = before.gradient.double().square()
        shares |= {
            "stuck_falling": _share(second >= v, meant < v),
            "stuck_rising": _share(second <= v, meant > v),
            "vanished": _share(second == 0, before.gradient != 0),
            "eps_lost": _eps_lost(optimizer, group, parameter, second),
        }
    if group.get("weight_decay") and isinstance(optimizer, _DECOUPLED):
        shares["decay_lost"] = _decay_lost(optimizer, group, parameter, before.weight)
    return shares


def _eps_lost(optimizer: Optimizer, group: dict[str, Any], parameter: Tensor, second: Tensor) -> Share:
    dtype = torch.float32 if isinstance(optimizer, SGD | Adam) else parameter.dtype
    step = int(optimizer.state[parameter]["step"])
    root = (second.to(dtype).sqrt() / (1 - group["betas"][1] ** step) ** 0.5).to(dtype)
    exact = root.float()
    return _share(root + group["eps"] == root, exact + group["eps"] != exact)


def _decay_lost(optimizer: Optimizer, group: dict[str, Any], parameter: Tensor, weight: Tensor) -> Share:
    decayed = weight * (1 - float(group["lr"]) * group["weight_decay"])
    return _share(_stored(optimizer, parameter, decayed) == weight, weight != 0)


def _held(optimizer: Optimizer, parameter: Tensor) -> Tensor:
    """Returns what the optimizer takes for the weight, in float64: a Kahan sum of two bfloat16 needs up to 30 bits."""
    state = optimizer.state.get(parameter, {})
    weight: Tensor = state.get("master", parameter).detach().double()
    return weight + state["compensation"].double() if "compensation" in state else weight


def _stored(optimizer: Optimizer, parameter: Tensor, weight: Tensor) -> Tensor:
    """Returns what the optimizer would hold instead of a weight, in float64; of stochastic rounding the mean."""
    state = optimizer.state[parameter]
    if "master" in state or (isinstance(optimizer, SGD | Adam) and optimizer.storage.update == "stochastic"):
        return weight.float().double()
    weight = weight.float().double()
    stored = weight.to(parameter.dtype).double()
    return stored + (weight - stored).to(parameter.dtype).double() if "compensation" in state else stored


def _state(optimizer: Optimizer, parameter: Tensor, name: str) -> Tensor | None:
    kept = optimizer.state.get(parameter, {}).get(name)
    return read_state(optimizer, parameter, name) if isinstance(kept, Tensor) else None


def _share(lost: Tensor, of: Tensor) -> Share:
    return Share(int((lost & of).sum()), int(of.sum()))


@dataclass(frozen=True)
class WatchedStep:
    """One step of a training, with what its optimizer lost.

    Attributes:
        record: Of the step.
        lost: Over all parameters; None of a step that was not watched, or skipped.
        second_moments: The magnitudes of all second moments after the step; None as well of an optimizer without.
    """

    record: StepRecord
    lost: Lost | None
    second_moments: Histogram | None


def watched_steps(trainer: Trainer, steps: Iterable[StepRecord], *, every: int = 10) -> Iterator[WatchedStep]:
    """Yields each of a trainer's steps, and watches each n-th of them.

    Args:
        trainer: Whose steps they are.
        steps: E.g. `trainer.steps(300)`.
        every: From 1 up.
    """
    with track_updates(trainer.model, trainer.optimizer, every=every) as seen:
        known = 0
        for record in steps:
            lost = seen.by_step()[-1] if len(seen) > known else None
            known = len(seen)
            yield WatchedStep(record, lost, _second_moments(trainer) if lost else None)


def _second_moments(trainer: Trainer) -> Histogram | None:
    parameters = list(trainer.model.parameters())
    states = [state for p in parameters if (state := _state(trainer.optimizer, p, "exp_avg_sq")) is not None]
    return reduce(Histogram.__add__, map(Histogram.of, states)) if states else None
