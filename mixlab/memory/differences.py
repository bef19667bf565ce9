"""A trace beside an estimate of the same training: what differs from the formulas, kind by kind."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from mixlab.memory.activation_formulas import Activations
from mixlab.memory.categories import ACTIVATIONS, PHASES, Phase
from mixlab.memory.estimates import Estimate
from mixlab.memory.traced_step import Trace
from mixlab.tables import html_table, text_table

_MIB = 2**20
_NAMED = 3  # differences
_WORTH = 0.002  # share of the peak that a difference must have to be named

ATTENTION, EXPERTS, FEED_FORWARD, NORMS = "attention", "experts", "feed-forward", "norms"
SUMS, OUTSIDE = "sums of a layer", "embedding, head and loss"

# The part of a layer by a word in the path of a module within it. "gpt2" names its norms ln_1 and ln_2.
_WORDS = (
    (NORMS, re.compile(r"norm|\bln_\d|\bln\d?\b")),
    (EXPERTS, re.compile(r"expert|moe\b|router|sparse|mlp\.gate\b")),
    (ATTENTION, re.compile(r"attn|attention|mixer")),
    (FEED_FORWARD, re.compile(r"mlp|feed_forward|ffn|\bfc\d?\b|dense")),
)
# The part by kind of mixlab's own formulas. The operands of products are made by the norms before them, or under
# autocast by the casts within the parts.
_PARTS = {
    **dict.fromkeys(("input", "middle"), SUMS),
    **dict.fromkeys(("statistics of its norm", "statistics of the middle's norm"), NORMS),
    **dict.fromkeys(("gate", "its SiLU", "up", "their product", "hidden", "its GELU"), FEED_FORWARD),
}
_OPERANDS = {"operands of queries, keys, values": ATTENTION, "operands of the feed-forward": FEED_FORWARD}


class Difference(NamedTuple):
    """Bytes of one kind at the peak of one phase, or bytes that one part of the model keeps.

    Attributes:
        what: The kind, or the part.
        when: "forward", "backward" or "step": at the phase's peak. "kept": as forward ends.
        traced, estimated: Its bytes in the trace and in the estimate.
    """

    what: str
    when: str
    traced: int
    estimated: int

    @property
    def bytes(self) -> int:
        """Bytes by which the estimate is above the trace; negative if it is below."""
        return self.estimated - self.traced

    def __str__(self) -> str:
        where = "kept by" if self.when == "kept" else f"{self.when}:"
        share = f" ({self.bytes / self.traced:+.1%})" if self.traced else ""
        return f"{where} {self.what} {_signed(self.bytes)} MiB{share}"


@dataclass(frozen=True)
class Differences:
    """A trace beside the estimate of the same training. Its repr and its HTML are tables, the largest named below.

    Kinds are compared at the peak of each phase, where the two may be at different instants. What is kept from forward
    to backward is compared by part of the model: the trace's go by the paths of modules, so that one with unusual names
    may stand under another part.

    Args:
        estimate: The estimate.
        trace: The trace.

    Raises:
        TypeError: If one is of another type.
        ValueError: If they are not of one recipe, or the trace is as on a CPU.
    """

    estimate: Estimate
    trace: Trace

    def __post_init__(self) -> None:
        for name, kind in (("estimate", Estimate), ("trace", Trace)):
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"Differences: {name} must be of type {kind.__name__}, got {getattr(self, name)!r:.60}")
        if self.trace.as_on != "cuda":
            raise ValueError('Differences: estimates are for CUDA; give a trace as_on="cuda"')
        if self.trace.recipe != self.estimate.recipe:
            raise ValueError(
                f"Differences: trace and estimate must have one recipe, got {self.trace.recipe} and "
                f"{self.estimate.recipe}"
            )

    @property
    def at_peak(self) -> float:
        """How far the estimate's peak is above the trace's, as a fraction of it."""
        return self.estimate.peak_bytes / self.trace.peak_bytes - 1

    @property
    def apart(self) -> str:
        """How far the estimate's peak is above the trace's, as a percentage with its sign."""
        return f"{self.at_peak:+.2%}".replace("-0.00%", "+0.00%")

    @cached_property
    def kinds(self) -> tuple[Difference, ...]:
        """Every kind of bytes at the peak of each phase."""
        traced, estimated = self.trace.at_phase_peaks, self.estimate.at_phase_peaks
        return tuple(one for phase in PHASES for one in _each(phase, traced[phase], estimated[phase]))

    @cached_property
    def parts(self) -> tuple[Difference, ...]:
        """The activations that each part of the model keeps as forward ends."""
        return tuple(_each("kept", kept_by_part(self.trace), _estimated_parts(self.estimate)))

    @property
    def largest(self) -> list[Difference]:
        """The largest differences, of kinds at the phase of the trace's peak, and of parts; the largest first."""
        there = [one for one in self.kinds if one.when == self.trace.peak_phase and one.what != ACTIVATIONS]
        found = sorted((*there, *self.parts), key=lambda one: -abs(one.bytes))
        return [one for one in found if abs(one.bytes) > _WORTH * self.trace.peak_bytes]

    @property
    def summary(self) -> str:
        """How far apart the peaks are, and the largest differences, in words."""
        peaks = ", ".join(
            f"{one.peak_bytes / _MIB:,.1f} MiB in {one.peak_phase}" for one in (self.trace, self.estimate)
        )
        named = "; ".join(map(str, self.largest[:_NAMED])) or "none above 0.2 % of the peak"
        words = f"peaks of trace and estimate: {peaks}; the estimate is {self.apart} from the trace"
        return f"{words}\nlargest differences: {named}"

    def __repr__(self) -> str:
        return "\n".join([text_table(_KINDS, self._rows()), "", text_table(_KEPT, self._part_rows()), self.summary])

    def _repr_html_(self) -> str:
        tables = [
            html_table(_KINDS, self._rows(), caption="The trace, and beside it the estimate", row_heads=True),
            html_table(_KEPT, self._part_rows(), row_heads=True),
        ]
        return "".join([*tables, *(f"<div>{line}</div>" for line in self.summary.splitlines())])

    def _rows(self) -> Iterator[tuple[str, ...]]:
        cells = {(one.what, one.when): _cells(one.traced, one.estimated) for one in self.kinds}
        for kind in dict.fromkeys(one.what for one in self.kinds):
            yield (kind, *(cell for phase in PHASES for cell in cells.get((kind, phase), ("", ""))))
        peaks = zip(self.trace.phase_peaks.values(), self.estimate.phase_peaks.values(), strict=True)
        yield ("together", *(cell for pair in peaks for cell in _cells(*pair)))

    def _part_rows(self) -> Iterator[tuple[str, ...]]:
        for one in self.parts:
            yield (one.what, *_cells(one.traced, one.estimated), _signed(one.bytes))


_KINDS = ("MiB at the peak of", *(head for phase in PHASES for head in (phase, "estimate")))  # fits 700 pixels
_KEPT = ("MiB kept as forward ends by", "traced", "estimated", "difference")


def kept_by_part(trace: Trace) -> dict[str, int]:
    """Returns the bytes of activations that are alive as forward ends, by the part of the model that made them.

    Args:
        trace: The trace of a model with a list of layers.
    """
    kept: Counter[str] = Counter()
    end = max(span.last for span in trace.spans if span.phase == "forward")
    for one in trace.allocations:
        if one.category == ACTIVATIONS and one.born < end and not 0 <= one.died < end:
            kept[part_of(one.module)] += one.bytes
    return dict(kept)


def part_of(path: str) -> str:
    """Returns the part of a transformer that a module is, by its path.

    >>> part_of("model.layers.3.self_attn.q_proj"), part_of("transformer.h.0"), part_of("lm_head")
    ('attention', 'sums of a layer', 'embedding, head and loss')

    Args:
        path: Path of the module, as in `Allocation.module`.
    """
    within = re.search(r"(?:^|\.)\d+(?:\.|$)(.*)", path)
    if within is None:
        return OUTSIDE
    return next((part for part, word in _WORDS if word.search(within[1])), SUMS if not within[1] else FEED_FORWARD)


def _estimated_parts(estimate: Estimate) -> dict[str, int]:
    acts = estimate.activations
    layers: Counter[str] = Counter()
    if isinstance(acts, Activations):
        for kind, size in acts.layer.items():
            within = _OPERANDS.get(kind) if acts.recipe.autocast else NORMS if kind in _OPERANDS else None
            layers[within or _PARTS.get(kind, ATTENTION)] += acts.shape.layers * size
    else:
        for kind, size in acts.in_layers.items():
            layers[kind] += size
    layers[OUTSIDE] += acts.bytes - sum(layers.values())
    return dict(layers)


def _each(when: Phase | str, traced: Mapping[str, int], estimated: Mapping[str, int]) -> Iterator[Difference]:
    for what in dict.fromkeys((*traced, *estimated)):
        yield Difference(what, when, traced.get(what, 0), estimated.get(what, 0))


def _cells(traced: int, estimated: int) -> tuple[str, str]:
    return _mib(traced), _mib(estimated)


def _mib(size: int) -> str:
    """Returns a size in MiB, in whole ones from a thousand up."""
    return f"{size / _MIB:,.{0 if size >= 999.95 * _MIB else 1}f}"


def _signed(size: int) -> str:
    """Returns a difference in MiB with its sign."""
    return f"{size / _MIB:+,.1f}".replace("-0.0", "+0.0")
