"""A traced step: its peak, what fills memory there, and the bytes over time by category."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mixlab.arguments import require_whole
from mixlab.memory.allocation_log import Allocation
from mixlab.memory.categories import ACTIVATIONS, PHASES, TEMPORARIES, Phase
from mixlab.recipes import Recipe
from mixlab.tables import html_table, text_table

_MIB = 2**20


class Span(NamedTuple):
    """A phase of the step, from one place in the log to another.

    Attributes:
        phase: "forward", "backward" or "step".
        first, last: Places in the log; a place is the number of events before it.
    """

    phase: Phase
    first: int
    last: int


@dataclass(frozen=True)
class Trace:
    """The allocations of one training step. Its repr and its HTML are a table of what lives at each phase's peak.

    An allocation keeps one category all its life: memory that becomes a gradient counts as one from its birth.
    "activations" are still alive at the end of a forward pass, or at the end of a part that backward recomputes;
    "temporaries" are everything in no other category; "batch and buffers" includes the optimizer's step counters.

    Attributes:
        recipe: Recipe of the training.
        as_on: "cuda" or "cpu".
        numel: Number of parameters of the model.
        allocations: All allocations, from before the first of the two steps on.
        log: The events in order: an allocation's number for its birth, ~number for its death.
        spans: The phases of the second step, in order; with accumulation, one forward and one backward per micro-step.
    """

    recipe: Recipe
    as_on: str
    numel: int
    allocations: tuple[Allocation, ...] = field(repr=False)
    log: tuple[int, ...] = field(repr=False)
    spans: tuple[Span, ...]

    @cached_property
    def peak_bytes(self) -> int:
        """The most bytes alive at any time in the step."""
        return max(self.phase_peaks.values())

    @cached_property
    def peak_phase(self) -> Phase:
        """The phase of the peak; the first if several reach it."""
        return max(PHASES, key=self.phase_peaks.__getitem__)

    @cached_property
    def at_peak(self) -> dict[str, int]:
        """Bytes by category at the peak."""
        return self.at_phase_peaks[self.peak_phase]

    @cached_property
    def phase_peaks(self) -> dict[Phase, int]:
        """The most bytes of each phase."""
        return {phase: int(self._levels[place]) for phase, place in self._peak_places.items()}

    @cached_property
    def at_phase_peaks(self) -> dict[Phase, dict[str, int]]:
        """Bytes by category at the peak of each phase."""
        return {phase: self._content(place) for phase, place in self._peak_places.items()}

    @cached_property
    def after(self) -> dict[Phase, int]:
        """The bytes alive at the end of each phase; "step" ends when the gradients are freed."""
        return {phase: int(self._levels[last]) for phase, _, last in self.spans}

    @cached_property
    def at_end(self) -> dict[Phase, dict[str, int]]:
        """Bytes by category at the end of each phase; they sum to `after`."""
        return {phase: self._content(last) for phase, _, last in self.spans}

    @cached_property
    def at_peak_by_module(self) -> dict[str, int]:
        """Bytes of activations and temporaries at the peak by the module that made them, the largest first.

        Modules go by their paths; "(model)" is the model itself, "(loss)" the loss and "(optimizer)" the optimizer.
        Allocations of a backward pass belong to the module whose backward is running.
        """
        count: Counter[str] = Counter()
        for allocation in self._alive(self._peak_places[self.peak_phase]):
            if allocation.category in (ACTIVATIONS, TEMPORARIES):
                count[allocation.module] += allocation.bytes
        return dict(count.most_common())

    def timeline(self, points: int = 400) -> dict[str, NDArray[np.int64]]:
        """Returns the step over time: the column "place" in the log, and a column of bytes alive for each category.

        If there are more events than points, each point stands for a stretch of events and shows its maximum, so that
        the peak is among the points.

        Args:
            points: Largest number of points.

        Raises:
            ValueError: If `points` is not a whole number from 1 up.
        """
        require_whole("Trace.timeline: points", points, 1)
        first, last = self.spans[0].first, self.spans[-1].last
        stretches = np.array_split(np.arange(first, last + 1), min(points, last + 1 - first))
        places = np.array([stretch[self._levels[stretch].argmax()] for stretch in stretches])
        columns = {"place": places - first}
        for category in dict.fromkeys(allocation.category for allocation in self.allocations):
            alive = np.concatenate(([0], np.cumsum(np.where(self._categories == category, self._deltas, 0))))[places]
            if alive.any():
                columns[category] = alive
        return columns

    def events(self) -> Iterator[tuple[int, int]]:
        """Yields every allocation and free from the first of the two steps on.

        Yields:
            (number of the allocation, +bytes at its birth or -bytes at its death), in order.
        """
        for entry, delta in zip(self.log, self._deltas.tolist(), strict=True):
            yield (entry if entry >= 0 else ~entry), delta

    def __repr__(self) -> str:
        return f"{self._title()}\n{text_table(self._columns(), self._rows())}"

    def _repr_html_(self) -> str:
        return html_table(self._columns(), self._rows(), caption=self._title())

    def _title(self) -> str:
        where = "a GPU" if self.as_on == "cuda" else "a CPU"
        peak = f"peak of {self.peak_bytes / _MIB:,.1f} MiB, in {self.peak_phase}"
        return f"{self.recipe} as on {where}: {self.numel:,} parameters, {peak}"

    def _columns(self) -> tuple[str, ...]:
        return ("MiB at the peak of", *PHASES)

    def _rows(self) -> list[tuple[str, ...]]:
        contents = [self.at_phase_peaks[phase] for phase in PHASES]
        names = dict.fromkeys(name for content in contents for name in content)
        rows = [(name, *(f"{content.get(name, 0) / _MIB:,.1f}" for content in contents)) for name in names]
        ends = (f"{self.after[phase] / _MIB:,.1f}" for phase in PHASES)
        return [*rows, ("sum", *(f"{sum(c.values()) / _MIB:,.1f}" for c in contents)), ("at its end", *ends)]

    @cached_property
    def _numbers(self) -> NDArray[np.int64]:
        log = np.array(self.log, dtype=np.int64)
        return np.where(log < 0, ~log, log)

    @cached_property
    def _deltas(self) -> NDArray[np.int64]:
        sizes = np.array([allocation.bytes for allocation in self.allocations], dtype=np.int64)
        return np.where(np.array(self.log) < 0, -1, 1) * sizes[self._numbers]

    @cached_property
    def _categories(self) -> NDArray[np.str_]:
        return np.array([allocation.category for allocation in self.allocations])[self._numbers]

    @cached_property
    def _levels(self) -> NDArray[np.int64]:
        """Bytes alive at each place."""
        return np.concatenate(([0], np.cumsum(self._deltas)))

    @cached_property
    def _peak_places(self) -> dict[Phase, int]:
        places: dict[Phase, int] = {}
        for phase, first, last in self.spans:
            place = first + int(self._levels[first : last + 1].argmax())
            if phase not in places or self._levels[place] > self._levels[places[phase]]:
                places[phase] = place
        return places

    def _alive(self, place: int) -> Iterator[Allocation]:
        return (
            allocation
            for allocation in self.allocations
            if allocation.born < place and not 0 <= allocation.died < place
        )

    def _content(self, place: int) -> dict[str, int]:
        content: Counter[str] = Counter()
        for allocation in self._alive(place):
            content[allocation.category] += allocation.bytes
        return dict(content)
