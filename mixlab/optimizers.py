"""SGD, Adam and AdamW that compute in float32 and store weights and states as they are told.

`torch.optim` keeps its states in the parameters' dtype and rounds every operation to it. Here each step is computed in
float32, with the operations of `torch.optim` in their order, and rounded once to where it is stored: so with float32
storage the two are equal bit for bit, and with any other storage only the storage makes a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer

from mixlab.rounding import round_to

WeightUpdate = Literal["nearest", "stochastic", "kahan"]

_STATES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Storage:
    """How an optimizer stores what it keeps from step to step.

    Attributes:
        exp_avg_dtype: Of Adam's first moment, or of SGD's momentum: float32, float16 or bfloat16.
        exp_avg_sq_dtype: Of Adam's second moment.
        master_weights: Keep a float32 copy of 16-bit parameters, update it, and round it to the parameters.
        update: How a new weight is rounded to a 16-bit parameter without master weights. "nearest". "stochastic": up or
            down at random, in proportion to the distances, so that it is right on average (Gupta et al., Deep Learning
            with Limited Numerical Precision, 2015, section 3). "kahan": to nearest, with what was lost kept in a second
            number of the parameter's dtype (Zamirai et al., Revisiting BFloat16 Training, 2020, section 3.2).

    Raises:
        ValueError: A dtype or update that is not allowed.
    """

    exp_avg_dtype: torch.dtype = torch.float32
    exp_avg_sq_dtype: torch.dtype = torch.float32
    master_weights: bool = False
    update: WeightUpdate = "nearest"

    def __post_init__(self) -> None:
        for name in ("exp_avg_dtype", "exp_avg_sq_dtype"):
            if getattr(self, name) not in _STATES:
                allowed = ", ".join(map(str, _STATES))
                raise ValueError(f"Storage: {name} must be one of {allowed}, got {getattr(self, name)!r}")
        if self.update not in get_args(WeightUpdate):
            raise ValueError(f"Storage: update must be one of nearest, stochastic, kahan, got {self.update!r}")
        if self.master_weights and self.update != "nearest":
            raise ValueError(f"Storage: update={self.update} has no effect with master weights; use update='nearest'")


class _StoredOptimizer(Optimizer):
    """The loop over parameters, and the way from and to storage; `_compute` is the mathematics of one step."""

    def __init__(self, params: Any, defaults: dict[str, Any], storage: Storage, generator: torch.Generator | None):
        if not isinstance(storage, Storage):
            raise TypeError(f"{type(self).__name__}: storage must be a Storage, got {storage!r}")
        self.storage = storage
        self.generator = generator
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Takes one step for every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step_one(parameter, group)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads states in the dtypes they were saved in, where torch would cast them to the parameters'."""
        super().load_state_dict(state_dict)
        saved = state_dict["state"]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        for number, parameter in zip(numbers, parameters, strict=True):
            for name, value in saved.get(number, {}).items():
                kept = value.clone().to(parameter.device) if isinstance(value, Tensor) and value.dim() else value
                self.state[parameter][name] = kept

    def _step_one(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            self._start(parameter, state)
        state["step"] += 1
        weight = self._load(parameter, state)  # float32, from here to `_store`
        moments = {name: state[name].float() for name in self._moments(group) if name in state}
        self._compute(weight, parameter.grad.float(), moments, state["step"], group)  # type: ignore[union-attr]
        for name, moment in moments.items():
            _keep(state, name, moment, self._moments(group)[name])
        self._store(parameter, weight, state)

    def _start(self, parameter: Tensor, state: dict[str, Any]) -> None:
        state["step"] = 0
        if parameter.dtype is torch.float32:
            return
        if self.storage.master_weights:
            state["master"] = parameter.detach().float()
        elif self.storage.update == "kahan":
            state["compensation"] = torch.zeros_like(parameter)

    def _load(self, parameter: Tensor, state: dict[str, Any]) -> Tensor:
        if "master" in state:
            return state["master"]  # type: ignore[no-any-return]
        weight = parameter.detach().float()
        return weight.add_(state["compensation"]) if "compensation" in state else weight

    def _store(self, parameter: Tensor, weight: Tensor, state: dict[str, Any]) -> None:
        if parameter.dtype is torch.float32:
            return  # `weight` is the parameter
        if self.storage.update == "stochastic":
            fmt = "fp16" if parameter.dtype is torch.float16 else "bf16"
            weight = round_to(weight, fmt, overflow="inf", rounding="stochastic", generator=self.generator)
        parameter.copy_(weight)
        if "compensation" in state:
            state["compensation"].copy_(weight.sub_(parameter))

    def _moments(self, group: dict[str, Any]) -> dict[str, torch.dtype]:
        """Returns the names of the states that `_compute` works on, and how they are stored."""
        raise NotImplementedError

    def _compute(
        self, weight: Tensor, gradient: Tensor, moments: dict[str, Tensor], step: int, group: dict[str, Any]
    ) -> None:
        """Changes `weight` and `moments` in place; all are float32. A moment that is missing is to be made."""
        raise NotImplementedError


class SGD(_StoredOptimizer):
    """Stochastic gradient descent with momentum, as `torch.optim.SGD`.

    Args:
        params: Parameters or groups of them.
        lr: Learning rate.
        momentum: 0 keeps no state.
        weight_decay: Times the weight, added to the gradient.
        storage: How weights and momentum are stored; the momentum as `exp_avg_dtype` says.
        generator: Of stochastic rounding; None takes torch's global one.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        storage: Storage = Storage(),
        generator: torch.Generator | None = None,
    ) -> None:
        _require_from_zero("SGD", lr=lr, momentum=momentum, weight_decay=weight_decay)
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}, storage, generator)

    def _moments(self, group: dict[str, Any]) -> dict[str, torch.dtype]:
        return {"momentum_buffer": self.storage.exp_avg_dtype} if group["momentum"] else {}

    def _compute(
        self, weight: Tensor, gradient: Tensor, moments: dict[str, Tensor], step: int, group: dict[str, Any]
    ) -> None:
        if group["weight_decay"]:
            gradient = gradient.add(weight, alpha=group["weight_decay"])
        if group["momentum"]:
            if step == 1:
                moments["momentum_buffer"] = gradient.clone()
            else:
                moments["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
            gradient = moments["momentum_buffer"]
        weight.add_(gradient, alpha=-group["lr"])


class Adam(_StoredOptimizer):
    """Adam (Kingma and Ba, Adam: A Method for Stochastic Optimization, 2015), as `torch.optim.Adam`.

    Args:
        params: Parameters or groups of them.
        lr, betas, eps: As in the paper; eps is added to the square root.
        weight_decay: Times the weight, added to the gradient.
        storage: How weights and moments are stored.
        generator: Of stochastic rounding; None takes torch's global one.
    """

    _decoupled = False

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        storage: Storage = Storage(),
        generator: torch.Generator | None = None,
    ) -> None:
        owner = type(self).__name__
        _require_from_zero(owner, lr=lr, eps=eps, weight_decay=weight_decay)
        if not (len(betas) == 2 and all(0 <= beta < 1 for beta in betas)):
            raise ValueError(f"{owner}: betas must be two numbers from 0 to below 1, got {betas!r}")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults, storage, generator)

    def _moments(self, _group: dict[str, Any]) -> dict[str, torch.dtype]:
        return {"exp_avg": self.storage.exp_avg_dtype, "exp_avg_sq": self.storage.exp_avg_sq_dtype}

    def _compute(
        self, weight: Tensor, gradient: Tensor, moments: dict[str, Tensor], step: int, group: dict[str, Any]
    ) -> None:
        if step == 1:
            moments |= {name: torch.zeros_like(weight) for name in self._moments(group)}
        if group["weight_decay"]:
            if self._decoupled:
                weight.mul_(1 - group["lr"] * group["weight_decay"])
            else:
                gradient = gradient.add(weight, alpha=group["weight_decay"])
        adam_(weight, gradient, **moments, step=step, lr=group["lr"], betas=group["betas"], eps=group["eps"])


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019), as
    `torch.optim.AdamW`.

    Args:
        params: Parameters or groups of them.
        lr, betas, eps: As for `Adam`.
        weight_decay: Each step takes lr * weight_decay times the weight off the weight.
        storage: How weights and moments are stored.
        generator: Of stochastic rounding; None takes torch's global one.
    """

    _decoupled = True

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        storage: Storage = Storage(),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            params, lr, betas=betas, eps=eps, weight_decay=weight_decay, storage=storage, generator=generator
        )


def adam_(
    weight: Tensor,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
) -> None:
    """One Adam step in place on tensors of one shape and dtype; the operations of torch.optim, in its order.

    Args:
        step: Counted from 1.
    """
    beta1, beta2 = betas
    exp_avg.lerp_(gradient, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    bias_correction1, bias_correction2 = 1 - beta1**step, 1 - beta2**step
    denominator = (exp_avg_sq.sqrt() / bias_correction2**0.5).add_(eps)
    weight.addcdiv_(exp_avg, denominator, value=-lr / bias_correction1)


def _keep(state: dict[str, Any], name: str, value: Tensor, dtype: torch.dtype) -> None:
    """Stores a float32 tensor under `name`, in place if something is stored there."""
    if name not in state:
        state[name] = value.to(dtype)
    elif state[name] is not value:
        state[name].copy_(value)


def _require_from_zero(owner: str, **knobs: float) -> None:
    for name, value in knobs.items():
        if not 0 <= value < float("inf"):
            raise ValueError(f"{owner}: {name} must be a finite number from 0 up, got {value!r}")


def state_tensors(optimizer: Optimizer, parameter: Tensor | None = None) -> Iterator[tuple[str, Tensor]]:
    """Yields (name, tensor) for each state of one parameter or of all, without the counters of steps."""
    states = optimizer.state.values() if parameter is None else [optimizer.state.get(parameter, {})]
    for state in states:
        yield from ((name, value) for name, value in state.items() if isinstance(value, Tensor) and name != "step")
