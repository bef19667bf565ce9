"""The numbers of a training step, layer by layer: exact counts, and histograms that answer for any format."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from functools import partial, reduce
from random import Random
from typing import Any, get_args, overload

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mixlab.layers import (
    compiled_part,
    floating_outputs,
    layer_of,
    parameters_by_layer,
    require_hooks,
    require_values,
    scripted_part,
    sharded_part,
)
from mixlab.probes.histograms import Histogram, as_float32, dense, draw_sample, require_sample, stored_values
from mixlab.probes.stats import TensorKind, TensorStats, amax_of, special_counts, tensor_stats


def underflow_by_layer(gradients: Mapping[str, Tensor], references: Mapping[str, Tensor]) -> dict[str, float]:
    """Returns, for each layer, the fraction of the non-zero elements of `references` that are zero in `gradients`.

    Args:
        gradients: The gradients by parameter name, e.g. {"fc1.weight": ..., "fc1.bias": ...}, as the recipe computed
            them.
        references: The gradients in float32, at the same weights on the same batch.
    """
    lost: dict[str, int] = {}
    non_zero: dict[str, int] = {}
    for name, reference in references.items():
        layer = layer_of(name)
        alive = reference != 0
        lost[layer] = lost.get(layer, 0) + int((alive & (dense(gradients[name]) == 0)).sum())
        non_zero[layer] = non_zero.get(layer, 0) + int(alive.sum())
    return {layer: lost[layer] / count if count else 0.0 for layer, count in non_zero.items()}


_HIDDEN = ContextVar("hidden", default=False)


@contextmanager
def unwatched() -> Iterator[None]:
    """Hides forward passes, and the backward passes from them, from every `track`."""
    token = _HIDDEN.set(True)
    try:
        yield
    finally:
        _HIDDEN.reset(token)


class track(Sequence[TensorStats]):  # noqa: N801  a context manager, named as a verb
    """Watches a model: inside the with block, every layer with parameters of its own reports outputs and gradients.

    It is a sequence of `TensorStats` in the order of the model's modules, and can be indexed by (layer, kind) too.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    >>> with track(model) as probe:
    ...     model(torch.ones(3, 2)).sum().backward()
    >>> len(probe), probe[0].layer, probe[0].kind
    (3, '0', 'activation')
    >>> probe["0", "gradient"].numel, probe.total("weight_gradient").numel
    (6, 6)
    >>> probe["0", "gradient"].histogram.fractions("fp16", scale_exponent=10).underflow
    0.0

    The block may hold any code that calls the model: with keyword arguments (`model(**batch).loss.backward()`), several
    times, or through DistributedDataParallel around it. Forward passes of an evaluation count as activations too.

    Gradients are seen as backward delivers them: with the loss scale still in them, and not added to those of an
    earlier backward pass. Outputs may be in tuples, lists, dicts and dataclasses. Recurrent layers such as an LSTM
    report their outputs without their states.

    Each tensor counts once. A shared parameter belongs to the first of its layers. Activations that a checkpoint
    recomputes do not count again. A weight gradient that one backward pass delivers in parts counts as their sum. The
    elements that a sparse gradient leaves out count as zeros.

    Args:
        model: Any module; the layers are its submodules that have parameters of their own.
        sample: How many elements of each tensor go into its histogram; None takes all. Counts and amax are always
            exact.
        kinds: Which of "activation", "gradient" and "weight_gradient" to watch.
        seed: Seed of the random samples.
        strict: Whether what cannot be watched is an error. If not, it is left out, and nothing that goes wrong while
            watching reaches the model: for trainings that must not stop.

    Attributes:
        left_out: If not strict, what was left out and why, by layer; "" is the model.

    Raises:
        TypeError, ValueError: If `model` is not a module, or an option is out of range. On entry, if strict: if a
            module is compiled, unless only weight gradients are watched; if one is divided over processes by FSDP and
            weight gradients are watched; or if a parameter has no values. In the with block, if strict: if a tensor is
            float64 or complex; the message names the layer.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        sample: int | None = 1024,
        kinds: tuple[TensorKind, ...] = get_args(TensorKind),
        seed: int = 0,
        strict: bool = True,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"track: model must be a torch.nn.Module, got {type(model).__name__}")
        if isinstance(kinds, str):
            raise TypeError(f"track: kinds must be a tuple of kinds, got {kinds!r}; write ({kinds!r},)")
        unknown = sorted(set(kinds) - set(get_args(TensorKind)))
        if unknown:
            raise ValueError(f"track: unknown kinds {', '.join(unknown)}; use {', '.join(get_args(TensorKind))}")
        require_sample(sample)
        self.left_out: dict[str, str] = {}
        self._model = model
        self._kinds = kinds
        self._strict = strict
        self._sample = sample
        self._random = Random(seed)
        self._layers = list(parameters_by_layer(model))
        self._handles: list[RemovableHandle] = []
        self._leaves: set[tuple[str, Tensor]] = set()
        self._drawn: list[_Drawn] = []
        self._parts: dict[Tensor, _Part] = {}  # weight gradients of the current backward pass
        self._in_pass = False
        self._stats: dict[tuple[str, TensorKind], TensorStats] = {}

    def __enter__(self) -> track:
        if not self._holds("", partial(require_values, self._model, "track")):
            return self
        layers = parameters_by_layer(self._model)
        self._layers = list(layers)
        if set(self._kinds) - {"weight_gradient"}:
            self._holds("", partial(require_hooks, self._model, "track"))
        weights = "weight_gradient" in self._kinds and self._holds("", self._require_whole_weights)
        if not (scripted_part(self._model) or compiled_part(self._model)):
            # The root's hook notices a pass even if only weight gradients are watched.
            self._handles.append(self._model.register_forward_hook(self._hook("", self._root_hook)))
            for layer in layers:
                hook = self._hook(layer, self._forward_hook, layer)
                self._handles.append(self._model.get_submodule(layer).register_forward_hook(hook))
        for layer, parameters in layers.items() if weights else ():
            for parameter in parameters.values():
                if parameter.requires_grad:  # the hook sees this backward pass's gradient, not the sum in .grad
                    see = self._hook(layer, self._see_part, layer, parameter)
                    self._handles.append(parameter.register_hook(see))  # type: ignore[no-untyped-call]
        return self

    def _holds(self, layer: str, check: Callable[[], object]) -> bool:
        """Whether a check, or a look at the model, passes; unless strict, an error is left out."""
        try:
            check()
        except Exception as error:
            if self._strict:
                raise
            self.left_out[layer] = f"{error}" if isinstance(error, TypeError | ValueError) else repr(error)
            return False
        return True

    def _hook(self, layer: str, see: Callable[..., None], *given: Any) -> Callable[..., None]:
        """Returns `see` as a hook, whose errors reach no pass of the model unless strict."""
        hook = partial(see, *given)
        if self._strict:
            return hook

        def quiet(*seen: Any) -> None:
            self._holds(layer, partial(hook, *seen))

        return quiet

    def _require_whole_weights(self) -> None:
        if sharded := sharded_part(self._model):
            raise TypeError(
                f"track: {sharded}, so no hook sees the gradients of its weights; "
                'watch the others with kinds=("activation", "gradient")'
            )

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._leaves.clear()
        self._end_pass()
        self._holds("", self._count_samples)

    @overload
    def __getitem__(self, key: int | tuple[str, TensorKind]) -> TensorStats: ...

    @overload
    def __getitem__(self, key: slice) -> list[TensorStats]: ...

    def __getitem__(self, key: int | slice | tuple[str, TensorKind]) -> TensorStats | list[TensorStats]:
        """Returns one entry by its index or by (layer, kind), or a list of entries by a slice.

        Args:
            key: E.g. 0, slice(0, 3) or ("fc1", "gradient").

        Raises:
            IndexError: If the index is out of range.
            KeyError: If nothing was seen for this layer and kind.
        """
        if isinstance(key, int | slice):
            return list(self)[key]
        if key not in self._stats:
            seen = ", ".join(f"{layer}/{kind}" for layer, kind in self._stats) or "nothing yet"
            raise KeyError(f"track: nothing seen of {key!r}; seen: {seen}")
        return self._stats[key]

    def __iter__(self) -> Iterator[TensorStats]:
        places = {layer: place for place, layer in enumerate(self._layers)}
        return iter(sorted(self._stats.values(), key=lambda s: (places[s.layer], get_args(TensorKind).index(s.kind))))

    def __len__(self) -> int:
        return len(self._stats)

    def to_frame(self) -> Any:
        """Returns a pandas DataFrame with one row for each entry and one column for each field except the histogram.

        Raises:
            ImportError: If pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("track.to_frame needs pandas; install it with pip install pandas") from error
        columns = [field.name for field in fields(TensorStats) if field.name != "histogram"]
        rows = [[getattr(stats, name) for name in columns] for stats in self]
        return pandas.DataFrame(rows, columns=columns)

    def total(self, kind: TensorKind) -> TensorStats:
        """Returns the sum over all layers of one kind, under the layer name "all".

        Args:
            kind: "activation", "gradient" or "weight_gradient".

        Raises:
            KeyError: If nothing of this kind was seen.
        """
        stats = [stats for stats in self if stats.kind == kind]
        if not stats:
            raise KeyError(f"track: nothing of kind {kind!r} was seen; run forward and backward inside the with block")
        return replace(reduce(operator.add, stats), layer="all")

    def _root_hook(self, module: nn.Module, _inputs: Any, output: Any) -> None:
        """Hooks the model's outputs, to notice the start of a backward pass before passes within it run parts of it."""
        for tensor in floating_outputs(module, output):
            if tensor.grad_fn is not None:
                tensor.register_hook(lambda _gradient: self._begin_pass())  # type: ignore[no-untyped-call]

    def _forward_hook(self, layer: str, module: nn.Module, _inputs: Any, output: Any) -> None:
        if _HIDDEN.get():
            return
        again = in_backward()  # a checkpoint recomputes this layer
        if again:
            self._begin_pass()
        else:
            self._end_pass()  # of an earlier pass that ended in an error
        for tensor in floating_outputs(module, output):
            if "activation" in self._kinds and not again:
                self._see(layer, "activation", tensor)
            if "gradient" in self._kinds and tensor.requires_grad:
                self._watch(layer, tensor)

    def _watch(self, layer: str, output: Tensor) -> None:
        if not output.is_leaf:
            output.register_hook(self._hook(layer, self._see_gradient, layer))  # type: ignore[no-untyped-call]
        elif (layer, output) not in self._leaves:  # a parameter, which outlives the pass
            self._leaves.add((layer, output))
            hook = self._hook(layer, self._see_gradient, layer)
            self._handles.append(output.register_hook(hook))  # type: ignore[no-untyped-call]

    def _see_gradient(self, layer: str, gradient: Tensor) -> None:
        if self._handles:  # still entered
            self._begin_pass()
            self._see(layer, "gradient", gradient)

    def _see(self, layer: str, kind: TensorKind, x: Tensor) -> None:
        drawn = self._draw(layer, kind, x)
        if drawn.sample is None:
            self._add(drawn.stats)
        else:
            self._drawn.append(drawn)

    def _see_part(self, layer: str, parameter: nn.Parameter, gradient: Tensor) -> None:
        """Records a weight gradient, or what an inner pass, such as a reentrant checkpoint's, adds to it."""
        self._begin_pass()
        part = self._parts.get(parameter)
        before = None if part is None else parameter.grad if part.gradient is None else part.gradient
        if part is None or before is None:
            drawn = self._draw(layer, "weight_gradient", gradient)
            # Kept only if .grad already holds another pass's gradient: autograd copies a gradient that is kept.
            self._parts[parameter] = _Part(drawn, None if parameter.grad is None else gradient)
            if drawn.sample is not None:
                self._drawn.append(drawn)
            elif part is not None:
                self._add(part.drawn.stats)
            return
        total = before.detach() + gradient
        drawn = self._draw(layer, "weight_gradient", total)
        part.drawn.sample, part.drawn.numel, part.drawn.stats = drawn.sample, drawn.numel, drawn.stats
        part.gradient = None if part.gradient is None else total

    def _begin_pass(self) -> None:
        if not self._in_pass and self._handles:
            self._in_pass = True
            torch.autograd.Variable._execution_engine.queue_callback(self._end_pass)

    def _end_pass(self) -> None:
        self._in_pass = False
        parts, self._parts = self._parts, {}
        for part in parts.values():
            if part.drawn.sample is None:
                self._add(part.drawn.stats)

    def _draw(self, layer: str, kind: TensorKind, x: Tensor) -> _Drawn:
        try:
            x = as_float32(x)
        except TypeError as error:
            raise TypeError(f"track: {kind} of layer {layer!r}: {error}") from None
        if self._sample is None:
            return _Drawn(None, x.numel(), tensor_stats(x, layer=layer, kind=kind))
        stored = stored_values(x)
        left_out = x.numel() - stored.numel()
        amax, finite = amax_of(stored)
        counts = special_counts(x, finite)
        stats = TensorStats(layer, kind, x.numel(), *counts, amax, Histogram.of_zeros(left_out))
        sample = draw_sample(stored, self._sample, self._random)  # after a full pass, which brought x into the cache
        return _Drawn(sample.clone(), stored.numel(), stats)

    def _count_samples(self) -> None:
        drawn, self._drawn = self._drawn, []
        samples = [one.sample for one in drawn if one.sample is not None]
        histograms = Histogram.of_samples(samples, [one.numel for one in drawn])
        for one, histogram in zip(drawn, histograms, strict=True):
            self._add(replace(one.stats, histogram=one.stats.histogram + histogram))

    def _add(self, stats: TensorStats) -> None:
        earlier = self._stats.get((stats.layer, stats.kind))
        self._stats[stats.layer, stats.kind] = earlier + stats if earlier else stats


@dataclass
class _Drawn:
    """Statistics of a tensor, and the sample still to be added to its histogram; None if it was added already."""

    sample: Tensor | None
    numel: int
    stats: TensorStats


@dataclass
class _Part:
    """The part of a weight gradient that a backward pass has delivered so far; with `gradient` None, it is in .grad."""

    drawn: _Drawn
    gradient: Tensor | None


def in_backward() -> bool:
    """Whether this thread is in a backward pass, where a checkpoint runs forward again."""
    return torch._C._current_graph_task_id() != -1
