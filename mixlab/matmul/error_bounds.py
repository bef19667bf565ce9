"""How far a dot product can be from the exact one, and how far it is with high probability.

Write the computed sum as that of products x_i y_i (1 + t_i), where 1 + t_i is a product of at most h factors 1 + d with
|d| <= u, one for each rounding that product i goes through: `Summation.depth` is h. Then the error is at most
max |t_i| times sum |x_i y_i|, and both bounds below are bounds on |t_i|, so errors are stated relative to that sum.
Divided by |sum x_i y_i| instead, they grow by its condition number, sum |x_i y_i| / |sum x_i y_i|, and are unbounded.

- For certain: |t_i| <= gamma_h = h u / (1 - h u), while h u < 1 (Higham, Accuracy and Stability of Numerical
  Algorithms, 2002, Lemma 3.1).
- Almost surely: |t_i| <= exp(lambda sqrt(h) u + h u^2 / (1 - u)) - 1 for all n products, with probability at least
  1 - 2 n exp(-lambda^2 (1 - u)^2 / 2), if rounding errors are independent random variables of mean zero (Higham and
  Mary, A New Approach to Probabilistic Rounding Error Analysis, 2019, Theorems 2.4 and 3.1). Those of real sums need
  not be: a sum that stands still makes the same error over and over.
- A tensor core makes two kinds of errors in each of its steps. The g + 1 terms are each cut by less than the last bit
  kept, 2^-F of the largest of them, and the sum by less than 2^-23 of itself. If A is the sum of the terms' magnitudes,
  the step errs by at most e A with e = a + b + a b, a = (g + 1) 2^-F, b = 2^-23; after s steps, by (1 + e)^s - 1.

The bounds leave overflow aside, and underflow of products that are rounded.
"""

from __future__ import annotations

import math

from torch import Tensor

from mixlab.arguments import require_whole
from mixlab.formats import FP32, Format, round_to
from mixlab.matmul.rounded_sums import overflow_of
from mixlab.matmul.summations import Summation
from mixlab.matmul.tensor_cores import TensorCore

_MOST = 1 << 200  # beyond it, numbers of roundings are as good as infinite


def gamma(roundings: int, unit_roundoff: float) -> float:
    """Returns how far a product of that many factors 1 + d, |d| <= u, or of their inverses, can be from 1.

    Higham, Accuracy and Stability of Numerical Algorithms, 2002, Lemma 3.1.

    >>> gamma(1000, 2**-11), gamma(3000, 2**-11)
    (0.9541984732824428, inf)

    Args:
        roundings: How many factors, from 0 up.
        unit_roundoff: u, above 0 and below 1.

    Returns:
        n u / (1 - n u); inf if n u is 1 or more, where nothing is known.

    Raises:
        ValueError: If an argument is out of range.
    """
    _require(roundings, unit_roundoff)
    if roundings >= 1 / unit_roundoff:
        return math.inf
    return roundings * unit_roundoff / (1 - roundings * unit_roundoff)


def probable_gamma(roundings: int, unit_roundoff: float, confidence: float) -> float:
    """Returns how far a product of that many factors 1 + d is likely to be from 1 at most, for random d of mean zero.

    Higham and Mary, A New Approach to Probabilistic Rounding Error Analysis, 2019, Theorem 2.4: the probability is at
    least 1 - 2 exp(-confidence^2 (1 - u)^2 / 2).

    Args:
        roundings: How many factors, from 0 up.
        unit_roundoff: u, above 0 and below 1.
        confidence: The theorem's lambda, above 0 and finite.

    Returns:
        exp(confidence sqrt(n) u + n u^2 / (1 - u)) - 1; inf beyond float64.

    Raises:
        ValueError: If an argument is out of range.
    """
    _require(roundings, unit_roundoff)
    _require_confidence(confidence)
    if roundings > _MOST:
        return math.inf
    power = confidence * math.sqrt(roundings) * unit_roundoff + roundings * unit_roundoff**2 / (1 - unit_roundoff)
    return math.expm1(power) if power < 700 else math.inf


def error_bound(summation: Summation | TensorCore, length: int) -> float:
    """Returns the largest error of a dot product of exact operands, relative to the sum of its products' magnitudes.

    It holds without overflow, and, if products are rounded, without underflow. For a tensor core, operands and sums
    must not be subnormal.

    >>> round(error_bound(Summation("fp16", "pairwise"), 1024), 6)
    0.0054

    Args:
        summation: How products are added.
        length: K, from 1 up.

    Returns:
        The bound; inf where there is none.

    Raises:
        TypeError: If `summation` is neither a `Summation` nor a `TensorCore`.
        ValueError: If `length` is not such a number.
    """
    require_whole("error_bound: length", length, 1)
    _require_summation(summation)
    if isinstance(summation, Summation):
        return gamma(summation.depth(length), summation.format.unit_roundoff)
    aligned = (summation.group + 1) * 2.0**-summation.fraction_bits
    step = aligned + FP32.eps + aligned * FP32.eps
    steps = -(-length // summation.group)
    power = min(steps, _MOST) * math.log1p(step)
    return math.expm1(power) if power < 700 else math.inf


def probable_error_bound(summation: Summation, length: int, *, confidence: float = 5.0) -> tuple[float, float]:
    """Returns an error that a dot product exceeds rarely, and the probability that it does not.

    Higham and Mary, 2019, Theorem 3.1, for any order: the depth takes the place of K under the root. It supposes
    rounding errors that are independent and of mean zero. Tensor cores cut, so their errors are not, and have no such
    bound.

    Args:
        summation: How products are added.
        length: K, from 1 up.
        confidence: The theorem's lambda. The probability is 0 (nothing is said) where it is too small for K.

    Returns:
        The error relative to the sum of the products' magnitudes, and the least probability that it is not exceeded.

    Raises:
        TypeError: If `summation` is not a `Summation`.
        ValueError: If a number is out of range.
    """
    require_whole("probable_error_bound: length", length, 1)
    if not isinstance(summation, Summation):
        raise TypeError(f"probable_error_bound: summation must be a Summation, got {summation!r:.60}")
    unit = summation.format.unit_roundoff
    bound = probable_gamma(summation.depth(length), unit, confidence)
    exceeded = 2 * min(length, _MOST) * math.exp(-((confidence * (1 - unit)) ** 2) / 2)
    return bound, max(0.0, 1 - exceeded)


def operand_error_bound(x: Tensor, y: Tensor, fmt: Format | str) -> Tensor:
    """Returns how far rounding the operands to a format can move each dot product, relative to sum |x_i y_i|.

    A value x becomes x + e, where |e| is at most u |x|, or half the smallest subnormal value if that is more. So a
    product moves by at most |x| e_y + |y| e_x + e_x e_y. Without values below the smallest normal one, the bound is
    2 u + u^2.

    Args:
        x, y: The operands before rounding, (rows, K), floating.
        fmt: The format of the operands, or its name.

    Returns:
        The bounds, (rows,) float64; inf for rows in which a value overflows, 0 for rows of zeros.

    Raises:
        TypeError: If `fmt` is not a format.
        ValueError: If the shapes differ.
    """
    fmt = Format.of(fmt)
    if x.shape != y.shape or x.dim() != 2:
        raise ValueError(f"operand_error_bound: x and y must be (rows, K), got {tuple(x.shape)} and {tuple(y.shape)}")
    a, b = x.detach().double().abs(), y.detach().double().abs()
    smallest = fmt.smallest_subnormal if fmt.subnormals else fmt.smallest_normal
    moves = [(each * fmt.unit_roundoff).clamp_min(smallest / 2).where(each > 0, each) for each in (a, b)]
    moved = (a * moves[1] + b * moves[0] + moves[0] * moves[1]).sum(1)
    size = (a * b).sum(1)
    over = [round_to(each, fmt, overflow=overflow_of(fmt)) for each in (a, b)]
    fits = ((over[0] - a).abs() <= moves[0]).all(1) & ((over[1] - b).abs() <= moves[1]).all(1)
    return (moved / size).where(size > 0, size).where(fits, float("inf"))


def _require(roundings: object, unit_roundoff: object) -> None:
    require_whole("gamma: roundings", roundings, 0)
    if isinstance(unit_roundoff, bool) or not isinstance(unit_roundoff, float) or not 0 < unit_roundoff < 1:
        raise ValueError(f"gamma: unit_roundoff must be a number between 0 and 1, got {unit_roundoff!r:.60}")


def _require_confidence(confidence: object) -> None:
    if isinstance(confidence, bool) or not isinstance(confidence, int | float) or not 0 < confidence < 1e6:
        raise ValueError(f"confidence must be a number above 0 and below 1e6, such as 5, got {confidence!r:.60}")


def _require_summation(summation: object) -> None:
    if not isinstance(summation, Summation | TensorCore):
        raise TypeError(f"summation must be a Summation or a TensorCore, got {summation!r:.60}")
