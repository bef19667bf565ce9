"""Loss scalers: none, static and dynamic, with the verbs and the knobs of `torch.amp.GradScaler`.

A scaler multiplies the loss, so that small gradients stay above a 16-bit format's floor on their way back, and divides
the gradients again before the optimizer sees them (Micikevicius et al., Mixed Precision Training, 2018, section 3.2):

    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)      # optional: `step` does it, if nobody has
    scaler.step(optimizer)          # skipped if a gradient of this optimizer is inf or NaN
    scaler.update()
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer


class NoScaler:
    """No scaling: every verb passes through, and a step with inf or NaN gradients is taken like any other."""

    found_inf = False

    def scale(self, loss: Tensor) -> Tensor:
        return loss

    def unscale_(self, optimizer: Optimizer, *, allow_fp16: bool = False) -> None:
        pass

    def step(self, optimizer: Optimizer) -> None:
        optimizer.step()

    def update(self) -> None:
        pass

    def get_scale(self) -> float:
        return 1.0

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        _require_keys(state, self.state_dict())


class StaticScaler:
    """A constant scale; a step with inf or NaN in an unscaled gradient is skipped.

    Args:
        scale: The factor, positive and finite.
    """

    def __init__(self, scale: float = 2.0**16) -> None:
        _require_scale("StaticScaler", "scale", scale)
        self._scale = _float32(scale)
        self._steps = _Steps()

    @property
    def found_inf(self) -> bool:
        """Whether inf or NaN was found in a gradient since the last `update`."""
        return self._steps.found_inf

    def scale(self, loss: Tensor) -> Tensor:
        return _scaled(loss, self._scale)

    def unscale_(self, optimizer: Optimizer, *, allow_fp16: bool = False) -> None:
        self._steps.unscale_(optimizer, self._scale, allow_fp16)

    def step(self, optimizer: Optimizer) -> None:
        self._steps.step(optimizer, self._scale)

    def update(self) -> None:
        self._steps.finish()

    def get_scale(self) -> float:
        return self._scale

    def state_dict(self) -> dict[str, Any]:
        return {"scale": self._scale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        _require_keys(state, self.state_dict())
        self._scale = state["scale"]


class DynamicScaler:
    """The scale that hunts for the largest usable value, step for step as `torch.amp.GradScaler` does.

        update:  if any gradient was inf or NaN:  scale *= backoff_factor;  tracker = 0
                 else if tracker + 1 == growth_interval:
                                                  scale *= growth_factor, unless that is inf;  tracker = 0
                 else:                            tracker += 1

    The scale is a float32. It has no lower bound: after some 150 overflows in a row it is zero, and then zero times the
    loss gives zero gradients, NaN after unscaling, and a step that is *not* skipped. The test is `==`: a state loaded
    with a tracker beyond the interval never grows again. State dicts are those of `torch.amp.GradScaler`, and
    interchangeable.

    Args:
        init_scale: Where the scale starts, positive and finite.
        growth_factor: Above 1.
        backoff_factor: Between 0 and 1.
        growth_interval: Clean steps in a row before the scale grows, at least 1.
    """

    def __init__(
        self,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
    ) -> None:
        _require_scale("DynamicScaler", "init_scale", init_scale)
        if not (_is_number(growth_factor) and 1 < growth_factor < np.inf):
            raise ValueError(f"DynamicScaler: growth_factor must be a finite number above 1, got {growth_factor!r}")
        if not (_is_number(backoff_factor) and 0 < backoff_factor < 1):
            raise ValueError(f"DynamicScaler: backoff_factor must be a number between 0 and 1, got {backoff_factor!r}")
        if type(growth_interval) is not int or growth_interval < 1:
            raise ValueError(
                f"DynamicScaler: growth_interval must be a whole number from 1 up, got {growth_interval!r}"
            )
        self._scale = _float32(init_scale)
        self._growth_factor = float(growth_factor)
        self._backoff_factor = float(backoff_factor)
        self._growth_interval = growth_interval
        self._growth_tracker = 0
        self._steps = _Steps()

    @property
    def found_inf(self) -> bool:
        """Whether inf or NaN was found in a gradient since the last `update`."""
        return self._steps.found_inf

    def scale(self, loss: Tensor) -> Tensor:
        return _scaled(loss, self._scale)

    def unscale_(self, optimizer: Optimizer, *, allow_fp16: bool = False) -> None:
        self._steps.unscale_(optimizer, self._scale, allow_fp16)

    def step(self, optimizer: Optimizer) -> None:
        self._steps.step(optimizer, self._scale)

    def update(self) -> None:
        if self._steps.finish():
            self._scale = _float32(self._scale * self._backoff_factor)
            self._growth_tracker = 0
        elif self._growth_tracker + 1 == self._growth_interval:
            grown = _float32(self._scale * self._growth_factor)
            self._scale = grown if np.isfinite(grown) else self._scale
            self._growth_tracker = 0
        else:
            self._growth_tracker += 1

    def get_scale(self) -> float:
        return self._scale

    def state_dict(self) -> dict[str, Any]:
        return {
            "scale": self._scale,
            "growth_factor": self._growth_factor,
            "backoff_factor": self._backoff_factor,
            "growth_interval": self._growth_interval,
            "_growth_tracker": self._growth_tracker,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        _require_keys(state, self.state_dict())
        self._scale = state["scale"]
        self._growth_factor = state["growth_factor"]
        self._backoff_factor = state["backoff_factor"]
        self._growth_interval = state["growth_interval"]
        self._growth_tracker = state["_growth_tracker"]


Scaler = NoScaler | StaticScaler | DynamicScaler


class _Steps:
    """What each optimizer went through since the last update: unscaled, with what was found, and stepped."""

    def __init__(self) -> None:
        self._found_inf: dict[Optimizer, bool] = {}  # present once unscaled
        self._stepped: set[Optimizer] = set()

    @property
    def found_inf(self) -> bool:
        return any(self._found_inf.values())

    def unscale_(self, optimizer: Optimizer, scale: float, allow_fp16: bool) -> None:
        if optimizer in self._found_inf:
            raise RuntimeError(
                "unscale_: this optimizer's gradients are unscaled already; call it once between two update()"
            )
        self._found_inf[optimizer] = _unscale_(optimizer, scale, allow_fp16)

    def step(self, optimizer: Optimizer, scale: float) -> None:
        if optimizer in self._stepped:
            raise RuntimeError("step: this optimizer has stepped already; call update() before its next step")
        if optimizer not in self._found_inf:
            self.unscale_(optimizer, scale, allow_fp16=False)
        if not self._found_inf[optimizer]:
            optimizer.step()
        self._stepped.add(optimizer)

    def finish(self) -> bool:
        """Forgets everything, and returns whether inf or NaN was found for any optimizer."""
        if not self._found_inf:
            raise RuntimeError(
                "update: no gradients were checked since the last update(); call step(optimizer) before it"
            )
        found_inf = self.found_inf
        self._found_inf.clear()
        self._stepped.clear()
        return found_inf


def _unscale_(optimizer: Optimizer, scale: float, allow_fp16: bool) -> bool:
    """Divides the optimizer's gradients by `scale` in place; returns whether any element was inf or NaN before that."""
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            if parameter.grad.dtype is torch.float16 and not allow_fp16:
                raise ValueError(
                    "unscale_: gradients in float16 would underflow again when divided by the scale; keep the weights "
                    "in float32 and compute under autocast, or pass allow_fp16=True to see it happen"
                )
            gradient = parameter.grad
            if gradient.is_sparse:
                parameter.grad = gradient = gradient.coalesce()
                gradient = gradient._values()
            groups.setdefault((gradient.device, gradient.dtype), []).append(gradient)
    if not groups:
        raise ValueError("unscale_: no parameter of this optimizer has a gradient; call backward() first")
    inverse = torch.tensor(scale, dtype=torch.float64).reciprocal().to(torch.float32)
    found: dict[torch.device, Tensor] = {}
    for (device, _), gradients in groups.items():
        found_inf = found.setdefault(device, torch.zeros(1, device=device))
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, found_inf, inverse.to(device))
    return any(bool(found_inf) for found_inf in found.values())


def _scaled(loss: Tensor, scale: float) -> Tensor:
    return loss * torch.tensor(scale, dtype=torch.float32, device=loss.device)


def _float32(value: float) -> float:
    with np.errstate(over="ignore", under="ignore"):
        return float(np.float32(value))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _require_scale(owner: str, knob: str, value: float) -> None:
    if not (_is_number(value) and 0 < _float32(value) < np.inf):
        raise ValueError(f"{owner}: {knob} must be a positive number that float32 can hold, got {value!r}")


def _require_keys(state: dict[str, Any], expected: dict[str, Any]) -> None:
    if state.keys() != expected.keys():
        came, wanted = ", ".join(sorted(state)) or "nothing", ", ".join(sorted(expected)) or "nothing"
        raise ValueError(
            f"load_state_dict: this scaler's state is {wanted}; got {came}, the state of another kind of scaler"
        )
