"""The numbers of a training step, layer by layer: exact counts, and histograms that answer for any format.

    with track(model) as probe:
        loss(model(inputs), targets).backward()
    probe["fc1", "gradient"].histogram.fractions(FP16, scale_exponent=10).underflow

One histogram of magnitudes is enough to say what a format would do to a tensor under any power-of-two loss scale: such
a scale only shifts the bins.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial, reduce
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mixlab.formats import Format
from mixlab.rounding import round_to

Kind = Literal["activation", "gradient", "weight_gradient"]

# A magnitude's bin is the upper part of its float32 bits: 8 exponent bits, 4 mantissa bits, and a sticky bit that tells
# whether anything follows. Even bins hold one value, odd bins the open interval up to the next one. So every threshold
# that has at most 4 mantissa bits falls between two bins, from either side.
_CUT = 18
_BINS = 1 << (31 - _CUT)
_BINS_PER_EXPONENT = _BINS // 256
_FIRST_NON_FINITE = 255 * _BINS_PER_EXPONENT


@dataclass(frozen=True)
class Fractions:
    """What a format does to a tensor, as fractions of its non-zero finite values.

    Attributes:
        underflow: Rounded to zero.
        subnormal: Smaller than the format's smallest normal value, and not rounded to zero.
        overflow: Rounded beyond the format's largest value.
        standard_error: The largest one of the three that comes from sampling; 0 for an exact histogram.
    """

    underflow: float
    subnormal: float
    overflow: float
    standard_error: float


@dataclass(frozen=True, eq=False)
class Histogram:
    """The magnitudes of a tensor's non-zero finite values, counted in 8192 bins.

    Attributes:
        counts: (8192,) int64; 32 bins for each exponent of float32.
        sampled: How many elements were looked at, zeros and non-finite ones included.
        numel: How many elements there were.
    """

    counts: NDArray[np.int64]
    sampled: int
    numel: int

    @classmethod
    def of(cls, x: Tensor, *, sample: int | None = None, generator: torch.Generator | None = None) -> Histogram:
        """Counts a floating tensor of at most 32 bits, or a sample of `sample` elements of it.

        The sample is systematic: every k-th element from a random start, with k coprime to the number of elements, so
            that
        no row or column is favoured. Its error is taken as that of independent draws.

        Raises:
            TypeError: `x` is float64 or not floating.
            ValueError: `sample` is not a positive whole number.
        """
        drawn = _sample(_as_float32(x), sample, generator)
        return cls(_count(drawn), drawn.numel(), x.numel())

    @property
    def exact(self) -> bool:
        return self.sampled == self.numel

    @property
    def non_zero(self) -> int:
        """The denominator of every fraction: non-zero finite values among the sampled."""
        return int(self.counts.sum())

    def exponent_counts(self) -> NDArray[np.int64]:
        """Returns (256,) counts by float32 exponent field: entry e counts [2^(e-127), 2^(e-126)), 0 subnormals."""
        counts: NDArray[np.int64] = self.counts.reshape(256, _BINS_PER_EXPONENT).sum(axis=1)
        return counts

    def fractions(self, fmt: Format, scale_exponent: int = 0) -> Fractions:
        """Returns what `fmt` would do to these values, each multiplied by 2^scale_exponent.

        Equal to scaling and rounding the values themselves, with one exception: for formats with more than 3 mantissa
            bits
        the overflow threshold lies inside the topmost bin, which counts as in range (fp16: 63488 to 65536).
        """
        if type(scale_exponent) is not int or abs(scale_exponent) > 512:
            raise ValueError(
                f"fractions: scale_exponent must be a whole number from -512 to 512, got {scale_exponent!r}"
            )
        if not self.non_zero:
            return Fractions(0.0, 0.0, 0.0, 0.0)
        shares = [float(self.counts[members].sum() / self.non_zero) for members in _classes(fmt, scale_exponent)]
        underflow, subnormal, overflow = shares
        return Fractions(underflow, subnormal, overflow, max(map(self.standard_error, shares)))

    def standard_error(self, fraction: float) -> float:
        """Returns one sigma of a fraction that was read off this sample; 0 if every element was counted."""
        if self.exact or not self.non_zero:
            return 0.0
        unseen = 1 - self.sampled / self.numel
        return math.sqrt(fraction * (1 - fraction) / self.non_zero * unseen)

    def __add__(self, other: Histogram) -> Histogram:
        return Histogram(self.counts + other.counts, self.sampled + other.sampled, self.numel + other.numel)


@dataclass(frozen=True, eq=False)
class TensorStats:
    """One kind of tensor of one layer, over all calls of the layer while tracked.

    Attributes:
        layer: The module's qualified name.
        kind: "activation" (the layer's output), "gradient" (of the loss with respect to that output) or
            "weight_gradient" (with respect to the layer's own parameters).
        numel, zeros, infs, nans: Exact counts of elements.
        amax: The exact largest finite magnitude.
        histogram: Of the finite non-zero values, exact or sampled.
    """

    layer: str
    kind: Kind
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
    kind: Kind = "gradient",
    sample: int | None = None,
    generator: torch.Generator | None = None,
) -> TensorStats:
    """Returns the statistics of one tensor; see `Histogram.of` for `sample` and for what is refused."""
    x = _as_float32(x)
    zeros, infs, nans, amax = _reductions(x)
    return TensorStats(
        layer, kind, x.numel(), zeros, infs, nans, amax, Histogram.of(x, sample=sample, generator=generator)
    )


def usable_window(stats: TensorStats, fmt: Format, *, tolerance: float = 0.01) -> tuple[int, int] | None:
    """Returns the exponents (low, high) of the loss scales under which `fmt` holds this tensor, None without any.

    Between them no value overflows, and at most the fraction `tolerance` of the non-zero values becomes zero. The
    tensor must be unscaled (of a float32 run). A tensor without non-zero finite values has no window.
    """
    if not 0 <= tolerance <= 1:
        raise ValueError(f"usable_window: tolerance must be a fraction from 0 to 1, got {tolerance!r}")
    if stats.amax == 0:
        return None
    high = largest_scale_exponent(stats.amax, fmt)
    low = high
    if stats.histogram.fractions(fmt, high).underflow > tolerance:
        return None
    while low > high - 512 and stats.histogram.fractions(fmt, low - 1).underflow <= tolerance:
        low -= 1
    return low, high


def largest_scale_exponent(amax: float, fmt: Format) -> int:
    """Returns the largest k for which amax * 2^k, rounded to `fmt`, is still finite."""
    if not 0 < amax < math.inf:
        raise ValueError(f"largest_scale_exponent: amax must be positive and finite, got {amax!r}")
    k = math.floor(math.log2(fmt.max) - math.log2(amax)) + 2
    while not _fits(amax * 2.0**k, fmt):
        k -= 1
    return k


def underflow_by_layer(gradients: Mapping[str, Tensor], references: Mapping[str, Tensor]) -> dict[str, float]:
    """Returns for each layer the fraction of elements that are zero in `gradients`, of those non-zero in `references`.

    Args:
        gradients: By parameter name, e.g. {"fc1.weight": ..., "fc1.bias": ...}, as the recipe computed them.
        references: The same in float32, at the same weights on the same batch.
    """
    lost: dict[str, int] = {}
    non_zero: dict[str, int] = {}
    for name, reference in references.items():
        layer = name.rpartition(".")[0]
        alive = reference != 0
        lost[layer] = lost.get(layer, 0) + int((alive & (gradients[name] == 0)).sum())
        non_zero[layer] = non_zero.get(layer, 0) + int(alive.sum())
    return {layer: lost[layer] / count if count else 0.0 for layer, count in non_zero.items()}


class track:  # noqa: N801  a context manager, named as a verb
    """Watches a model: while entered, every layer that owns parameters reports its outputs and its gradients.

    It is a sequence of `TensorStats` in the order of the model's modules, looked up by (layer, kind). Gradients
    are seen as backward delivers them, with the loss scale still in them.

    Args:
        model: Any module; the layers are its submodules that have parameters of their own.
        sample: How many elements of each tensor go into its histogram; None takes all. Counts and amax are always
            exact.
        kinds: Which of "activation", "gradient" and "weight_gradient" to watch.
        seed: Of the sample.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        sample: int | None = 4096,
        kinds: tuple[Kind, ...] = get_args(Kind),
        seed: int = 0,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"track: model must be a torch.nn.Module, got {type(model).__name__}")
        unknown = sorted(set(kinds) - set(get_args(Kind)))
        if unknown:
            raise ValueError(f"track: unknown kinds {', '.join(unknown)}; use {', '.join(get_args(Kind))}")
        _require_sample(sample)
        self._layers = {
            name: module
            for name, module in model.named_modules()
            if next(module.parameters(recurse=False), None) is not None
        }
        self._kinds = kinds
        self._sample = sample
        self._generator = torch.Generator().manual_seed(seed)
        self._handles: list[RemovableHandle] = []
        self._stats: dict[tuple[str, Kind], TensorStats] = {}

    def __enter__(self) -> track:
        for name, module in self._layers.items():
            if "activation" in self._kinds or "gradient" in self._kinds:
                self._handles.append(module.register_forward_hook(self._forward_hook(name)))
            if "weight_gradient" in self._kinds:
                for parameter in module.parameters(recurse=False):
                    if parameter.requires_grad:
                        self._handles.append(parameter.register_post_accumulate_grad_hook(self._weight_hook(name)))
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __getitem__(self, key: tuple[str, Kind]) -> TensorStats:
        if key not in self._stats:
            seen = ", ".join(f"{layer}/{kind}" for layer, kind in self._stats) or "nothing yet"
            raise KeyError(f"track: nothing seen of {key!r}; seen: {seen}")
        return self._stats[key]

    def __iter__(self) -> Iterator[TensorStats]:
        layers = list(self._layers)
        return iter(sorted(self._stats.values(), key=lambda s: (layers.index(s.layer), get_args(Kind).index(s.kind))))

    def __len__(self) -> int:
        return len(self._stats)

    def total(self, kind: Kind) -> TensorStats:
        """Returns the sum over all layers of one kind, under the layer name "all"."""
        stats = [stats for stats in self if stats.kind == kind]
        if not stats:
            raise KeyError(f"track: nothing of kind {kind!r} was seen; run forward and backward inside the with block")
        return replace(reduce(operator.add, stats), layer="all")

    def _forward_hook(self, layer: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if not isinstance(output, Tensor) or not output.is_floating_point():
                return
            if "activation" in self._kinds:
                self._see(layer, "activation", output)
            if "gradient" in self._kinds and output.requires_grad:
                output.register_hook(partial(self._see, layer, "gradient"))  # type: ignore[no-untyped-call]

        return hook

    def _weight_hook(self, layer: str) -> Callable[[Tensor], None]:
        def hook(parameter: Tensor) -> None:
            assert parameter.grad is not None
            self._see(layer, "weight_gradient", parameter.grad)

        return hook

    def _see(self, layer: str, kind: Kind, x: Tensor) -> None:
        stats = tensor_stats(x, layer=layer, kind=kind, sample=self._sample, generator=self._generator)
        earlier = self._stats.get((layer, kind))
        self._stats[layer, kind] = earlier + stats if earlier else stats


def _as_float32(x: Tensor) -> Tensor:
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dtype is torch.float64:
        came = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"probes look at floating tensors of at most 32 bits, got {came}; convert with .float() first")
    return x.detach().to(torch.float32)  # the same tensor, if it is float32 already


def _reductions(x: Tensor) -> tuple[int, int, int, float]:
    """Returns the exact (zeros, infs, nans, largest finite magnitude) of a float32 tensor."""
    if not x.numel():
        return 0, 0, 0, 0.0
    zeros = x.numel() - int(x.count_nonzero())
    low, high = x.aminmax()  # NaN if there is one
    amax = max(-float(low), float(high))
    if math.isfinite(amax):
        return zeros, 0, 0, amax
    finite = x[x.isfinite()]
    return zeros, int(x.isinf().sum()), int(x.isnan().sum()), float(finite.abs().amax()) if finite.numel() else 0.0


def _sample(x: Tensor, size: int | None, generator: torch.Generator | None) -> Tensor:
    """Returns all elements flat, or `size` of them at an even distance from a random start."""
    _require_sample(size)
    x = x.reshape(-1)
    if size is None or size >= x.numel():
        return x
    stride = x.numel() // size
    while math.gcd(stride, x.numel()) > 1:
        stride -= 1
    span = x.numel() - (size - 1) * stride
    start = int(torch.randint(span, (), generator=generator))
    return x[start : start + (size - 1) * stride + 1 : stride]


def _require_sample(size: int | None) -> None:
    if size is not None and (type(size) is not int or size < 1):
        raise ValueError(f"sample must be a positive whole number, or None for all elements, got {size!r}")


def _count(x: Tensor) -> NDArray[np.int64]:
    """Counts a flat float32 tensor into (8192,) bins, without zeros and non-finite values."""
    bits = x.abs().view(torch.int32)
    below = (1 << _CUT) - 1
    sticky = (
        bits.bitwise_and(below).add_(below).bitwise_right_shift_(_CUT)
    )  # in place: fresh memory costs more than the work
    bins = bits.bitwise_right_shift_(_CUT).bitwise_or_(sticky)
    counts = torch.bincount(bins, minlength=_BINS).cpu().numpy()
    counts[0] = 0
    counts[_FIRST_NON_FINITE:] = 0
    return counts


@lru_cache(maxsize=1)
def _representatives() -> NDArray[np.float64]:
    """Returns each finite bin's one value, or the middle of its open interval, in order of magnitude."""
    corners = (np.arange(0, _FIRST_NON_FINITE + 2, 2) << _CUT).astype(np.int32).view(np.float32).astype(np.float64)
    corners[-1] = 2.0**128  # float32 has inf there
    values = np.empty(_FIRST_NON_FINITE)
    values[0::2] = corners[:-1]
    values[1::2] = (corners[:-1] + corners[1:]) / 2
    return values


@lru_cache(maxsize=4096)
def _classes(fmt: Format, scale_exponent: int) -> tuple[slice, slice, slice]:
    """Returns the bins that become zero, subnormal, and too large, as slices: the bins are in order of magnitude."""
    scaled = _representatives() * 2.0**scale_exponent
    rounded = round_to(torch.from_numpy(scaled), fmt, overflow="nan").numpy()
    zero = int((rounded == 0).sum())
    normal = int(np.searchsorted(scaled, fmt.smallest_normal))
    overflow = _FIRST_NON_FINITE - int(np.isnan(rounded).sum())
    return slice(1, zero), slice(zero, normal), slice(overflow, _FIRST_NON_FINITE)


def _fits(magnitude: float, fmt: Format) -> bool:
    return not bool(round_to(torch.tensor(magnitude, dtype=torch.float64), fmt, overflow="nan").isnan())
