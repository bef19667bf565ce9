"""What the steps of an optimizer lose to the formats that weights and states are stored in, parameter by parameter.

with track_updates(model, optimizer) as lost:
    train()
print(lost.total().swallowed, lost.total().stuck_falling)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from mixlab.optimizers import SGD, Adam, AdamW, read_state, unwrapped


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


@dataclass
class _Before:
    """What a step will need of one parameter, from before it; all real and in float64.

    Attributes:
        weight: As the optimizer holds it.
        gradient: What enters the second moment: with weight decay where the optimizer adds it to the gradient.
        moving: Which weights have a gradient or a first moment other than zero, and are stepped at all.
        second: The second moment, if there is one.
        stepped: Which elements the optimizer steps, if it is not all.
    """

    weight: Tensor
    gradient: Tensor
    moving: Tensor
    second: Tensor | None
    stepped: Tensor | None


class track_updates:  # noqa: N801  a context manager, named as a verb
    """Watches an optimizer's steps: a sequence of `Lost`, one for each step and parameter, in order.

    Steps that a scaler skips are none. It costs about as much as some more steps of the optimizer, in time and, while a
    step is taken, in memory. Gradients are those of the closure if the step is given one, at its first call. Complex
    numbers count as two, sparse gradients as the dense ones that they stand for; SparseAdam steps only their rows.

    Args:
        model: Whose parameters have the names.
        optimizer: Adam, AdamW or SGD with or without momentum, of mixlab or torch.optim, also inside of a wrapper such
            as accelerate's. Of others weights are watched, and what they keep as `exp_avg_sq` is taken for Adam's
            second moment, a mean of squared gradients; `eps_lost` and `decay_lost` are counted for Adam and AdamW only.
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
        self._optimizer = _hooked(optimizer)
        self._every = every
        self._steps = 0
        self._before: dict[Tensor, _Before] = {}
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

    def _begin(self, optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        """Looks before the step, or, where a closure computes the gradients, once it has done so."""
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
                    self._before[parameter] = _before(inner, group, parameter)

    @torch.no_grad()
    def _compare(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        inner = unwrapped(optimizer)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if (before := self._before.get(parameter)) is not None:
                    shares = _shares(inner, group, parameter, before)
                    self._seen.append(Lost(self._steps, self._names.get(parameter, "unnamed"), **shares))
        self._before.clear()
        self._steps += 1


def _hooked(optimizer: Optimizer) -> Optimizer:
    """Returns the optimizer, or the one inside that has hooks: wrappers may not have called Optimizer.__init__."""
    try:
        optimizer.register_step_pre_hook(lambda *_: None).remove()
    except AttributeError:
        inner = unwrapped(optimizer)
        if inner is optimizer:
            raise TypeError(
                f"track_updates: {type(optimizer).__name__} has no hooks, since it does not call Optimizer.__init__; "
                "pass the optimizer inside of it"
            ) from None
        return _hooked(inner)
    return optimizer


def _before(optimizer: Optimizer, group: dict[str, Any], parameter: Tensor) -> _Before:
    weight = _held(optimizer, parameter)
    gradient = _real(parameter.grad.detach())  # type: ignore[union-attr]
    moving = gradient != 0
    for name in ("exp_avg", "momentum_buffer"):
        if (first := state_of(optimizer, parameter, name)) is not None:
            moving |= first != 0
    stepped = _rows(parameter) if isinstance(optimizer, torch.optim.SparseAdam) else None
    if stepped is not None:
        moving &= stepped
    second = state_of(optimizer, parameter, "exp_avg_sq")
    if isinstance(optimizer, Adam | torch.optim.Adam) and not _is_decoupled(optimizer, group):
        gradient = gradient + float(group["weight_decay"]) * weight
    return _Before(weight, gradient, moving, second, stepped)


def _shares(optimizer: Optimizer, group: dict[str, Any], parameter: Tensor, before: _Before) -> dict[str, Share]:
    shares = {"swallowed": _share(_held(optimizer, parameter) == before.weight, before.moving)}
    second = state_of(optimizer, parameter, "exp_avg_sq")
    if second is not None:
        v = torch.zeros_like(second) if before.second is None else before.second
        meant = before.gradient.square()
        falling, rising = meant < v, meant > v
        if before.stepped is not None:
            falling &= before.stepped
        shares |= {
            "stuck_falling": _share(second >= v, falling),
            "stuck_rising": _share(second <= v, rising),
            "vanished": _share(second == 0, before.gradient != 0),
        }
        if isinstance(optimizer, Adam | torch.optim.Adam) and "step" in optimizer.state[parameter]:
            shares["eps_lost"] = _eps_lost(optimizer, group, parameter)
    if group.get("weight_decay") and _is_decoupled(optimizer, group):
        shares["decay_lost"] = _decay_lost(optimizer, group, parameter, before.weight)
    return shares


def _is_decoupled(optimizer: Optimizer, group: dict[str, Any]) -> bool:
    """Whether weight decay is AdamW's; torch.optim's Adam has it as a setting."""
    if isinstance(optimizer, torch.optim.Adam):
        return bool(group.get("decoupled_weight_decay", isinstance(optimizer, torch.optim.AdamW)))
    return isinstance(optimizer, AdamW)


def _rows(parameter: Tensor) -> Tensor:
    """Returns which elements lie in the rows of a sparse gradient."""
    rows = torch.zeros(parameter.shape, dtype=torch.bool, device=parameter.device)
    rows[parameter.grad.coalesce().indices().unbind()] = True  # type: ignore[union-attr]
    return rows


def _computed_in(optimizer: Optimizer, parameter: Tensor) -> torch.dtype:
    """Returns the dtype that the optimizer computes in, of a complex parameter that of its parts."""
    return torch.float32 if isinstance(optimizer, SGD | Adam) else parameter.dtype.to_real()


def _eps_lost(optimizer: Optimizer, group: dict[str, Any], parameter: Tensor) -> Share:
    dtype = _computed_in(optimizer, parameter)
    second = state_of(optimizer, parameter, "max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq")
    step, beta2 = int(optimizer.state[parameter]["step"]), float(group["betas"][1])
    root = (second.to(dtype).sqrt() / (1 - beta2**step) ** 0.5).to(dtype)  # type: ignore[union-attr]
    exact = root.float()
    return _share(root + group["eps"] == root, exact + group["eps"] != exact)


def _decay_lost(optimizer: Optimizer, group: dict[str, Any], parameter: Tensor, weight: Tensor) -> Share:
    decayed = weight * (1 - float(group["lr"]) * float(group["weight_decay"]))
    return _share(_stored(optimizer, parameter, decayed) == weight, weight != 0)


def _held(optimizer: Optimizer, parameter: Tensor) -> Tensor:
    """Returns what the optimizer takes for the weight, in float64: a Kahan sum of two bfloat16 needs up to 30 bits."""
    state = optimizer.state.get(parameter, {}) if isinstance(optimizer, SGD | Adam) else {}
    weight = _real(state.get("master", parameter).detach())
    return weight + state["compensation"].double() if "compensation" in state else weight


def _stored(optimizer: Optimizer, parameter: Tensor, weight: Tensor) -> Tensor:
    """Returns what the optimizer would hold instead of a weight, in float64; of stochastic rounding the mean."""
    state, dtype = optimizer.state[parameter], parameter.dtype.to_real()
    if dtype is torch.float64:
        return weight
    weight = weight.float().double()
    if isinstance(optimizer, SGD | Adam) and ("master" in state or optimizer.storage.update == "stochastic"):
        return weight
    stored = weight.to(dtype).double()
    if isinstance(optimizer, SGD | Adam) and "compensation" in state:
        return stored + (weight - stored).to(dtype).double()
    return stored


def state_of(optimizer: Optimizer, parameter: Tensor, name: str) -> Tensor | None:
    """Returns a moment in float64, or None if the optimizer has none of the parameter's shape, or only in codes."""
    kept = optimizer.state.get(parameter, {}).get(name)
    if not isinstance(kept, Tensor) or kept.shape != parameter.shape:
        return None
    if isinstance(optimizer, SGD | Adam) or type(kept).dequantize is not Tensor.dequantize:
        return read_state(optimizer, parameter, name).double()
    return _real(kept) if kept.is_floating_point() or kept.is_complex() else None


def _real(tensor: Tensor) -> Tensor:
    """Returns a copy, dense and in float64, a complex tensor as pairs; of a sharded one this process's part."""
    if hasattr(tensor, "to_local"):
        tensor = tensor.to_local()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    tensor = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    return tensor.to(torch.float64, copy=True)


def _share(lost: Tensor, of: Tensor) -> Share:
    return Share(int((lost & of).sum()), int(of.sum()))
