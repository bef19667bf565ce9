"""The numbers of one tensor: exact counts, the largest magnitude, and a histogram that answers for any format."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from torch import Tensor

from mixlab.probes.histograms import Histogram, as_float32, stored_values

TensorKind = Literal["activation", "gradient", "weight_gradient"]


@dataclass(frozen=True, eq=False)
class TensorStats:
    """The statistics of one kind of tensor in one layer, over all tracked calls of the layer. They add up.

    Attributes:
        layer: The module's qualified name.
        kind: "activation" (the layer's output), "gradient" (of the loss with respect to that output) or
            "weight_gradient" (of the loss with respect to the layer's own parameters).
        numel, zeros, infs, nans: How many elements there are, and how many are zero, infinite and NaN; exact.
        amax: The largest finite magnitude; exact.
        histogram: The magnitudes of the finite non-zero values, exact or sampled.
    """

    layer: str
    kind: TensorKind
    numel: int
    zeros: int
    infs: int
    nans: int
    amax: float
    histogram: Histogram

    def __add__(self, other: TensorStats) -> TensorStats:
        return replace(
            self,
            numel=self.numel + other.numel,
            zeros=self.zeros + other.zeros,
            infs=self.infs + other.infs,
            nans=self.nans + other.nans,
            amax=max(self.amax, other.amax),
            histogram=self.histogram + other.histogram,
        )


def tensor_stats(
    x: Tensor,
    *,
    layer: str = "",
    kind: TensorKind = "gradient",
    sample: int | None = None,
    random: Random | None = None,
) -> TensorStats:
    """Returns the statistics of one tensor.

    >>> import torch
    >>> stats = tensor_stats(torch.tensor([0.0, 3e-5, math.inf]))
    >>> stats.numel, stats.zeros, stats.infs, round(stats.amax, 6)
    (3, 1, 1, 3e-05)

    Args:
        x: A floating tensor of at most 32 bits.
        layer, kind: Labels for the result.
        sample: How many elements go into the histogram; None for all. Counts and amax are always exact.
        random: Draws the sample; None for a random one.

    Raises:
        TypeError: If `x` is float64 or not floating, or has no values.
        ValueError: If `sample` is not a positive whole number.
    """
    x = as_float32(x)
    histogram = Histogram.of(x, sample=sample, random=random)
    amax, finite = amax_of(stored_values(x))
    counts = histogram.special_counts if histogram.exact else special_counts(x, finite)
    return TensorStats(layer, kind, x.numel(), *counts, amax, histogram)


def amax_of(x: Tensor) -> tuple[float, bool]:
    """Returns the largest finite magnitude of a float32 tensor, and whether all its elements are finite."""
    if not x.numel():
        return 0.0, True
    low, high = x.aminmax()  # both NaN if there is a NaN
    amax = max(-low.item(), high.item())
    if math.isfinite(amax):
        return amax, True
    finite = x[x.isfinite()]
    return float(finite.abs().amax()) if finite.numel() else 0.0, False


def special_counts(x: Tensor, finite: bool) -> tuple[int, int, int]:
    """Returns how many elements of a float32 tensor are zero, infinite and NaN; with `finite`, the last two are 0."""
    numel, x = x.numel(), stored_values(x)
    zeros = numel - int(x.count_nonzero())
    return (zeros, 0, 0) if finite else (zeros, int(x.isinf().sum()), int(x.isnan().sum()))
