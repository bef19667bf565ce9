"""The mathematics of one step of SGD, Adam and AdamW, eager and compiled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

Moments = dict[str, Tensor]


class SGDNumbers(NamedTuple):
    """What `SGDRule` computes with; 0-dimensional tensors in a compiled step."""

    lr: Any
    momentum: Any
    weight_decay: Any


@dataclass(frozen=True)
class SGDRule:
    """Stochastic gradient descent.

    Attributes:
        has_momentum, decays: Whether the momentum and the weight decay are other than zero.
    """

    has_momentum: bool
    decays: bool
    numbers = SGDNumbers

    def eager_(self, weight: Tensor, gradient: Tensor, moments: Moments, n: SGDNumbers) -> tuple[Tensor, Moments]:
        if self.decays:
            gradient = gradient.add(weight, alpha=n.weight_decay)
        if self.has_momentum:
            gradient = moments["momentum_buffer"].mul_(n.momentum).add_(gradient)
        return weight.add_(gradient, alpha=-n.lr), moments

    def compiled(self, weight: Tensor, gradient: Tensor, moments: Moments, n: SGDNumbers) -> tuple[Tensor, Moments]:
        if self.decays:
            gradient = gradient + n.weight_decay * weight
        if self.has_momentum:
            gradient = moments["momentum_buffer"] * n.momentum + gradient
            moments = {"momentum_buffer": gradient}
        return weight - n.lr * gradient, moments


class AdamNumbers(NamedTuple):
    """What `AdamRule` computes with; 0-dimensional tensors in a compiled step.

    Attributes:
        step_size: The learning rate / (1 - beta1^step).
        shrink: What decoupled weight decay multiplies the weight by.
        weight_decay: Times the weight, added to the gradient where the decay is not decoupled.
        new1, beta2, new2: 1 - beta1, beta2, 1 - beta2.
        root, inverse_root: The square root of 1 - beta2^step, and 1 over it.
        eps: Added to the square root of the second moment.
    """

    step_size: Any
    shrink: Any
    weight_decay: Any
    new1: Any
    beta2: Any
    new2: Any
    root: Any
    inverse_root: Any
    eps: Any


@dataclass(frozen=True)
class AdamRule:
    """Adam.

    Attributes:
        decays: Whether there is weight decay.
        decoupled: Whether the decay is AdamW's.
    """

    decays: bool
    decoupled: bool
    numbers = AdamNumbers

    def eager_(self, weight: Tensor, gradient: Tensor, moments: Moments, n: AdamNumbers) -> tuple[Tensor, Moments]:
        if self.decays:
            if self.decoupled:
                weight.mul_(n.shrink)
            else:
                gradient = gradient.add(weight, alpha=n.weight_decay)
        exp_avg = moments["exp_avg"].lerp_(gradient, n.new1)
        exp_avg_sq = moments["exp_avg_sq"].mul_(n.beta2).addcmul_(gradient, gradient, value=n.new2)
        denominator = exp_avg_sq.sqrt().div_(n.root).add_(n.eps)
        return weight.addcdiv_(exp_avg, denominator, value=-n.step_size), moments

    def compiled(self, weight: Tensor, gradient: Tensor, moments: Moments, n: AdamNumbers) -> tuple[Tensor, Moments]:
        if self.decays:
            if self.decoupled:
                weight = weight * n.shrink
            else:
                gradient = gradient + n.weight_decay * weight
        exp_avg = moments["exp_avg"] + n.new1 * (gradient - moments["exp_avg"])
        exp_avg_sq = moments["exp_avg_sq"] * n.beta2 + n.new2 * gradient * gradient
        weight = weight - n.step_size * exp_avg / (exp_avg_sq.sqrt() * n.inverse_root + n.eps)
        return weight, {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
