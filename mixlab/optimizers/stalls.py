"""Where Adam stands still in low precision: moments that do not decay or rise, weights that do not move.

Everything follows from the gap between neighbours, eps times the power of two at or below a value (Higham, Accuracy and
Stability of Numerical Algorithms, 2002, section 2.1). A result is computed exactly or in a wider format, then rounded
once to nearest, ties to even. A number such as 0.95 counts as the decimal that is written, so that a tie is a tie: so
it is in float32 and float64, where v * beta2 is rounded to it.

All functions raise TypeError if `fmt` is no format, ValueError if it is a scale, without sign and zero, or a number is
out of range. `beta2` is from 0 to below 1. Ratios have no unit; bounds have that of what they bound.
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch

from mixlab.formats import Format, round_to


def largest_stalled_significand(fmt: Format | str, beta2: float) -> float:
    """Returns the significand up to which a normal second moment stalls: keeps its value although its gradient is zero.

    v = s * 2^e, 1 < s < 2, loses s * (1 - beta2) * 2^e (Kingma and Ba, Adam, 2015, algorithm 1, with g = 0). Neighbours
    are eps * 2^e apart, so it stalls if s < eps / 2 / (1 - beta2), the bound; an s equal to the bound stalls if it is
    even, a multiple of 2 * eps. The gap below a power of two is half: it stalls up to 1 - beta2 = eps / 4, where the
    bound reaches 2. (The smallest normal value, with subnormals below, stalls up to eps / 2.)

    Returns:
        The bound, at most 2. 2: every normal value stalls. 1 or less: none does, but that smallest one at 1.

    >>> [largest_stalled_significand("bf16", beta2) for beta2 in (0.99, 0.997, 0.999)]
    [0.390625, 1.3020833333333333, 2.0]
    """
    fmt, lost = _format("largest_stalled_significand", fmt), 1 - _beta("largest_stalled_significand", beta2)
    return float(min(Fraction(2), Fraction(fmt.eps) / 2 / lost))


def decay_stalls(v: float, fmt: Format | str, beta2: float) -> bool:
    """Returns whether v * beta2 rounds back to v, so that a second moment v stalls without a gradient.

    It does if v * (1 - beta2) is less than half the gap below v, or equal to it and v even, a multiple of two gaps
    (Higham, 2002, section 2.1). Subnormals share one gap, so they stall up to half of it / (1 - beta2).

    Args:
        v: A positive finite value of `fmt`, normal or subnormal.

    >>> decay_stalls(1.25, "e4m3fn", 0.95), decay_stalls(1.375, "e4m3fn", 0.95), decay_stalls(1.0, "e4m3fn", 0.95)
    (True, False, False)
    """
    fmt, lost = _format("decay_stalls", fmt), 1 - _beta("decay_stalls", beta2)
    _require_value("decay_stalls", v, fmt)
    gap = v - fmt.next_down(v)
    change, half = Fraction(v) * lost, Fraction(gap) / 2
    return change < half or (change == half and v / gap % 2 == 0)


def rise_ratio(fmt: Format | str, beta2: float, v: float = 1.0) -> float:
    """Returns g^2 / v above which a gradient g raises a second moment v, and up to which it does not.

    v + (1 - beta2) * (g^2 - v) (Kingma and Ba, Adam, 2015, algorithm 1) rounds up if the second term is more than half
    the gap above v: g^2 / v > 1 + gap / 2 / (v * (1 - beta2)). At equality it rises if v is odd, not a multiple of two
    gaps. For normal v the ratio is largest at powers of two, and near the next one about half as far above 1.

    Args:
        v: A positive value of `fmt`, normal or subnormal, below the largest.

    >>> rise_ratio("bf16", 0.999), rise_ratio("bf16", 0.999, v=1.9921875)
    (4.90625, 2.9607843137254903)
    """
    fmt, gained = _format("rise_ratio", fmt), 1 - _beta("rise_ratio", beta2)
    _require_value("rise_ratio", v, fmt)
    if v == fmt.max:
        raise ValueError(f"rise_ratio: v must lie below the largest value of {fmt}, {fmt.max!r}, got {v!r}")
    return float(1 + Fraction(fmt.next_up(v) - v) / 2 / (Fraction(v) * gained))


def swallow_bounds(fmt: Format | str) -> tuple[float, float]:
    """Returns |update / weight| up to which an update is always swallowed, and above which never: (eps / 4, eps / 2).

    Half the gap at s * 2^e is eps / 2 / s of it, between eps / 4 (s near 2) and eps / 2 (s = 1); below a power of two
    it is eps / 4 (Micikevicius et al., Mixed Precision Training, 2018, section 3.1, has 2^-11 in fp16). Powers of two
    are even and win ties: at eps / 4 every update is swallowed; at eps / 2 only one that leads a power of two away from
    zero (or, with subnormals, the smallest normal value either way). The weight and its sum with the update are to be
    in the normal range.

    >>> swallow_bounds("bf16")
    (0.001953125, 0.00390625)
    """
    fmt = _format("swallow_bounds", fmt)
    return fmt.eps / 4, fmt.eps / 2


def smallest_effective_lr(fmt: Format | str, weight: float) -> float:
    """Returns the learning rate below which Adam does not move a weight of this size, towards either side.

    Adam's update is about lr in size (Kingma and Ba, Adam, 2015, section 2.1), and less than half the gap to a
    neighbour is swallowed; so half the smaller of the two gaps, at a power of two the lower one. At equality an odd
    weight moves, an even one does not.

    Args:
        weight: From -fmt.max to fmt.max; it is rounded to `fmt` first, as it is stored.

    >>> smallest_effective_lr("bf16", 1.0), smallest_effective_lr("bf16", 0.02)
    (0.001953125, 6.103515625e-05)
    """
    fmt = _format("smallest_effective_lr", fmt)
    if not _is_number(weight) or not abs(weight) <= fmt.max:
        allowed = f"a number from {-fmt.max!r} to {fmt.max!r}, the range of {fmt}"
        raise ValueError(f"smallest_effective_lr: weight must be {allowed}, got {weight!r}")
    stored = float(round_to(torch.tensor(abs(weight), dtype=torch.float64), fmt, overflow="saturate"))
    return min(stored - fmt.next_down(stored), fmt.ulp(stored)) / 2


def weight_decay_lost(fmt: Format | str, lr: float, weight_decay: float) -> bool:
    """Returns whether decoupled decay by itself, w * (1 - lr * weight_decay), changes no normal weight at all.

    Relative to w, half the gap towards zero is smallest at powers of two, eps / 4, and they win the tie: the decay is
    lost exactly if lr * weight_decay <= eps / 4 (Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019,
    algorithm 2; Higham, 2002, section 2.1).

    Args:
        lr: Positive and finite.
        weight_decay: Finite, from 0 up; per step and unit of lr.

    >>> weight_decay_lost("bf16", 1e-3, 0.1), weight_decay_lost("bf16", 0.1, 0.1)
    (True, False)
    """
    fmt = _format("weight_decay_lost", fmt)
    if not _is_number(lr) or not 0 < lr < math.inf:
        raise ValueError(f"weight_decay_lost: lr must be a positive finite number, got {lr!r}")
    if not _is_number(weight_decay) or not 0 <= weight_decay < math.inf:
        raise ValueError(f"weight_decay_lost: weight_decay must be a finite number from 0 up, got {weight_decay!r}")
    return _as_written(lr) * _as_written(weight_decay) <= Fraction(fmt.eps) / 4


def smallest_gradient_kept(fmt: Format | str, beta2: float) -> float:
    """Returns |g| up to which a gradient leaves a second moment of zero at zero, and above which it is kept.

    (1 - beta2) * g^2 (Kingma and Ba, Adam, 2015, algorithm 1) rounds to zero up to half the smallest value, the tie
    included, for zero is even: g^2 = smallest_subnormal / 2 / (1 - beta2). Subnormal v decay to that value, no further.

    >>> f"{smallest_gradient_kept('fp16', 0.999):.3g}, {smallest_gradient_kept('bf16', 0.999):.3g}"
    '0.00546, 2.14e-19'
    """
    fmt, gained = _format("smallest_gradient_kept", fmt), 1 - _beta("smallest_gradient_kept", beta2)
    return math.sqrt(Fraction(fmt.smallest_subnormal) / 2 / gained)


def steps_to_halve(beta: float) -> float:
    """Returns the steps in which an exact moment halves without a gradient, ln(1/2) / ln(beta); 0 for a beta of 0.

    After t steps beta^t is left of it (Kingma and Ba, Adam, 2015, section 3).

    >>> round(steps_to_halve(0.999)), round(steps_to_halve(0.9), 2)
    (693, 6.58)
    """
    _beta("steps_to_halve", beta, "beta")
    return math.log(0.5) / math.log(beta) if beta else 0.0


def _format(owner: str, fmt: Format | str) -> Format:
    fmt = Format.parse(fmt) if isinstance(fmt, str) else fmt
    if not isinstance(fmt, Format):
        raise TypeError(f"{owner}: fmt must be a Format or its name, got {fmt!r}")
    if not fmt.signed:
        raise ValueError(f"{owner}: {fmt} is a scale, without sign and zero; use one of the other formats")
    return fmt


def _beta(owner: str, beta: float, name: str = "beta2") -> Fraction:
    if not _is_number(beta) or not 0 <= beta < 1:
        raise ValueError(f"{owner}: {name} must be a number from 0 to below 1, got {beta!r}")
    return _as_written(beta)


def _is_number(x: object) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)


def _as_written(x: float) -> Fraction:
    """The decimal that Python prints for a float: 19/20 for 0.95."""
    return Fraction(repr(float(x)))


def _require_value(owner: str, v: float, fmt: Format) -> None:
    if not _is_number(v) or not 0 < v < math.inf:
        raise ValueError(f"{owner}: v must be a positive finite value of {fmt}, got {v!r}")
    fmt.encode(v)  # its error names the neighbours
