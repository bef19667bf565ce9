"""Two records of one kind side by side: what both measured, what only one did, and how their machines differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mixlab.measure.record import Record, Series
from mixlab.measure.resuming import PREDICTED


@dataclass(frozen=True)
class ComparedSeries:
    """A series that both records have, in the same unit.

    Attributes:
        name: Its name.
        unit: Unit of the samples.
        first, second: The samples of each record.
    """

    name: str
    unit: str
    first: Series
    second: Series

    @property
    def ratio(self) -> float | None:
        """The second median divided by the first; None if that is 0."""
        return self.second.median / self.first.median if self.first.median else None


@dataclass(frozen=True)
class RecordComparison:
    """Two records of one kind. `compare_records` makes it.

    Attributes:
        first, second: The records.
        both: Series with the same name and unit in both, in the order of the first.
        only_first, only_second: Names of the series that one has alone, with their units.
    """

    first: Record
    second: Record
    both: tuple[ComparedSeries, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]

    @property
    def apart(self) -> dict[str, tuple[str, str]]:
        """Facts of machine, seed and parameters that differ, as texts of both records; "" where one lacks it."""
        facts = [
            {**record.machine, "seed": str(record.seed), **{name: str(v) for name, v in record.parameters.items()}}
            for record in (self.first, self.second)
        ]
        names = dict.fromkeys([*facts[0], *facts[1]])
        pairs = {name: (facts[0].get(name, ""), facts[1].get(name, "")) for name in names}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}

    def to_dict(self) -> dict[str, Any]:
        """Returns the comparison as plain data for JSON."""
        return {
            "kind": self.first.kind,
            "records": [record.summary for record in (self.first, self.second)],
            "differences": {name: list(pair) for name, pair in self.apart.items()},
            "series": [
                {
                    "name": one.name,
                    "unit": one.unit,
                    "medians": [one.first.median, one.second.median],
                    "quartiles": [list(one.first.quartiles), list(one.second.quartiles)],
                    "ratio": one.ratio,
                }
                for one in self.both
            ],
            "only in the first": list(self.only_first),
            "only in the second": list(self.only_second),
        }


def compare_records(first: Record, second: Record) -> RecordComparison:
    """Compares two records of one kind, series by series. Predictions are left out.

    Args:
        first: The record to compare with; ratios are divided by its medians.
        second: The other.

    Raises:
        ValueError: If the records are of different kinds.
    """
    if first.kind != second.kind:
        raise ValueError(
            f"compare_records: both records must be of one kind, got {first.kind} and {second.kind}; "
            "what they measure cannot be divided"
        )
    ours, theirs = ({(one.name, one.unit): one for one in _measured(record)} for record in (first, second))
    both = (ComparedSeries(*key, one, theirs[key]) for key, one in ours.items() if key in theirs)
    alone = (
        [f"{name} ({unit})" for name, unit in own if (name, unit) not in other]
        for own, other in ((ours, theirs), (theirs, ours))
    )
    return RecordComparison(first, second, tuple(both), *map(tuple, alone))


def _measured(record: Record) -> Iterator[Series]:
    return (series for series in record.series if not series.name.endswith(PREDICTED))
