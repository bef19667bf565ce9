"""The numbers of a training step, layer by layer: exact counts, and histograms that answer for any format.

with track(model) as probe:
    loss(model(inputs), targets).backward()
probe["fc1", "gradient"].histogram.fractions(FP16, scale_exponent=10).underflow
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial, reduce
from random import Random
from typing import Any, Literal, get_args

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mixlab.formats import Format
from mixlab.histograms import Histogram, as_float32, draw_sample, require_sample

Kind = Literal["activation", "gradient", "weight_gradient"]


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
    random: Random | None = None,
) -> TensorStats:
    """Returns the statistics of one tensor; see `Histogram.of` for `sample` and for what is refused."""
    x = as_float32(x)
    histogram = Histogram.of(x, sample=sample, random=random)
    amax, finite = _amax(x)
    counts = histogram.special_counts if histogram.exact else _special_counts(x, finite)
    return TensorStats(layer, kind, x.numel(), *counts, amax, histogram)


def usable_window(stats: TensorStats, fmt: Format | str, *, tolerance: float = 0.01) -> tuple[int, int] | None:
    """Returns the exponents (low, high) of the loss scales under which `fmt` holds this tensor, None without any.

    Between them no value overflows, and at most the fraction `tolerance` of the non-zero values becomes zero. The
    tensor must be unscaled (of a float32 run). A tensor without non-zero finite values has no window. The upper edge is
    exact; the lower one is an estimate if the histogram is that of a sample.
    """
    fmt = Format.parse(fmt) if isinstance(fmt, str) else fmt
    if not 0 <= tolerance <= 1:
        raise ValueError(f"usable_window: tolerance must be a fraction from 0 to 1, got {tolerance!r}")
    if stats.amax == 0:
        return None
    high = largest_scale_exponent(stats.amax, fmt)
    if stats.histogram.fractions(fmt, high).underflow > tolerance:
        return None
    below, low = high - 513, high  # a smaller scale never loses less: bisect
    while low - below > 1:
        middle = (below + low) // 2
        if stats.histogram.fractions(fmt, middle).underflow <= tolerance:
            low = middle
        else:
            below = middle
    return low, high


def largest_scale_exponent(amax: float, fmt: Format) -> int:
    """Returns the largest k for which amax * 2^k, rounded to `fmt`, is still finite."""
    if not 0 < amax < math.inf:
        raise ValueError(f"largest_scale_exponent: amax must be positive and finite, got {amax!r}")
    k = math.floor(math.log2(fmt.max) - math.log2(amax)) + 2
    while amax * 2.0**k >= fmt.overflow_threshold:
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
    are seen as backward delivers them, with the loss scale still in them, and not added to those of an earlier backward
    pass. Of a layer that returns a tuple or list, such as an LSTM, the tensors directly in it are seen.

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
        sample: int | None = 1024,
        kinds: tuple[Kind, ...] = get_args(Kind),
        seed: int = 0,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"track: model must be a torch.nn.Module, got {type(model).__name__}")
        if isinstance(kinds, str):
            raise TypeError(f"track: kinds must be a tuple of kinds, got {kinds!r}; write ({kinds!r},)")
        unknown = sorted(set(kinds) - set(get_args(Kind)))
        if unknown:
            raise ValueError(f"track: unknown kinds {', '.join(unknown)}; use {', '.join(get_args(Kind))}")
        require_sample(sample)
        self._layers = {
            name: module
            for name, module in model.named_modules()
            if next(module.parameters(recurse=False), None) is not None
        }
        self._kinds = kinds
        self._sample = sample
        self._random = Random(seed)
        self._handles: list[RemovableHandle] = []
        self._drawn: list[tuple[Tensor, TensorStats]] = []
        self._stats: dict[tuple[str, Kind], TensorStats] = {}

    def __enter__(self) -> track:
        for name, module in self._layers.items():
            if "activation" in self._kinds or "gradient" in self._kinds:
                self._handles.append(module.register_forward_hook(self._forward_hook(name)))
            if "weight_gradient" in self._kinds:
                for parameter in module.parameters(recurse=False):
                    if parameter.requires_grad:  # the hook sees this backward pass's gradient, not the sum in .grad
                        see = partial(self._see, name, "weight_gradient")
                        self._handles.append(parameter.register_hook(see))
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._count_samples()

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
            for tensor in output if isinstance(output, tuple | list) else (output,):
                if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                    continue
                if "activation" in self._kinds:
                    self._see(layer, "activation", tensor)
                if "gradient" in self._kinds and tensor.requires_grad:
                    tensor.register_hook(partial(self._see, layer, "gradient"))  # type: ignore[no-untyped-call]

        return hook

    def _see(self, layer: str, kind: Kind, x: Tensor) -> None:
        if self._sample is None:
            self._add(tensor_stats(x, layer=layer, kind=kind))
            return
        x = as_float32(x)
        amax, finite = _amax(x)
        stats = TensorStats(layer, kind, x.numel(), *_special_counts(x, finite), amax, Histogram(()))
        sample = draw_sample(x, self._sample, self._random)  # after a full pass, which brought x into the cache
        self._drawn.append((sample.clone(), stats))

    def _count_samples(self) -> None:
        drawn, self._drawn = self._drawn, []
        histograms = Histogram.of_samples([sample for sample, _ in drawn], [stats.numel for _, stats in drawn])
        for (_, stats), histogram in zip(drawn, histograms, strict=True):
            self._add(replace(stats, histogram=histogram))

    def _add(self, stats: TensorStats) -> None:
        earlier = self._stats.get((stats.layer, stats.kind))
        self._stats[stats.layer, stats.kind] = earlier + stats if earlier else stats


def _amax(x: Tensor) -> tuple[float, bool]:
    """Returns the largest finite magnitude of a float32 tensor, and whether all of it is finite."""
    if not x.numel():
        return 0.0, True
    low, high = x.aminmax()  # NaN if there is one
    amax = max(-low.item(), high.item())
    if math.isfinite(amax):
        return amax, True
    finite = x[x.isfinite()]
    return float(finite.abs().amax()) if finite.numel() else 0.0, False


def _special_counts(x: Tensor, finite: bool) -> tuple[int, int, int]:
    """Returns how many elements of a float32 tensor are zero, infinite and NaN; with `finite`, the last two are 0."""
    zeros = x.numel() - int(x.count_nonzero())
    return (zeros, 0, 0) if finite else (zeros, int(x.isinf().sum()), int(x.isnan().sum()))
