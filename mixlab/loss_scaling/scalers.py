"""Loss scalers: none, static and dynamic, with the verbs of `torch.amp.GradScaler`.

A scaler multiplies the loss, so that small gradients stay above a 16-bit format's floor on their way back, and divides
the gradients again before the optimizer sees them (Micikevicius et al., Mixed Precision Training, 2018, section 3.2):

    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)      # optional: `step` does it, if nobody has
    scaler.step(optimizer)          # skipped if a gradient of this optimizer is inf or NaN
    scaler.update()

Several optimizers may share one scaler: each is unscaled and stepped, skipped only for its own gradients, and one
`update` follows all of them.

`scale` also takes lists, tuples and other iterables of tensors. `step` passes on what else it is given, and returns
what the optimizer returns, None for a skipped step. A closure computes the scaled gradients itself, so it is called
before they are unscaled and checked, and once only unless the optimizer asks for more:

    scaler.step(optimizer, closure)  # which calls optimizer.zero_grad() and scaler.scale(loss).backward()
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer

from mixlab.loss_scaling.policies import ScalePolicy, ScaleState, TorchPolicy, require_scale, require_state

OnOverflow = Literal["skip", "zero"]
Outputs = TypeVar("Outputs")  # a tensor, or lists, tuples and iterables of tensors


class NoScaler:
    """No scaling: every verb passes through, and a step with inf or NaN gradients is taken like any other."""

    found_inf = False
    skips = False

    def scale(self, outputs: Outputs) -> Outputs:
        return outputs

    def unscale_(self, optimizer: Optimizer, *, allow_fp16: bool = False) -> None:
        pass

    def step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        return optimizer.step(*args, **kwargs)

    def update(self) -> None:
        pass

    def get_scale(self) -> float:
        return 1.0

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        _require_keys(state, self.state_dict())


class StaticScaler:
    """A constant scale, and a check of the unscaled gradients.

    Args:
        scale: The factor, positive and finite.
        on_overflow: What a step with inf or NaN in a gradient becomes; see `DynamicScaler`.
    """

    def __init__(self, scale: float = 2.0**16, *, on_overflow: OnOverflow = "skip") -> None:
        require_scale("StaticScaler", "scale", scale)
        self._scale = float(torch.tensor(float(scale), dtype=torch.float32))
        self._steps = _Steps("StaticScaler", on_overflow)

    @property
    def found_inf(self) -> bool:
        """Whether inf or NaN was found in a gradient since the last `update`."""
        return self._steps.found_inf

    @property
    def skips(self) -> bool:
        """Whether a step with inf or NaN in a gradient is skipped."""
        return self._steps.on_overflow == "skip"

    def scale(self, outputs: Outputs) -> Outputs:
        return _scaled(outputs, self._scale)  # type: ignore[no-any-return]

    def unscale_(self, optimizer: Optimizer, *, allow_fp16: bool = False) -> None:
        self._steps.unscale_(optimizer, self._scale, allow_fp16)

    def step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        return self._steps.step(optimizer, self._scale, args, kwargs)

    def update(self) -> None:
        self._steps.finish()

    def get_scale(self) -> float:
        return self._scale

    def state_dict(self) -> dict[str, Any]:
        return {"scale": self._scale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        _require_keys(state, self.state_dict())
        require_scale("load_state_dict", "scale", state["scale"])
        self._scale = float(torch.tensor(float(state["scale"]), dtype=torch.float32))


class DynamicScaler:
    """The scale that hunts for the largest usable value, under a policy of `mixlab.loss_scaling.policies`.

    With `TorchPolicy` it does step for step what `torch.amp.GradScaler` does, and their state dicts are
    interchangeable.

    Args:
        policy: How the scale moves; None takes `TorchPolicy()`.
        on_overflow: What a step with inf or NaN in a gradient becomes. "skip": it is not taken, as in every system.
            "zero": the gradients are set to zero and it is taken; with momentum, Adam or weight decay the weights then
            move all the same.
    """

    def __init__(self, policy: ScalePolicy | None = None, *, on_overflow: OnOverflow = "skip") -> None:
        policy = TorchPolicy() if policy is None else policy
        if not isinstance(policy, ScalePolicy):
            raise TypeError(
                f"DynamicScaler: policy must be one of {', '.join(kind.__name__ for kind in get_args(ScalePolicy))}, "
                f"got {policy!r}"
            )
        self._policy: ScalePolicy = policy
        self._state = policy.start()
        self._steps = _Steps("DynamicScaler", on_overflow)

    @property
    def policy(self) -> ScalePolicy:
        return self._policy

    @property
    def found_inf(self) -> bool:
        """Whether inf or NaN was found in a gradient since the last `update`."""
        return self._steps.found_inf

    @property
    def skips(self) -> bool:
        """Whether a step with inf or NaN in a gradient is skipped."""
        return self._steps.on_overflow == "skip"

    def scale(self, outputs: Outputs) -> Outputs:
        return _scaled(outputs, self._state.scale)  # type: ignore[no-any-return]

    def unscale_(self, optimizer: Optimizer, *, allow_fp16: bool = False) -> None:
        self._steps.unscale_(optimizer, self._state.scale, allow_fp16)

    def step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        return self._steps.step(optimizer, self._state.scale, args, kwargs)

    def update(self) -> None:
        """Moves the scale.

        Raises:
            MinimumScaleError: DeepSpeed's policy does not go lower.
        """
        self._state = self._policy.after(self._state, self._steps.finish())

    def get_scale(self) -> float:
        return self._state.scale

    def state_dict(self) -> dict[str, Any]:
        if isinstance(self._policy, TorchPolicy):  # torch's own layout
            knobs = {name: value for name, value in vars(self._policy).items() if name != "init_scale"}
            return {"scale": self._state.scale, **knobs, "_growth_tracker": self._state.clean}
        return {"policy": type(self._policy).__name__, **asdict(self._policy), **asdict(self._state)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over scale and knobs; as in torch, the knobs of the state win over those of this scaler.

        Raises:
            ValueError: A state of another kind of scaler, or numbers that this policy would not have.
        """
        own = self.state_dict()
        _require_keys(state, own)
        if own.get("policy") != state.get("policy"):
            raise ValueError(f"load_state_dict: this scaler's policy is {own['policy']}; got {state['policy']}")
        loaded = dict(state)
        if isinstance(self._policy, TorchPolicy):
            loaded |= {"init_scale": self._policy.init_scale, "clean": state["_growth_tracker"]}
        policy = type(self._policy)(**{field.name: loaded[field.name] for field in fields(self._policy)})
        kept = {field.name: loaded[field.name] for field in fields(ScaleState) if field.name in loaded}
        self._state = require_state(policy, ScaleState(**kept))
        self._policy = policy


Scaler = NoScaler | StaticScaler | DynamicScaler


class _Steps:
    """What each optimizer went through since the last update: unscaled, with what was found, and stepped."""

    def __init__(self, owner: str, on_overflow: OnOverflow) -> None:
        if on_overflow not in get_args(OnOverflow):
            raise ValueError(f"{owner}: on_overflow must be one of skip, zero, got {on_overflow!r}")
        self.on_overflow = on_overflow
        self._found_inf: dict[Optimizer, bool | None] = {}  # present once unscaled; None if there was no gradient
        self._stepped: set[Optimizer] = set()

    @property
    def found_inf(self) -> bool:
        return any(self._found_inf.values())

    def unscale_(self, optimizer: Optimizer, scale: float, allow_fp16: bool) -> None:
        if optimizer in self._stepped:
            raise RuntimeError("unscale_: this optimizer has stepped already; call update() first")
        if optimizer in self._found_inf:
            raise RuntimeError(
                "unscale_: this optimizer's gradients are unscaled already; call it once between two update()"
            )
        self._found_inf[optimizer] = _unscale_(optimizer, scale, allow_fp16)

    def step(self, optimizer: Optimizer, scale: float, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if optimizer in self._stepped:
            raise RuntimeError("step: this optimizer has stepped already; call update() before its next step")
        if callable(kwargs.get("closure")):
            kwargs = {**kwargs, "closure": self._called(kwargs["closure"], optimizer, scale)}
        elif args and callable(args[0]):
            args = (self._called(args[0], optimizer, scale), *args[1:])
        if optimizer not in self._found_inf:
            self.unscale_(optimizer, scale, allow_fp16=False)
        found_inf = self._found_inf[optimizer]
        if found_inf is None:
            raise ValueError("step: no parameter of this optimizer has a gradient; call backward() first")
        if found_inf and self.on_overflow == "zero":
            _zero_gradients_(optimizer)
        returned = None
        if not found_inf or self.on_overflow == "zero":
            returned = optimizer.step(*args, **kwargs)
        self._stepped.add(optimizer)
        return returned

    def _called(self, closure: Callable[[], Any], optimizer: Optimizer, scale: float) -> Callable[[], Any]:
        """Calls a closure, and returns one that gives its loss again, then computes others with unscaled gradients."""
        before = [(gradient, _version(gradient)) for gradient in _gradients(optimizer)]
        with torch.enable_grad():
            losses = [closure()]
        after = zip(_gradients(optimizer), before, strict=True)
        computed = any(new is not old or _version(new) != version for new, (old, version) in after)
        if optimizer in self._found_inf and computed:
            raise RuntimeError(
                "step: unscale_ was called before the closure, which computes scaled gradients anew; leave it out, or "
                "call backward() before unscale_ and step(optimizer) without the closure"
            )

        def again() -> Any:
            if losses:
                return losses.pop()
            loss = closure()
            self._found_inf[optimizer] = bool(_unscale_(optimizer, scale, False)) or self._found_inf[optimizer]
            return loss

        return again

    def finish(self) -> bool:
        """Forgets everything, and returns whether inf or NaN was found for any optimizer."""
        if all(found_inf is None for found_inf in self._found_inf.values()):
            raise RuntimeError(
                "update: no gradients were checked since the last update(); call step(optimizer) before it"
            )
        found_inf = self.found_inf
        self._found_inf.clear()
        self._stepped.clear()
        return found_inf


def _version(gradient: Tensor | None) -> int:
    """Returns how often a gradient was written to."""
    return -1 if gradient is None else gradient._version


def _unscale_(optimizer: Optimizer, scale: float, allow_fp16: bool) -> bool | None:
    """Divides the optimizer's gradients by `scale` in place; returns whether any element was inf or NaN before that.

    None if there is no gradient.
    """
    found = unscale_without_reading_(optimizer, scale, allow_fp16=allow_fp16)
    return any(bool(found_inf) for found_inf in found) if found else None


def unscale_without_reading_(optimizer: Optimizer, scale: float, *, allow_fp16: bool = False) -> list[Tensor]:
    """Divides the optimizer's gradients by `scale` in place, and reads nothing back from the device.

    Returns:
        For each device with gradients a (1,) float32 tensor: other than zero if any element there was inf or NaN before
        that.

    Raises:
        ValueError: Gradients in float16 that are not allowed.
    """
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            gradient = parameter.grad
            if gradient is None:
                continue
            if gradient.dtype is torch.float16 and not allow_fp16:
                raise ValueError(
                    "unscale_: gradients in float16 would underflow again when divided by the scale; keep the weights "
                    "in float32 and compute under autocast, or pass allow_fp16=True to see it happen"
                )
            if gradient.is_sparse:
                if gradient.dtype is torch.float16:  # sums of one row's values may overflow, as torch says
                    parameter.grad = gradient = gradient.coalesce()
                gradient = gradient._values()
            if gradient.is_complex():
                gradient = torch.view_as_real(gradient)
            groups.setdefault((gradient.device, gradient.dtype), []).append(gradient)
    inverse = torch.tensor(scale, dtype=torch.float64).reciprocal().to(torch.float32)
    found: dict[torch.device, Tensor] = {}
    for (device, _), gradients in groups.items():
        found_inf = found.setdefault(device, torch.zeros(1, device=device))
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, found_inf, inverse.to(device))
    return list(found.values())


def _gradients(optimizer: Optimizer) -> Iterator[Tensor | None]:
    return (parameter.grad for group in optimizer.param_groups for parameter in group["params"])


def _zero_gradients_(optimizer: Optimizer) -> None:
    for gradient in _gradients(optimizer):
        if gradient is not None:
            gradient.zero_()


def _scaled(outputs: Any, scale: float) -> Any:
    if isinstance(outputs, Tensor):
        return outputs * torch.tensor(scale, dtype=torch.float32, device=outputs.device)
    if isinstance(outputs, Iterable) and not isinstance(outputs, str | bytes | Mapping):
        scaled = (_scaled(output, scale) for output in outputs)
        if hasattr(outputs, "_fields"):
            return type(outputs)(*scaled)
        return type(outputs)(scaled) if isinstance(outputs, list | tuple) else scaled
    raise ValueError(f"scale: outputs must be a tensor, or a list or tuple of tensors, got {type(outputs).__name__}")


def _require_keys(state: Mapping[str, Any], expected: dict[str, Any]) -> None:
    if not isinstance(state, Mapping):
        raise TypeError(f"load_state_dict: a state must be a dict, got {type(state).__name__}")
    if state.keys() != expected.keys():
        came, wanted = ", ".join(sorted(map(str, state))) or "nothing", ", ".join(sorted(expected)) or "nothing"
        raise ValueError(
            f"load_state_dict: this scaler's state is {wanted}; got {came}, the state of another kind of scaler"
        )
