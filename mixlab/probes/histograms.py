"""Histograms of magnitudes. One histogram shows what any format does to a tensor at any power-of-two scale.

The scale only shifts the bins, so the tensor itself is not needed again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixlab.arguments import require_whole
from mixlab.formats import Format, round_to
from mixlab.layers import local_part

# A magnitude's bin is the upper part of its float32 bits: 8 exponent bits, 4 mantissa bits, and a sticky bit that says
# whether any lower bit is set. Even bins hold one value, odd bins the open interval up to the next one. So every
# threshold with at most 4 mantissa bits falls between two bins, from either side.
_CUT = 18
_BINS = 1 << (31 - _CUT)
_BINS_PER_EXPONENT = _BINS // 256
_INF = 255 * _BINS_PER_EXPONENT  # NaNs follow
_PIECE = 1 << 18  # elements counted at a time, so that intermediate results stay in the cache


@dataclass(frozen=True)
class Fractions:
    """What a format does to a tensor, as fractions of its non-zero finite values.

    Attributes:
        underflow: The fraction that is rounded to zero.
        subnormal: The fraction below the format's smallest normal value that is not rounded to zero.
        overflow: The fraction that is rounded beyond the format's largest value.
        underflow_error, subnormal_error, overflow_error: The standard error of each, from sampling; 0 if exact.
    """

    underflow: float
    subnormal: float
    overflow: float
    underflow_error: float
    subnormal_error: float
    overflow_error: float


@dataclass(frozen=True, eq=False)
class Stratum:
    """The counts of one tensor, or of a sample of it, in 8192 bins; see `Histogram`.

    Every sampled element is counted: zeros in the first bin, infs and NaNs in the last ones.

    Attributes:
        counts: (8192,) counts.
        numel: How many elements the tensor has.
    """

    counts: NDArray[np.int64]
    numel: int

    @cached_property
    def sampled(self) -> int:
        return int(self.counts.sum())

    @property
    def exact(self) -> bool:
        return self.sampled == self.numel

    @property
    def weight(self) -> float:
        """How many elements of the tensor each sampled element stands for."""
        return self.numel / self.sampled if self.sampled else 1.0


@dataclass(frozen=True, eq=False)
class Histogram:
    """The magnitudes of non-zero finite values in 8192 bins, 32 for each exponent of float32.

    Histograms add up. A sum of samples is a stratified sample: each tensor keeps its own weight, whatever the size of
    its sample, and its own share of the error (Cochran, Sampling Techniques, 1977).

    Attributes:
        strata: One for each sampled tensor, and one for all tensors that were counted completely.
    """

    strata: tuple[Stratum, ...]

    @classmethod
    def of(cls, x: Tensor, *, sample: int | None = None, random: Random | None = None) -> Histogram:
        """Counts a tensor, or a sample of it.

        A sample is systematic: every k-th element from a random start, with k coprime to the number of elements, so
        that no row or column is favoured. Its error is estimated as if the draws were independent. Of a sparse tensor,
        only the stored elements are sampled; the others count as zeros.

        Args:
            x: A floating tensor of at most 32 bits.
            sample: How many elements to count; None for all.
            random: Draws the start of the sample; None for a random one.

        Raises:
            TypeError: If `x` is float64 or not floating, or has no values.
            ValueError: If `sample` is not a positive whole number.
        """
        stored = stored_values(as_float32(x))
        drawn = draw_sample(stored, sample, random)
        return cls((Stratum(_count(drawn), stored.numel()),)) + cls.of_zeros(x.numel() - stored.numel())

    @classmethod
    def of_zeros(cls, numel: int) -> Histogram:
        """Returns the histogram of a tensor of zeros.

        Args:
            numel: How many zeros.
        """
        if not numel:
            return cls(())
        counts = np.zeros(_BINS, dtype=np.int64)
        counts[0] = numel
        return cls((Stratum(counts, numel),))

    @classmethod
    def of_samples(cls, samples: Sequence[Tensor], numels: Sequence[int]) -> list[Histogram]:
        """Counts samples of several tensors together, which is faster than one by one.

        Args:
            samples: Flat float32 tensors, on one or several devices.
            numels: How many elements each sampled tensor has.
        """
        places: dict[torch.device, list[int]] = {}
        for place, sample in enumerate(samples):
            places.setdefault(sample.device, []).append(place)
        counts: dict[int, NDArray[np.int64]] = {}
        for together in places.values():
            bins = _bins(torch.cat([samples[place] for place in together])).cpu().numpy()
            ends = np.cumsum([len(samples[place]) for place in together])
            for place, part in zip(together, np.split(bins, ends[:-1]), strict=True):
                counts[place] = np.bincount(part, minlength=_BINS)
        return [cls((Stratum(counts[place], numel),)) for place, numel in enumerate(numels)]

    @property
    def sampled(self) -> int:
        """How many elements were counted, including zeros and non-finite ones."""
        return sum(stratum.sampled for stratum in self.strata)

    @property
    def numel(self) -> int:
        """How many elements there were."""
        return sum(stratum.numel for stratum in self.strata)

    @property
    def exact(self) -> bool:
        """Whether every element was counted."""
        return all(stratum.exact for stratum in self.strata)

    @cached_property
    def counts(self) -> NDArray[np.float64]:
        """The counts of non-zero finite values, (8192,); estimated from the sample if not exact."""
        counts = np.zeros(_BINS)
        for stratum in self.strata:
            counts += stratum.weight * stratum.counts
        counts[0] = 0
        counts[_INF:] = 0
        return counts

    @property
    def special_counts(self) -> tuple[int, int, int]:
        """How many of the counted elements are zero, infinite and NaN."""
        counts = np.sum([stratum.counts for stratum in self.strata], axis=0)
        return int(counts[0]), int(counts[_INF]), int(counts[_INF + 1 :].sum())

    @property
    def non_zero(self) -> float:
        """The number of non-zero finite values: the denominator of every fraction."""
        return float(self.counts.sum())

    def exponent_counts(self) -> NDArray[np.float64]:
        """Returns the counts by float32 exponent, (256,): entry e counts [2^(e-127), 2^(e-126)), entry 0 subnormals."""
        counts: NDArray[np.float64] = self.counts.reshape(256, _BINS_PER_EXPONENT).sum(axis=1)
        return counts

    def fractions(self, fmt: Format | str, scale_exponent: int = 0) -> Fractions:
        """Returns what `fmt` would do to these values, each multiplied by 2^scale_exponent.

        The answer is the same as from scaling and rounding the values themselves, except for one bin: with more than 3
        mantissa bits, the overflow threshold is inside the top bin, which counts as in range (fp16: 63488 to 65536).

        >>> Histogram.of(torch.tensor([3e-5, 1e-8])).fractions("fp16").underflow
        0.5

        Args:
            fmt: The format, or its name.
            scale_exponent: From -512 to 512.

        Raises:
            TypeError, ValueError: If `fmt` is not a format, or the exponent is out of range.
        """
        fmt = Format.of(fmt)
        require_whole("fractions: scale_exponent", scale_exponent, -512, 512)
        if not self.non_zero:
            return Fractions(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        classes = _classes(fmt, scale_exponent)
        underflow, subnormal, overflow = (float(self.counts[bins].sum() / self.non_zero) for bins in classes)
        return Fractions(underflow, subnormal, overflow, *map(self._standard_error, classes))

    def __add__(self, other: Histogram) -> Histogram:
        strata = (*self.strata, *other.strata)
        whole = [stratum for stratum in strata if stratum.exact]
        if len(whole) > 1:
            counts: NDArray[np.int64] = np.sum([stratum.counts for stratum in whole], axis=0)
            merged = Stratum(counts, sum(stratum.numel for stratum in whole))
            strata = (merged, *(stratum for stratum in strata if not stratum.exact))
        return Histogram(strata)

    def _standard_error(self, bins: slice) -> float:
        """Returns the standard error of the share of `bins`.

        Each stratum's own share is estimated as (hits + 1) / (draws + 2), because a sample without hits does not prove
        that there are none.
        """
        variance = 0.0
        for stratum in self.strata:
            draws = int(stratum.counts[1:_INF].sum())
            if not draws:
                continue
            share = (int(stratum.counts[bins].sum()) + 1) / (draws + 2)
            unseen = 1 - stratum.sampled / stratum.numel
            variance += stratum.weight**2 * draws * share * (1 - share) * unseen
        return math.sqrt(variance) / self.non_zero


def as_float32(x: Tensor) -> Tensor:
    """Returns a floating tensor of at most 32 bits as float32, detached; a float32 tensor is not copied.

    Of a sharded tensor, only this process's part is returned.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dtype is torch.float64:
        came = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"probes look at floating tensors of at most 32 bits, got {came}; convert with .float() first")
    if x.is_meta:
        raise TypeError("probes look at values, but tensors on the meta device have none; run on another device")
    x = local_part(x.detach())
    return x if x.dtype is torch.float32 else x.float()


def stored_values(x: Tensor) -> Tensor:
    """Returns the elements that a tensor stores: all of a dense tensor, each stored one once of a sparse one."""
    if x.layout is torch.sparse_coo:
        return x.coalesce().values()
    if x.layout is torch.strided and not x.is_nested:
        return x
    return x.values()


def dense(x: Tensor) -> Tensor:
    """Returns a tensor in dense form; a dense one is returned as is."""
    return x if x.layout is torch.strided else x.to_dense()


def draw_sample(x: Tensor, size: int | None, random: Random | None) -> Tensor:
    """Returns all elements flat, or `size` of them, evenly spaced from a random start."""
    require_sample(size)
    if size is None or size >= x.numel():
        return x.reshape(-1)
    x = x.contiguous()
    stride = _stride(x.numel(), size)
    starts = x.numel() - (size - 1) * stride
    start = int((random or Random()).random() * starts)
    return x.as_strided((size,), (stride,), x.storage_offset() + start)


def require_sample(size: int | None) -> None:
    """Raises ValueError unless `size` is a possible sample size."""
    if size is not None and (type(size) is not int or size < 1):
        raise ValueError(f"sample must be a positive whole number, or None for all elements, got {size!r}")


def _count(x: Tensor) -> NDArray[np.int64]:
    """Returns the (8192,) counts of a flat float32 tensor."""
    pieces = torch.split(x, _PIECE) if x.device.type == "cpu" else [x]
    counts = [torch.bincount(_bins(piece), minlength=_BINS) for piece in pieces]
    return reduce(torch.add, counts).cpu().numpy()


def _bins(x: Tensor) -> Tensor:
    """Returns the bin of each element of a float32 tensor, as int32."""
    bits = x.view(torch.int32).bitwise_and(0x7FFFFFFF)
    minus_ceil = bits.neg().bitwise_right_shift_(_CUT + 1)
    return bits.bitwise_right_shift_(_CUT + 1).sub_(minus_ceil)  # floor + ceil: even if both are equal, else odd


@lru_cache
def _stride(numel: int, size: int) -> int:
    """Returns the largest step coprime to `numel` that takes `size` elements out of `numel`."""
    stride = numel // size
    while math.gcd(stride, numel) > 1:
        stride -= 1
    return stride


@lru_cache(maxsize=1)
def _representatives() -> NDArray[np.float64]:
    """Returns the value of each finite bin, or the middle of its open interval, in order of magnitude."""
    corners = (np.arange(0, _INF + 2, 2) << _CUT).astype(np.int32).view(np.float32).astype(np.float64)
    corners[-1] = 2.0**128  # float32 has inf there
    values = np.empty(_INF)
    values[0::2] = corners[:-1]
    values[1::2] = (corners[:-1] + corners[1:]) / 2
    return values


@lru_cache(maxsize=4096)
def _classes(fmt: Format, scale_exponent: int) -> tuple[slice, slice, slice]:
    """Returns the bins that become zero, subnormal and too large, as slices, because bins are in order of magnitude."""
    scaled = _representatives() * 2.0**scale_exponent
    rounded = round_to(torch.from_numpy(scaled), fmt, overflow="saturate").numpy()
    zero = int((rounded == 0).sum())
    normal = int(np.searchsorted(scaled, fmt.smallest_normal))
    overflow = int(np.searchsorted(scaled, fmt.overflow_threshold))
    return slice(1, zero), slice(zero, normal), slice(overflow, _INF)
