"""What a policy does to the loss scale over many steps, without a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mixlab.loss_scaling.policies import MinimumScaleError, ScalePolicy


@dataclass(frozen=True)
class ScaleHistory:
    """What a policy did over a sequence of steps.

    Attributes:
        scales: The scale in force during each step, and one more, after the last.
        overflows: Whether each step overflowed.
        error: Why the policy gave up, or "". The step it gave up on is the last in `overflows`.
    """

    scales: tuple[float, ...]
    overflows: tuple[bool, ...]
    error: str = ""

    @property
    def overflowed(self) -> int:
        """How many steps overflowed."""
        return sum(self.overflows)


def simulate(policy: ScalePolicy, overflows: Iterable[bool]) -> ScaleHistory:
    """Returns what `policy` does if exactly these steps overflow, whatever the scale.

    >>> from mixlab.loss_scaling import TorchPolicy
    >>> simulate(TorchPolicy(1024, growth_interval=2), [True, False, False, False]).scales
    (1024.0, 512.0, 512.0, 1024.0, 1024.0)

    Args:
        policy: The policy; it starts from its initial scale.
        overflows: Whether each step overflows.

    Raises:
        TypeError: If `overflows` is not iterable.
    """
    _require_sequence("simulate: overflows must be True or False for each step", overflows)
    return _history(policy, [_always(bool(overflow)) for overflow in overflows])


def hunt(policy: ScalePolicy, limits: Iterable[float]) -> ScaleHistory:
    """Returns what `policy` does if each step overflows when the scale is above that step's limit.

    >>> from mixlab.loss_scaling import TorchPolicy
    >>> hunt(TorchPolicy(1024, growth_interval=2), [600.0] * 6).scales
    (1024.0, 512.0, 512.0, 1024.0, 512.0, 512.0, 1024.0)

    Args:
        policy: The policy; it starts from its initial scale.
        limits: The largest scale at which each step does not overflow, e.g. from the largest gradient of a probe.

    Raises:
        TypeError: If `limits` is not iterable.
        ValueError: If a limit is negative or NaN.
    """
    _require_sequence("hunt: limits must be the largest scale for each step", limits)
    return _history(policy, [_above(limit) for limit in limits])


def _history(policy: ScalePolicy, tests: Iterable[Callable[[float], bool]]) -> ScaleHistory:
    state = policy.start()
    scales, overflows = [state.scale], []
    for overflows_at in tests:
        overflows.append(overflows_at(state.scale))
        try:
            state = policy.after(state, overflows[-1])
        except MinimumScaleError as error:
            return ScaleHistory(tuple(scales), tuple(overflows), str(error))
        scales.append(state.scale)
    return ScaleHistory(tuple(scales), tuple(overflows))


def _require_sequence(must: str, steps: object) -> None:
    if not isinstance(steps, Iterable):
        raise TypeError(f"{must}, in a list; got {steps!r}")


def _always(overflow: bool) -> Callable[[float], bool]:
    return lambda _scale: overflow


def _above(limit: float) -> Callable[[float], bool]:
    if not limit >= 0:
        raise ValueError(f"hunt: a limit must be a number from 0 up, got {limit!r}")
    return lambda scale: scale > limit
