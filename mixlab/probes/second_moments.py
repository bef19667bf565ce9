"""Whether a state of an optimizer is a second moment as in Adam: a running mean of the squared gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from mixlab.optimizers import Adam

# What optimizers call it: Adam, RMSprop, Adafactor (of a vector), bitsandbytes.
_NAMES = ("exp_avg_sq", "square_avg", "variance", "state2")


@dataclass(frozen=True)
class Kind:
    """What is known about a class of optimizers whose second moment is a mean of squared gradients.

    Attributes:
        is_adam: Whether its denominator and its decoupled weight decay are those of torch.optim's Adam and AdamW.
    """

    is_adam: bool = False


_ADAM, _KNOWN = Kind(is_adam=True), Kind()
_MOVES_AT_ONCE = ("torch", "mixlab", "optimi", "torchao", "bitsandbytes")  # their optimizers step from the first on
# By the package and the class itself: a subclass may do something else.
_KINDS: dict[tuple[str, str], Kind] = {
    **dict.fromkeys([("torch", "Adam"), ("torch", "AdamW")], _ADAM),
    **{("torch", name): _KNOWN for name in ("NAdam", "RAdam", "RMSprop", "Adadelta", "SparseAdam")},
    **{("optimi", name): _KNOWN for name in ("Adam", "AdamW", "RAdam", "Ranger", "StableAdamW")},
    **{("torchao", f"Adam{decay}{bits}"): _KNOWN for decay in ("", "W") for bits in ("4bit", "8bit", "Fp8")},
    ("torchao", "_AdamW"): _KNOWN,
}


def kind_of(optimizer: Optimizer) -> Kind | None:
    """Returns what is known about an optimizer's class, or None."""
    if isinstance(optimizer, Adam):
        return _ADAM
    return _KINDS.get((_package(optimizer), type(optimizer).__name__))


def may_wait(optimizer: Optimizer) -> bool:
    """Whether the first step of an optimizer's class may move no weight, as ADOPT's; unknown ones may."""
    return _package(optimizer) not in _MOVES_AT_ONCE


def _package(optimizer: Optimizer) -> str:
    return type(optimizer).__module__.partition(".")[0]


def moment_name(state: Mapping[str, Any], parameter: Tensor) -> str | None:
    """Returns the name of the state that may be a second moment, in the parameter's shape; or None."""
    return next((name for name in _NAMES if _is_readable(state.get(name), parameter)), None)


def why_unreadable(state: Mapping[str, Any], parameter: Tensor) -> str:
    """Returns why states may hold a second moment although `moment_name` finds none; "" if none may."""
    tensors = {name: kept for name, kept in state.items() if isinstance(kept, Tensor) and name != "step"}
    if codes := [name for name, kept in tensors.items() if not has_values(kept)]:
        return f"{' and '.join(codes)} hold codes that only the optimizer reads"
    alike = [name for name in tensors if name.startswith(_NAMES) or name.endswith("_var")]  # Adafactor's rows
    others = [name for name in alike if tensors[name].shape != parameter.shape]
    return f"{' and '.join(others)} are not in the parameter's shape" if others else ""


def entering(optimizer: Optimizer, group: Mapping[str, Any], gradient: Tensor, weight: Tensor) -> list[Tensor]:
    """Returns the gradient as it enters the second moment: with weight decay, if the optimizer adds it there.

    Args:
        optimizer, group: Of an unknown class, either may be the case.
        gradient, weight: In float64.
    """
    decay = float(group.get("weight_decay") or 0)
    decayed = (-gradient if group.get("maximize") else gradient) + decay * weight
    if not decay:
        return [gradient]
    if kind_of(optimizer) is None:
        return [gradient, decayed]
    return [gradient if decays_weights(optimizer, group) else decayed]


def decays_weights(optimizer: Optimizer, group: Mapping[str, Any]) -> bool:
    """Whether the weight decay of a known optimizer acts on the weight, as in AdamW."""
    settings = [group[name] for name in ("decoupled_weight_decay", "decouple_wd", "decouple_lr") if name in group]
    if settings and not isinstance(optimizer, Adam):
        return any(settings)
    return bool(getattr(optimizer, "is_adamw", type(optimizer).__name__.endswith("AdamW")))


def is_mean_of_squares(before: Tensor, after: Tensor, gradient: Tensor, eps: float) -> bool:
    """Whether one factor b makes `after` b * before + (1 - b) * gradient^2 for all elements.

    The factor is fitted, because it may depend on the step, as in Adafactor.

    >>> before, gradient = torch.tensor([4.0, 1.0]), torch.tensor([1.0, 3.0])
    >>> is_mean_of_squares(before, 0.9 * before + 0.1 * gradient**2, gradient, eps=2.0**-23)
    True
    >>> is_mean_of_squares(before, before + gradient**2, gradient, eps=2.0**-23)
    False

    Args:
        before, after: The state before and after a step.
        gradient: The gradient of the step.
        eps: The gap above 1 of the format in which the state is stored.
    """
    squares = gradient.square()
    size = torch.maximum(before, squares)
    counted = (size > 0) & (size < torch.finfo(torch.float32).max)  # a square above it is inf
    scale = size[counted]
    was, new = (before[counted] - squares[counted]) / scale, (after[counted] - squares[counted]) / scale
    weight = was.square().sum()
    factor = float((was * new).sum() / weight) if weight else 1.0
    allowed = 4 * eps + torch.finfo(torch.float32).tiny / scale
    fits = (new - factor * was).abs() <= allowed
    return -4 * eps <= factor <= 1 + 4 * eps and bool(fits.all()) and not after[size == 0].any()


def _is_readable(kept: Any, parameter: Tensor) -> bool:
    return isinstance(kept, Tensor) and kept.shape == parameter.shape and has_values(kept)


def has_values(kept: Tensor) -> bool:
    """Whether a tensor holds values, or codes that it reads itself, as torchao's."""
    if type(kept).dequantize is not Tensor.dequantize:
        return True
    return kept.is_complex() or (kept.is_floating_point() and kept.dtype.itemsize > 1)
