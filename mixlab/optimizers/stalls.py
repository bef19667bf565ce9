"""Where Adam stalls in low precision: moments that do not decay or rise, weights that do not move.

It all follows from the gap between neighbours, eps times the power of two at or below a value (Higham, Accuracy and
Stability of Numerical Algorithms, 2002, section 2.1). Each result is computed exactly or in a wider format, then
rounded once to nearest, ties to even. A number such as 0.95 means the decimal as written, so that a tie is a tie. In
float32 and float64 it is a tie too, because v * beta2 is rounded to it there.
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch

from mixlab.formats import Format, round_to


def largest_stalled_significand(fmt: Format | str, beta2: float) -> float:
    """Returns the significand up to which a normal second moment stalls, that is, does not decay at zero gradients.

    v = s * 2^e, 1 < s < 2, loses s * (1 - beta2) * 2^e (Kingma and Ba, Adam, 2015, algorithm 1, with g = 0). Neighbours
    are eps * 2^e apart, so v stalls if s < eps / 2 / (1 - beta2), the bound. An s equal to the bound stalls if it is
    even, a multiple of 2 * eps. The gap below a power of two is half as wide: a power of two stalls up to
    1 - beta2 = eps / 4, where the bound reaches 2. (The smallest normal value, if subnormals lie below it, stalls up to
    eps / 2.)

    >>> [largest_stalled_significand("bf16", beta2) for beta2 in (0.99, 0.997, 0.999)]
    [0.390625, 1.3020833333333333, 2.0]

    Args:
        fmt: A format with a sign, or its name.
        beta2: Adam's decay rate of the second moment, from 0 to below 1.

    Returns:
        The bound, at most 2. At 2, every normal value stalls. At 1 or less, none does, except that the smallest normal
        value above subnormals still stalls at 1.

    Raises:
        ValueError: If `fmt` is a scale format, which has neither sign nor zero, or a number is out of range.
    """
    fmt, lost = _format("largest_stalled_significand", fmt), 1 - _beta("largest_stalled_significand", beta2)
    return float(min(Fraction(2), Fraction(fmt.eps) / 2 / lost))


def decay_stalls(v: float, fmt: Format | str, beta2: float) -> bool:
    """Returns whether v * beta2 rounds back to v, so that a second moment v stalls without a gradient.

    It does if v * (1 - beta2) is less than half the gap below v, or equals it and v is even, a multiple of two gaps
    (Higham, 2002, section 2.1). Subnormals share one gap, so they stall up to gap / 2 / (1 - beta2).

    >>> decay_stalls(1.25, "e4m3fn", 0.95), decay_stalls(1.375, "e4m3fn", 0.95), decay_stalls(1.0, "e4m3fn", 0.95)
    (True, False, False)

    Args:
        v: The second moment, a positive finite value of `fmt`, normal or subnormal.
        fmt: A format with a sign, or its name.
        beta2: Adam's decay rate of the second moment, from 0 to below 1.

    Raises:
        ValueError: If `fmt` is a scale format, which has neither sign nor zero, or a number is out of range.
    """
    fmt, lost = _format("decay_stalls", fmt), 1 - _beta("decay_stalls", beta2)
    _require_value("decay_stalls", v, fmt)
    gap = v - fmt.next_down(v)
    change, half = Fraction(v) * lost, Fraction(gap) / 2
    return change < half or (change == half and v / gap % 2 == 0)


def rise_ratio(fmt: Format | str, beta2: float, v: float = 1.0) -> float:
    """Returns the ratio g^2 / v above which a gradient g raises a second moment v.

    v + (1 - beta2) * (g^2 - v) (Kingma and Ba, Adam, 2015, algorithm 1) rounds up if the second term is more than half
    the gap above v: g^2 / v > 1 + gap / 2 / (v * (1 - beta2)). At equality v rises if it is odd, not a multiple of two
    gaps. For normal v the ratio is largest at powers of two; just below the next one it is about half as far above 1.

    >>> rise_ratio("bf16", 0.999), rise_ratio("bf16", 0.999, v=1.9921875)
    (4.90625, 2.9607843137254903)

    Args:
        fmt: A format with a sign, or its name.
        beta2: Adam's decay rate of the second moment, from 0 to below 1.
        v: The second moment, a positive value of `fmt` below its largest, normal or subnormal.

    Raises:
        ValueError: If `fmt` is a scale format, which has neither sign nor zero, or a number is out of range.
    """
    fmt, gained = _format("rise_ratio", fmt), 1 - _beta("rise_ratio", beta2)
    _require_value("rise_ratio", v, fmt)
    if v == fmt.max:
        raise ValueError(f"rise_ratio: v must be below the largest value of {fmt}, {fmt.max!r}, got {v!r}")
    return float(1 + Fraction(fmt.next_up(v) - v) / 2 / (Fraction(v) * gained))


def swallow_bounds(fmt: Format | str) -> tuple[float, float]:
    """Returns the |update / weight| up to which updates are always swallowed, and above which they never are.

    They are eps / 4 and eps / 2. Half the gap at s * 2^e is eps / 2 / s of the weight, between eps / 4 (s near 2) and
    eps / 2 (s = 1); below a power of two it is eps / 4 (Micikevicius et al., Mixed Precision Training, 2018, section
    3.1, give 2^-11 for fp16). Powers of two are even and win ties: at eps / 4 every update is swallowed; at eps / 2
    only one that leads a power of two away from zero (or, with subnormals, the smallest normal value either way). This
    holds if the weight and its sum with the update are in the normal range.

    >>> swallow_bounds("bf16")
    (0.001953125, 0.00390625)

    Args:
        fmt: A format with a sign, or its name.

    Raises:
        ValueError: If `fmt` is a scale format, which has neither sign nor zero.
    """
    fmt = _format("swallow_bounds", fmt)
    return fmt.eps / 4, fmt.eps / 2


def smallest_effective_lr(fmt: Format | str, weight: float) -> float:
    """Returns the learning rate below which an update of size lr does not move a weight, in either direction.

    Adam's updates are about lr in size, but not bounded by it: with the default betas by 3.2 lr, as (1 - beta1) /
    sqrt(1 - beta2) is 3.2 (Kingma and Ba, Adam, 2015, section 2.1). So below this rate a weight may still move in some
    steps. An update below half the gap to a neighbour is swallowed. The result is half the smaller of the two gaps; at
    a power of two that is the lower one. At equality an odd weight moves and an even one does not.

    >>> smallest_effective_lr("bf16", 1.0), smallest_effective_lr("bf16", 0.02)
    (0.001953125, 6.103515625e-05)

    Args:
        fmt: A format with a sign, or its name.
        weight: A weight from -fmt.max to fmt.max; it is first rounded to `fmt`, as if stored.

    Raises:
        ValueError: If `fmt` is a scale format, which has neither sign nor zero, or a number is out of range.
    """
    fmt = _format("smallest_effective_lr", fmt)
    if not _is_number(weight) or not abs(weight) <= fmt.max:
        allowed = f"a number from {-fmt.max!r} to {fmt.max!r}, the range of {fmt}"
        raise ValueError(f"smallest_effective_lr: weight must be {allowed}, got {weight!r}")
    stored = float(round_to(torch.tensor(abs(weight), dtype=torch.float64), fmt, overflow="saturate"))
    return min(stored - fmt.next_down(stored), fmt.ulp(stored)) / 2


def weight_decay_lost(fmt: Format | str, lr: float, weight_decay: float) -> bool:
    """Returns whether decoupled weight decay alone, w * (1 - lr * weight_decay), changes no normal weight.

    Relative to w, half the gap towards zero is smallest at powers of two: eps / 4, and they win the tie. So the decay
    is lost if and only if lr * weight_decay <= eps / 4 (Loshchilov and Hutter, Decoupled Weight Decay Regularization,
    2019; Higham, 2002, section 2.1).

    >>> weight_decay_lost("bf16", 1e-3, 0.1), weight_decay_lost("bf16", 0.1, 0.1)
    (True, False)

    Args:
        fmt: A format with a sign, or its name.
        lr: Learning rate, positive and finite.
        weight_decay: As for `AdamW`, finite, from 0 up.

    Raises:
        ValueError: If `fmt` is a scale format, which has neither sign nor zero, or a number is out of range.
    """
    fmt = _format("weight_decay_lost", fmt)
    if not _is_number(lr) or not 0 < lr < math.inf:
        raise ValueError(f"weight_decay_lost: lr must be a positive finite number, got {lr!r}")
    if not _is_number(weight_decay) or not 0 <= weight_decay < math.inf:
        raise ValueError(f"weight_decay_lost: weight_decay must be a finite number from 0 up, got {weight_decay!r}")
    return _as_written(lr) * _as_written(weight_decay) <= Fraction(fmt.eps) / 4


def smallest_gradient_kept(fmt: Format | str, beta2: float) -> float:
    """Returns the |g| up to which a gradient leaves a second moment of zero at zero.

    (1 - beta2) * g^2 (Kingma and Ba, Adam, 2015, algorithm 1) rounds to zero up to half the smallest value, including
    the tie, because zero is even: g^2 = smallest_subnormal / 2 / (1 - beta2). Without gradients, subnormal v decay to
    this g^2 and no further.

    >>> f"{smallest_gradient_kept('fp16', 0.999):.3g}, {smallest_gradient_kept('bf16', 0.999):.3g}"
    '0.00546, 2.14e-19'

    Args:
        fmt: A format with a sign, or its name.
        beta2: Adam's decay rate of the second moment, from 0 to below 1.

    Raises:
        ValueError: If `fmt` is a scale format, which has neither sign nor zero, or a number is out of range.
    """
    fmt, gained = _format("smallest_gradient_kept", fmt), 1 - _beta("smallest_gradient_kept", beta2)
    return math.sqrt(Fraction(fmt.smallest_subnormal) / 2 / gained)


def steps_to_halve(beta: float) -> float:
    """Returns how many steps an exact moment takes to halve without a gradient, ln(1/2) / ln(beta).

    After t steps, beta^t of it is left (Kingma and Ba, Adam, 2015, section 3).

    >>> round(steps_to_halve(0.999)), round(steps_to_halve(0.9), 2)
    (693, 6.58)

    Args:
        beta: The moment's decay rate, from 0 to below 1; 0 gives 0 steps.

    Raises:
        ValueError: If `beta` is out of range.
    """
    _beta("steps_to_halve", beta, "beta")
    return math.log(0.5) / math.log(beta) if beta else 0.0


def _format(owner: str, fmt: Format | str) -> Format:
    fmt = Format.of(fmt)
    if not fmt.signed:
        raise ValueError(f"{owner}: {fmt} is a scale, without sign or zero; use one of the other formats")
    return fmt


def _beta(owner: str, beta: float, name: str = "beta2") -> Fraction:
    if not _is_number(beta) or not 0 <= beta < 1:
        raise ValueError(f"{owner}: {name} must be a number from 0 to below 1, got {beta!r}")
    return _as_written(beta)


def _is_number(x: object) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)


def _as_written(x: float) -> Fraction:
    """Returns the decimal that Python prints for a float: 19/20 for 0.95."""
    return Fraction(repr(float(x)))


def _require_value(owner: str, v: float, fmt: Format) -> None:
    if not _is_number(v) or not 0 < v < math.inf:
        raise ValueError(f"{owner}: v must be a positive finite value of {fmt}, got {v!r}")
    fmt.encode(v)  # its error names the neighbours
