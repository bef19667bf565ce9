"""The mathematics of one step of SGD, Adam and AdamW, shared by eager and compiled steps.

The operations and their order are torch.optim's, so that in float32 an eager step equals it bit for bit. A
compiled step takes its numbers as 0-dimensional tensors, because it would be compiled again for each new Python number.
Some operations of torch.optim accept only Python numbers; the functions at the end write these out for tensors, which
may differ in last bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

Moments = dict[str, Tensor]


class SGDNumbers(NamedTuple):
    """The numbers of `SGDRule`: Python's in an eager step, 0-dimensional tensors in a compiled one."""

    lr: Any
    momentum: Any
    weight_decay: Any


@dataclass(frozen=True)
class SGDRule:
    """Stochastic gradient descent.

    Attributes:
        has_momentum, decays: Whether the momentum and the weight decay are non-zero.
    """

    has_momentum: bool
    decays: bool
    numbers = SGDNumbers

    def step_(self, weight: Tensor, gradient: Tensor, moments: Moments, n: SGDNumbers) -> None:
        """Updates the weight and the moments in place; all are float32."""
        if self.decays:
            gradient = _sum(gradient, weight, n.weight_decay)
        if self.has_momentum:
            gradient = moments["momentum_buffer"].mul_(n.momentum).add_(gradient)
        _sub_(weight, gradient, n.lr)


class AdamNumbers(NamedTuple):
    """The numbers of `AdamRule`: Python's in an eager step, 0-dimensional tensors in a compiled one.

    Attributes:
        step_size: The learning rate / (1 - beta1^step).
        shrink: What decoupled weight decay multiplies the weight by.
        weight_decay: The multiple of the weight that is added to the gradient if the decay is not decoupled.
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
    """Adam (Kingma and Ba, Adam: A Method for Stochastic Optimization, 2015, algorithm 1) and AdamW.

    Attributes:
        decays: Whether there is weight decay.
        decoupled: Whether the decay is AdamW's (Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019).
    """

    decays: bool
    decoupled: bool
    numbers = AdamNumbers

    def step_(self, weight: Tensor, gradient: Tensor, moments: Moments, n: AdamNumbers) -> None:
        """Updates the weight and the moments in place; all are float32."""
        if self.decays and self.decoupled:
            weight.mul_(n.shrink)
        elif self.decays:
            gradient = _sum(gradient, weight, n.weight_decay)
        exp_avg = _lerp_(moments["exp_avg"], gradient, n.new1)
        exp_avg_sq = _addcmul_(moments["exp_avg_sq"].mul_(n.beta2), gradient, gradient, n.new2)
        denominator = _divide_(exp_avg_sq.sqrt(), n.root, n.inverse_root).add_(n.eps)
        _subcdiv_(weight, exp_avg, denominator, n.step_size)


def _sum(x: Tensor, y: Tensor, factor: Any) -> Tensor:
    return x + factor * y if isinstance(factor, Tensor) else x.add(y, alpha=factor)


def _sub_(x: Tensor, y: Tensor, factor: Any) -> Tensor:
    return x.sub_(factor * y) if isinstance(factor, Tensor) else x.add_(y, alpha=-factor)


def _lerp_(x: Tensor, end: Tensor, part: Any) -> Tensor:
    return x.add_(part * (end - x)) if isinstance(part, Tensor) else x.lerp_(end, part)


def _addcmul_(x: Tensor, one: Tensor, other: Tensor, factor: Any) -> Tensor:
    return x.add_(factor * one * other) if isinstance(factor, Tensor) else x.addcmul_(one, other, value=factor)


def _subcdiv_(x: Tensor, above: Tensor, below: Tensor, factor: Any) -> Tensor:
    return x.sub_(factor * above / below) if isinstance(factor, Tensor) else x.addcdiv_(above, below, value=-factor)


def _divide_(x: Tensor, divisor: Any, inverse: Any) -> Tensor:
    return x.mul_(inverse) if isinstance(inverse, Tensor) else x.div_(divisor)
