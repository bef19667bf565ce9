"""How torch, apex, Megatron and DeepSpeed move a loss scale after each step, as frozen knobs and pure functions.

| here | torch.amp | apex | Megatron-LM | DeepSpeed |
|---|---|---|---|---|
| `init_scale` | init_scale | init_scale | initial_loss_scale | 2^initial_scale_power |
| `growth_factor` | growth_factor | 2, fixed | growth_factor; 2 by its options | 2, fixed |
| `backoff_factor` | backoff_factor | 1/2, fixed | backoff_factor; 1/2 by its options | 1/2, fixed |
| `growth_interval` | growth_interval | scale_window | loss_scale_window | loss_scale_window |
| `min_scale` | none | min_loss_scale | min_loss_scale | min_loss_scale |
| `max_scale` | none | max_loss_scale | none | none |
| `hysteresis` | none | none | hysteresis | hysteresis |
| `consecutive_hysteresis` | none | none | none | consecutive_hysteresis |
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Literal, get_args

from mixlab.arguments import require_whole

OnOverflow = Literal["skip", "zero"]


@dataclass(frozen=True)
class ScaleState:
    """The state of a policy between two steps.

    Attributes:
        scale: The factor that the next step's loss is multiplied by.
        clean: Steps in a row without overflow, as the policy counts them (torch calls it the growth tracker).
        hysteresis_left: Counts down to the overflow that lowers the scale, in policies that forgive the first ones.
    """

    scale: float
    clean: int = 0
    hysteresis_left: int = 1


class MinimumScaleError(RuntimeError):
    """Raised where DeepSpeed stops training: gradients overflow while the scale is at its minimum."""


@dataclass(frozen=True)
class TorchPolicy:
    """`torch.amp.GradScaler`: the scale is a float32 without bounds.

        overflow:  scale *= backoff_factor;  clean = 0
        clean:     if clean + 1 == growth_interval:  scale *= growth_factor, unless that is inf;  clean = 0
                   else:                             clean += 1

    After 144 overflows in a row from 2^16, 1 / scale is inf in float32; after 166 the scale is zero. Scaled gradients
    are then tiny or zero, and finite, so the step is *not* skipped: unscaling makes inf or NaN of them. The test for
    growth is `==`: if the interval is lowered below `clean`, the scale never grows again.

    Args:
        init_scale: The initial scale, positive and finite.
        growth_factor: Above 1.
        backoff_factor: Between 0 and 1.
        growth_interval: Clean steps in a row before the scale grows, at least 1.
    """

    init_scale: float = 2.0**16
    growth_factor: float = 2.0
    backoff_factor: float = 0.5
    growth_interval: int = 2000

    def __post_init__(self) -> None:
        _check_knobs(self)

    def start(self) -> ScaleState:
        """Returns the state before the first step."""
        return ScaleState(_float32(self.init_scale))

    def after(self, state: ScaleState, overflow: bool) -> ScaleState:
        """Returns the state after a step.

        Args:
            state: The state before the step.
            overflow: Whether a gradient of the step held inf or NaN.
        """
        if overflow:
            return ScaleState(_float32(state.scale * self.backoff_factor))
        if state.clean + 1 != self.growth_interval:
            return ScaleState(state.scale, state.clean + 1)
        grown = _float32(state.scale * self.growth_factor)
        return ScaleState(grown if math.isfinite(grown) else state.scale)


@dataclass(frozen=True)
class ApexPolicy:
    """NVIDIA apex's dynamic loss scale: it halves and doubles, between two bounds.

        overflow:  scale = max(min_scale, scale / 2);  clean = 0
        clean:     clean += 1;  if clean == growth_interval:  scale = min(max_scale, 2 * scale);  clean = 0

    Args:
        init_scale: The initial scale, positive and finite.
        growth_interval: Clean steps in a row before the scale grows, at least 1.
        min_scale: The lower bound, at most `init_scale`; 0 for none.
        max_scale: The upper bound, at least `init_scale`.
    """

    init_scale: float = 2.0**16
    growth_interval: int = 2000
    min_scale: float = 0.0
    max_scale: float = 2.0**24

    def __post_init__(self) -> None:
        _check_knobs(self)

    def start(self) -> ScaleState:
        """Returns the state before the first step."""
        return ScaleState(float(self.init_scale))

    def after(self, state: ScaleState, overflow: bool) -> ScaleState:
        """Returns the state after a step.

        Args:
            state: The state before the step.
            overflow: Whether a gradient of the step held inf or NaN.
        """
        if overflow:
            return ScaleState(max(self.min_scale, state.scale / 2))
        if state.clean + 1 == self.growth_interval:
            return ScaleState(min(self.max_scale, 2 * state.scale))
        return ScaleState(state.scale, state.clean + 1)


@dataclass(frozen=True)
class MegatronPolicy:
    """Megatron-LM's dynamic scaler: it forgives the first overflows, and has a lower bound.

        overflow:  clean = 0;  hysteresis_left -= 1
                   if hysteresis_left <= 0:  scale = max(scale * backoff_factor, min_scale)
        clean:     clean += 1
                   if clean == growth_interval:  scale *= growth_factor;  clean = 0;  hysteresis_left = hysteresis

    Scale and factors are float32. The scale may grow to inf, and no backoff brings it back from there.

    Args:
        init_scale, growth_factor, backoff_factor, growth_interval: As for torch.
        min_scale: The lower bound, positive, at most `init_scale`.
        hysteresis: Which overflow after a growth is the first to lower the scale; at least 1.
    """

    init_scale: float = 2.0**32
    growth_factor: float = 2.0
    backoff_factor: float = 0.5
    growth_interval: int = 1000
    min_scale: float = 1.0
    hysteresis: int = 2

    def __post_init__(self) -> None:
        _check_knobs(self)

    def start(self) -> ScaleState:
        """Returns the state before the first step."""
        return ScaleState(_float32(self.init_scale), hysteresis_left=self.hysteresis)

    def after(self, state: ScaleState, overflow: bool) -> ScaleState:
        """Returns the state after a step.

        Args:
            state: The state before the step.
            overflow: Whether a gradient of the step held inf or NaN.
        """
        if overflow:
            left = state.hysteresis_left - 1
            lower = max(_float32(state.scale * _float32(self.backoff_factor)), _float32(self.min_scale))
            return ScaleState(lower if left <= 0 else state.scale, hysteresis_left=left)
        if state.clean + 1 == self.growth_interval:
            grown = _float32(state.scale * _float32(self.growth_factor))
            return ScaleState(grown, hysteresis_left=self.hysteresis)
        return ScaleState(state.scale, state.clean + 1, state.hysteresis_left)


@dataclass(frozen=True)
class DeepSpeedPolicy:
    """DeepSpeed's dynamic loss scale: it forgives the first overflows, and gives up at its lower bound.

        overflow:  clean = 0
                   if hysteresis_left == 1:  scale = max(scale / 2, min_scale), or an error at min_scale
                   else:                     hysteresis_left -= 1
        clean:     if clean > 0 and clean % growth_interval == 0:  scale *= 2;  hysteresis_left = hysteresis
                   clean += 1

    So it grows on the (growth_interval + 1)-th clean step. An overflow soon after another lowers the scale at once:
    only growth restores the hysteresis, or with `consecutive_hysteresis` every clean step.

    Args:
        init_scale, growth_interval: As for torch.
        min_scale: The lower bound, positive, at most `init_scale`.
        hysteresis: Which overflow is the first to lower the scale; at least 1.
        consecutive_hysteresis: Whether every clean step restores the hysteresis.
    """

    init_scale: float = 2.0**16
    growth_interval: int = 1000
    min_scale: float = 1.0
    hysteresis: int = 2
    consecutive_hysteresis: bool = False

    def __post_init__(self) -> None:
        _check_knobs(self)

    def start(self) -> ScaleState:
        """Returns the state before the first step."""
        return ScaleState(float(self.init_scale), hysteresis_left=self.hysteresis)

    def after(self, state: ScaleState, overflow: bool) -> ScaleState:
        """Returns the state after a step.

        Args:
            state: The state before the step.
            overflow: Whether a gradient of the step held inf or NaN.

        Raises:
            MinimumScaleError: If an overflow would lower the scale, but the scale is at `min_scale` already.
        """
        if overflow:
            if state.hysteresis_left > 1:
                return ScaleState(state.scale, hysteresis_left=state.hysteresis_left - 1)
            if state.scale == self.min_scale:
                raise MinimumScaleError(
                    f"the loss scale is at its minimum, {self.min_scale:g}, and gradients overflow: DeepSpeed stops "
                    "here; the loss or the weights have probably diverged"
                )
            return ScaleState(max(state.scale / 2, self.min_scale), hysteresis_left=state.hysteresis_left)
        grows = state.clean > 0 and state.clean % self.growth_interval == 0
        restored = grows or self.consecutive_hysteresis
        return ScaleState(
            2 * state.scale if grows else state.scale,
            state.clean + 1,
            self.hysteresis if restored else state.hysteresis_left,
        )


ScalePolicy = TorchPolicy | ApexPolicy | MegatronPolicy | DeepSpeedPolicy


def require_state(policy: ScalePolicy, state: ScaleState) -> ScaleState:
    """Returns a saved state as Python numbers, if `policy` can be in it.

    Torch's policy, and apex's without a bound, can have a scale of zero; Megatron's and DeepSpeed's can have inf.

    Raises:
        ValueError: If the policy cannot be in this state.
    """
    owner, scale = type(policy).__name__, state.scale
    low, high = getattr(policy, "min_scale", 0.0), getattr(policy, "max_scale", math.inf)
    bounded = isinstance(policy, TorchPolicy | ApexPolicy)
    in_float32 = isinstance(policy, TorchPolicy | MegatronPolicy)
    if is_number(scale):
        scale = _float32(scale) if in_float32 else _as_float(scale)
        low = _float32(low) if in_float32 else low
    if not (is_number(scale) and low <= scale <= high and (scale < math.inf or not bounded)):
        raise ValueError(f"load_state_dict: {owner} cannot have a scale of {state.scale!r}")
    for name in ("clean", "hysteresis_left"):
        value = getattr(state, name)
        if not _is_whole(value) or (name == "clean" and value < 0):
            raise ValueError(f"load_state_dict: {name} must be a whole number that {owner} can count to, got {value!r}")
    return replace(state, scale=scale, clean=int(state.clean), hysteresis_left=int(state.hysteresis_left))


def _check_knobs(policy: ScalePolicy) -> None:
    """Converts NumPy numbers to Python's, and raises ValueError for the first knob that is out of range."""
    owner, knobs = type(policy).__name__, vars(policy)
    for name, value in list(knobs.items()):
        object.__setattr__(policy, name, _of_python(value))
    require_scale(owner, "init_scale", policy.init_scale)
    growth, backoff = knobs.get("growth_factor", 2.0), knobs.get("backoff_factor", 0.5)
    if not (is_number(growth) and growth > 1 and _as_float(growth) < math.inf):
        raise ValueError(f"{owner}: growth_factor must be a finite number above 1, got {growth!r}")
    if not (is_number(backoff) and 0 < backoff < 1):
        raise ValueError(f"{owner}: backoff_factor must be a number between 0 and 1, got {backoff!r}")
    for name in ("growth_interval", "hysteresis"):
        require_whole(f"{owner}: {name}", knobs.get(name, 1), 1)
    low, high = knobs.get("min_scale", 0.0), knobs.get("max_scale", math.inf)
    unbounded = isinstance(policy, ApexPolicy) and is_number(low) and low == 0
    if not (is_number(low) and (0 < low <= policy.init_scale or unbounded or "min_scale" not in knobs)):
        raise ValueError(
            f"{owner}: min_scale must be a positive number up to init_scale={policy.init_scale:g}, got {low!r}"
        )
    if not (is_number(high) and (policy.init_scale <= _as_float(high) < math.inf or "max_scale" not in knobs)):
        raise ValueError(
            f"{owner}: max_scale must be a finite number from init_scale={policy.init_scale:g} up, got {high!r}"
        )
    if type(knobs.get("consecutive_hysteresis", False)) is not bool:
        raise ValueError(
            f"{owner}: consecutive_hysteresis must be True or False, got {knobs['consecutive_hysteresis']!r}"
        )


def require_scale(owner: str, knob: str, value: float) -> None:
    """Raises ValueError if `value` cannot be a loss scale: it must be positive and finite as a float32."""
    if not (is_number(value) and 0 < _float32(value) < math.inf):
        raise ValueError(f"{owner}: {knob} must be a positive number that float32 can hold, got {value!r}")


def require_on_overflow(owner: str, value: object) -> None:
    """Raises ValueError if `value` is not one of `OnOverflow`."""
    if value not in get_args(OnOverflow):
        raise ValueError(f"{owner}: on_overflow must be one of {', '.join(get_args(OnOverflow))}, got {value!r}")


def is_number(value: object) -> bool:
    """Whether `value` is a Python or NumPy number; True and False are not."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _of_python(value: object) -> object:
    if type(value).__name__ in ("bool", "bool_"):  # NumPy's has either name
        return bool(value)
    if not is_number(value) or type(value) in (int, float):
        return value
    return int(value) if isinstance(value, Integral) else float(value)  # type: ignore[arg-type]


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number beyond float64
        return math.inf if value > 0 else -math.inf


def _float32(value: float) -> float:
    return ctypes.c_float(_as_float(value)).value
