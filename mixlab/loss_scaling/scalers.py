"""Loss scalers: none, static and dynamic, with the verbs of `torch.amp.GradScaler`.

A scaler multiplies the loss by a factor, so that small gradients do not underflow in a 16-bit format during backward,
and divides the gradients by it before the optimizer sees them (Micikevicius et al., Mixed Precision Training, 2018,
section 3.2):

    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)      # optional: `step` does it otherwise
    scaler.step(optimizer)          # skipped if a gradient of this optimizer is inf or NaN
    scaler.update()

Several optimizers may share one scaler. Each is unscaled and stepped on its own, and skipped only for its own
gradients; one `update` follows all of them.

`scale` also takes lists, tuples and other iterables of tensors. `step` passes extra arguments on to the optimizer, and
returns its result, or None for a skipped step. A closure computes the scaled gradients itself, so it is called
before they are unscaled and checked, and only once unless the optimizer asks for more:

    scaler.step(optimizer, closure)  # the closure calls optimizer.zero_grad() and scaler.scale(loss).backward()
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import Any, TypeVar, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer

from mixlab.loss_scaling.checked_steps import CheckedSteps
from mixlab.loss_scaling.policies import OnOverflow, ScalePolicy, ScaleState, TorchPolicy, require_scale, require_state

Outputs = TypeVar("Outputs")  # a tensor, or lists, tuples and iterables of tensors


class NoScaler:
    """No scaling: every verb passes through, and a step with inf or NaN gradients is taken like any other.

    Attributes:
        found_inf: Always False, because gradients are not checked.
        skips: Always False.
    """

    found_inf = False
    skips = False

    def scale(self, outputs: Outputs) -> Outputs:
        """Returns the loss unchanged.

        Args:
            outputs: The loss, or several losses.
        """
        return outputs

    def unscale_(self, optimizer: Optimizer, *, allow_fp16: bool = False) -> None:
        """Leaves the gradients unchanged.

        Args:
            optimizer: Not used.
            allow_fp16: Not used.
        """

    def step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        """Takes the optimizer's step and returns its result.

        Args:
            optimizer: The optimizer whose step to take.
            *args, **kwargs: For `optimizer.step`.
        """
        return optimizer.step(*args, **kwargs)

    def update(self) -> None:
        """Does nothing."""

    def get_scale(self) -> float:
        """Returns 1."""
        return 1.0

    def state_dict(self) -> dict[str, Any]:
        """Returns an empty state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Accepts an empty state.

        Args:
            state: From `state_dict`.

        Raises:
            TypeError: If `state` is not a dict.
            ValueError: If it is the state of another kind of scaler.
        """
        _require_keys(state, self.state_dict())


class StaticScaler:
    """A constant scale, with a check of the unscaled gradients.

    Args:
        scale: The factor, positive and finite.
        on_overflow: What to do about a step with inf or NaN in a gradient; see `DynamicScaler`.

    Raises:
        ValueError: If an argument is not allowed.
    """

    def __init__(self, scale: float = 2.0**16, *, on_overflow: OnOverflow = "skip") -> None:
        require_scale("StaticScaler", "scale", scale)
        self._scale = float(torch.tensor(float(scale), dtype=torch.float32))
        self._steps = CheckedSteps("StaticScaler", on_overflow)

    @property
    def found_inf(self) -> bool:
        """Whether a gradient held inf or NaN since the last `update`."""
        return self._steps.found_inf

    @property
    def skips(self) -> bool:
        """Whether a step with inf or NaN in a gradient is skipped."""
        return self._steps.on_overflow == "skip"

    def scale(self, outputs: Outputs) -> Outputs:
        """Returns the loss multiplied by the scale.

        Args:
            outputs: The loss, or lists, tuples and other iterables of tensors.

        Raises:
            ValueError: If `outputs` holds something else.
        """
        return _scaled(outputs, self._scale)  # type: ignore[no-any-return]

    def unscale_(self, optimizer: Optimizer, *, allow_fp16: bool = False) -> None:
        """Divides the optimizer's gradients by the scale in place, and looks for inf and NaN. Call it before clipping.

        Args:
            optimizer: The optimizer whose gradients to unscale.
            allow_fp16: Whether float16 gradients, which may underflow again, are accepted.

        Raises:
            RuntimeError: If the optimizer was unscaled or stepped since the last `update`.
            ValueError: If a gradient is in float16 and that is not allowed.
        """
        self._steps.unscale_(optimizer, self._scale, allow_fp16)

    def step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        """Unscales the gradients unless already done, then takes the step. On inf or NaN, does what `on_overflow` says.

        Args:
            optimizer: The optimizer whose step to take.
            *args, **kwargs: For `optimizer.step`, such as a closure.

        Returns:
            The optimizer's result; None for a skipped step.

        Raises:
            RuntimeError: If the optimizer has stepped since the last `update`.
            ValueError: If no parameter has a gradient, or `unscale_` refuses one.
        """
        return self._steps.step(optimizer, self._scale, args, kwargs)

    def update(self) -> None:
        """Ends a step: forgets which optimizers were unscaled, and what was found.

        Raises:
            RuntimeError: If no gradients were checked since the last call.
        """
        self._steps.finish()

    def get_scale(self) -> float:
        """Returns the scale."""
        return self._scale

    def state_dict(self) -> dict[str, Any]:
        """Returns the scale, for `load_state_dict`."""
        return {"scale": self._scale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Loads a saved scale.

        Args:
            state: From `state_dict`.

        Raises:
            TypeError: If `state` is not a dict.
            ValueError: If it is the state of another kind of scaler, or its scale is not allowed.
        """
        _require_keys(state, self.state_dict())
        require_scale("load_state_dict", "scale", state["scale"])
        self._scale = float(torch.tensor(float(state["scale"]), dtype=torch.float32))


class DynamicScaler:
    """A scale that hunts for its largest usable value, by one of the policies of `mixlab.loss_scaling`.

    With `TorchPolicy` it does step for step what `torch.amp.GradScaler` does, and their state dicts are
    interchangeable.

    >>> weight = torch.nn.Parameter(torch.ones(1))
    >>> optimizer = torch.optim.SGD([weight], lr=0.25)
    >>> scaler = DynamicScaler(TorchPolicy(init_scale=1024.0))
    >>> scaler.scale(2 * weight.sum()).backward()
    >>> weight.grad
    tensor([2048.])

    A step divides by the scale, and checks the gradients:

    >>> scaler.step(optimizer)
    >>> scaler.update()
    >>> weight.detach(), scaler.get_scale()
    (tensor([0.5000]), 1024.0)

    After an overflow the weight stays, and the scale is halved:

    >>> weight.grad = torch.tensor([torch.inf])
    >>> scaler.step(optimizer)
    >>> scaler.found_inf
    True
    >>> scaler.update()
    >>> weight.detach(), scaler.get_scale()
    (tensor([0.5000]), 512.0)

    To clip gradients, unscale them first:

    >>> weight.grad = None
    >>> scaler.scale(2 * weight.sum()).backward()
    >>> scaler.unscale_(optimizer)
    >>> torch.nn.utils.clip_grad_norm_([weight], 1.0)
    tensor(2.)
    >>> scaler.step(optimizer)

    Megatron's policy forgives the first overflow:

    >>> from mixlab.loss_scaling import MegatronPolicy, simulate
    >>> patient = DynamicScaler(MegatronPolicy(init_scale=1024.0, hysteresis=2))
    >>> simulate(patient.policy, [True, True]).scales
    (1024.0, 1024.0, 512.0)

    Args:
        policy: How the scale moves; None means `TorchPolicy()`.
        on_overflow: What to do about a step with inf or NaN in a gradient. "skip": do not take it, as torch,
            apex, Megatron and DeepSpeed do. "zero": set the gradients to zero and take it; with momentum, Adam or
            weight decay the weights then still move.

    Raises:
        TypeError: If `policy` is not a policy.
        ValueError: If `on_overflow` is neither "skip" nor "zero".
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
        self._steps = CheckedSteps("DynamicScaler", on_overflow)

    @property
    def policy(self) -> ScalePolicy:
        """How the scale moves."""
        return self._policy

    @property
    def found_inf(self) -> bool:
        """Whether a gradient held inf or NaN since the last `update`."""
        return self._steps.found_inf

    @property
    def skips(self) -> bool:
        """Whether a step with inf or NaN in a gradient is skipped."""
        return self._steps.on_overflow == "skip"

    def scale(self, outputs: Outputs) -> Outputs:
        """Returns the loss multiplied by the scale.

        Args:
            outputs: The loss, or lists, tuples and other iterables of tensors.

        Raises:
            ValueError: If `outputs` holds something else.
        """
        return _scaled(outputs, self._state.scale)  # type: ignore[no-any-return]

    def unscale_(self, optimizer: Optimizer, *, allow_fp16: bool = False) -> None:
        """Divides the optimizer's gradients by the scale in place, and looks for inf and NaN. Call it before clipping.

        Args:
            optimizer: The optimizer whose gradients to unscale.
            allow_fp16: Whether float16 gradients, which may underflow again, are accepted.

        Raises:
            RuntimeError: If the optimizer was unscaled or stepped since the last `update`.
            ValueError: If a gradient is in float16 and that is not allowed.
        """
        self._steps.unscale_(optimizer, self._state.scale, allow_fp16)

    def step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        """Unscales the gradients unless already done, then takes the step. On inf or NaN, does what `on_overflow` says.

        Args:
            optimizer: The optimizer whose step to take.
            *args, **kwargs: For `optimizer.step`, such as a closure.

        Returns:
            The optimizer's result; None for a skipped step.

        Raises:
            RuntimeError: If the optimizer has stepped since the last `update`.
            ValueError: If no parameter has a gradient, or `unscale_` refuses one.
        """
        return self._steps.step(optimizer, self._state.scale, args, kwargs)

    def update(self) -> None:
        """Ends a step: moves the scale as the policy says.

        Raises:
            RuntimeError: If no gradients were checked since the last call.
            MinimumScaleError: If DeepSpeed's policy would have to go below its minimum.
        """
        self._state = self._policy.after(self._state, self._steps.finish())

    def get_scale(self) -> float:
        """Returns the scale of the next step."""
        return self._state.scale

    def state_dict(self) -> dict[str, Any]:
        """Returns scale, counts and knobs, for `load_state_dict`; with `TorchPolicy`, in torch's layout."""
        if isinstance(self._policy, TorchPolicy):
            knobs = {name: value for name, value in vars(self._policy).items() if name != "init_scale"}
            return {"scale": self._state.scale, **knobs, "_growth_tracker": self._state.clean}
        return {"policy": type(self._policy).__name__, **asdict(self._policy), **asdict(self._state)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Loads scale, counts and knobs; as in torch, the saved knobs replace this scaler's.

        Args:
            state: From `state_dict`; with `TorchPolicy`, also from a `torch.amp.GradScaler`.

        Raises:
            TypeError: If `state` is not a dict.
            ValueError: If it is the state of another kind of scaler, or holds numbers that the policy cannot have.
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
