"""The usable loss scales for a format, from the statistics of unscaled float32 tensors."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from functools import reduce

from mixlab.formats import Format
from mixlab.loss_scaling import ScaleWindow
from mixlab.loss_scaling.windows import NO_WINDOW
from mixlab.probes.stats import TensorKind, TensorStats

GRADIENTS: tuple[TensorKind, ...] = ("gradient", "weight_gradient")

_LOWEST = -512  # no window begins below 2^-512


def usable_window(stats: TensorStats, fmt: Format | str, *, tolerance: float = 0.01) -> ScaleWindow:
    """Returns the loss scales at which `fmt` can hold one tensor.

    Inside the window no value overflows, and at most the fraction `tolerance` of the non-zero values becomes zero. The
    upper edge is exact. The lower edge is an estimate if the histogram is sampled, and never below 2^-512.

    >>> import torch
    >>> from mixlab.probes import tensor_stats
    >>> print(usable_window(tensor_stats(torch.tensor([2.0**-20, 3.0])), "fp16"))
    2⁻⁴ to 2¹⁴

    Args:
        stats: Of a tensor without a loss scale, as in float32 training.
        fmt: The format in which the tensor will be stored, or its name.
        tolerance: The fraction of non-zero values that may become zero, from 0 to 1.

    Returns:
        A window that is not `usable` if no scale avoids both losses, or if every value is zero, inf or NaN.

    Raises:
        ValueError: If `tolerance` is out of range.
    """
    fmt = Format.of(fmt)
    if not 0 <= tolerance <= 1:
        raise ValueError(f"usable_window: tolerance must be a fraction from 0 to 1, got {tolerance!r}")
    if stats.amax == 0:
        return NO_WINDOW
    high = largest_scale_exponent(stats.amax, fmt)
    if stats.histogram.fractions(fmt, high).underflow > tolerance:
        return ScaleWindow(high + 1, high)
    below, low = _LOWEST - 1, high  # a smaller scale never loses less: bisect
    while low - below > 1:
        middle = (below + low) // 2
        if stats.histogram.fractions(fmt, middle).underflow <= tolerance:
            low = middle
        else:
            below = middle
    return ScaleWindow(low, high)


def scale_window(stats: Iterable[TensorStats], fmt: Format | str, *, tolerance: float = 0.01) -> ScaleWindow:
    """Returns the loss scales at which `fmt` can hold all gradients of one step.

    One scale serves all layers. The upper edge is set by the largest gradient of any layer, the lower edge by the
    gradients of all layers counted together; so a layer with small gradients may lose more than `tolerance` there. The
    window in which no layer does is the `&` of their `usable_window`s.

    Args:
        stats: What `track` saw in a step without a loss scale. Activations are ignored: a loss scale does not change
            them.
        fmt: The format in which the gradients will be computed, or its name.
        tolerance: The fraction of non-zero values that may become zero, from 0 to 1.

    Returns:
        A window that is not `usable` if no scale avoids both losses.

    Raises:
        ValueError: If there is no gradient, or none with a finite non-zero value, or if `tolerance` is out of range.
    """
    alive = [entry for entry in stats if entry.kind in GRADIENTS and entry.amax > 0]
    if not alive:
        raise ValueError("scale_window: no non-zero gradient; run forward and backward inside track(model)")
    return usable_window(reduce(operator.add, alive), fmt, tolerance=tolerance)


def largest_scale_exponent(amax: float, fmt: Format | str) -> int:
    """Returns the largest k for which amax * 2^k, rounded to `fmt`, is still finite.

    >>> largest_scale_exponent(3.0, "fp16")  # 3 * 2^14 is 49152
    14

    Args:
        amax: A magnitude.
        fmt: The format.

    Raises:
        ValueError: If `amax` is not positive and finite.
    """
    fmt = Format.of(fmt)
    if not 0 < amax < math.inf:
        raise ValueError(f"largest_scale_exponent: amax must be positive and finite, got {amax!r}")
    k = math.floor(math.log2(fmt.max) - math.log2(amax)) + 2
    while amax * 2.0**k >= fmt.overflow_threshold:
        k -= 1
    return k
