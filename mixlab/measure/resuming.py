"""A measurement that survives a stop: its file is a valid record at any time, and the same call continues it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from mixlab.measure.record import Record, Series, now, record_here, this_machine

Value = str | int | float
STATE = "state"  # the parameter that says whether a record is finished
FINISHED = "finished"
PREDICTED = ", predicted"  # the end of the names of series that are derived from others
_SPENT = "spent_s"
_LEFT_OUT = "left out, "
_EVERY_S = 2.0  # seconds between two writes


def is_finished(record: Record) -> bool:
    """Returns whether a record's measurement was not stopped half-way. Records that do not say are finished."""
    return record.parameters.get(STATE, FINISHED) == FINISHED


def earlier_record(path: Path | str | None, kind: str) -> Record | None:
    """Returns the record that a measurement continues, or None if there is no such file.

    Args:
        path: The file; None for no file.
        kind: The kind that the record must have.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it holds no record, or one of another kind.
    """
    if path is None or not Path(path).exists():
        return None
    record = Record.load(path)
    if record.kind != kind:
        raise ValueError(f"{path} is a record of kind {record.kind}, not {kind}; it is kept: choose another file")
    return record


def differences_from_here(record: Record, seed: int, settings: Mapping[str, Value]) -> list[str]:
    """Returns in words how this machine, a seed and settings differ from those of a record.

    Args:
        record: The record.
        seed: Seed of the new call.
        settings: Parameters that the record must have too.
    """
    here = {**this_machine(), "seed": seed, **settings}
    there = {**record.machine, "seed": record.seed, **record.parameters}
    return [
        f"{name} was {there.get(name, '')!r} and is {value!r}"
        for name, value in here.items()
        if there.get(name) != value
    ]


class Draft:
    """The samples and notes of a measurement under way, and the file that has them.

    Args:
        kind: Kind of the record.
        settings: The arguments that a call must repeat to continue the measurement.
        seed: Seed of the random inputs.
        command: Command line to store in the record.
        path: The file; None for none.
        earlier: The record in that file, from `earlier_record`.
        derived: Returns series to add to the measured ones.

    Raises:
        ValueError: If `earlier` is of another machine, seed or settings.
    """

    def __init__(
        self,
        kind: str,
        settings: Mapping[str, Value],
        seed: int,
        command: str,
        path: Path | None,
        earlier: Record | None,
        derived: Callable[[Sequence[Series]], Sequence[Series]] = lambda _series: (),
    ) -> None:
        self.notes: dict[str, Value] = {}
        self.samples: dict[str, list[float]] = {}
        self.finished = False
        self._kind, self._settings, self._seed, self._command = kind, dict(settings), seed, command
        self._path, self._derived = path, derived
        self._units: dict[str, str] = {}
        self._order: dict[str, None] = {}
        self._date = now()
        self._before_s, self._began_s, self._kept_s = 0.0, time.monotonic(), -_EVERY_S
        if earlier is not None:
            self._continue(earlier)

    def _continue(self, earlier: Record) -> None:
        if apart := differences_from_here(earlier, self._seed, self._settings):
            raise ValueError(
                f"{self._path} cannot be continued: {'; '.join(apart)}. Choose another file, or repeat its call"
            )
        own = {*self._settings, STATE, _SPENT}
        self.notes = {name: value for name, value in earlier.parameters.items() if name not in own}
        for series in earlier.series:
            if not series.name.endswith(PREDICTED):
                self.samples[series.name], self._units[series.name] = list(series.samples), series.unit
        self._before_s = float(earlier.parameters.get(_SPENT, 0.0))
        self._date, self._command = earlier.date, earlier.command
        self.finished = is_finished(earlier)

    def spent_s(self) -> float:
        """Returns the seconds spent so far, in earlier calls too."""
        return self._before_s + time.monotonic() - self._began_s

    def order(self, names: Sequence[str]) -> None:
        """Sets the order of series in the record; others follow."""
        self._order = dict.fromkeys(names)

    def add(self, name: str, unit: str, value: float) -> None:
        """Adds a sample to a series."""
        self._units[name] = unit
        self.samples.setdefault(name, []).append(value)

    def leave_out(self, name: str, reason: str) -> None:
        """Notes that something is not measured, and why."""
        key = f"{_LEFT_OUT}{reason}"
        self.notes[key] = f"{self.notes[key]}, {name}" if key in self.notes else name

    def left_out(self, name: str) -> bool:
        """Returns whether something was noted as left out."""
        return any(key.startswith(_LEFT_OUT) and name in str(value).split(", ") for key, value in self.notes.items())

    def reasons(self) -> str:
        """Returns what is left out and why, in one line."""
        return "; ".join(
            f"{value}: {key.removeprefix(_LEFT_OUT)}" for key, value in self.notes.items() if key.startswith(_LEFT_OUT)
        )

    def finish(self) -> None:
        """Marks the measurement as finished, and writes its file."""
        self.finished = True
        self.keep(at_once=True)

    def keep(self, *, at_once: bool = False) -> None:
        """Writes the file, if there is one and the last write is some seconds ago, or `at_once`."""
        now_s = time.monotonic()
        if self._path is not None and (at_once or now_s - self._kept_s >= _EVERY_S):
            self.record().save(self._path)
            self._kept_s = now_s

    @contextmanager
    def kept(self) -> Iterator[None]:
        """A context that writes the file however it ends."""
        try:
            yield
        finally:
            self.keep(at_once=True)

    def record(self) -> Record:
        """Returns the record of what was measured so far."""
        names = [
            *(name for name in self._order if name in self.samples),
            *(n for n in self.samples if n not in self._order),
        ]
        series = [Series(name, self._units[name], tuple(self.samples[name])) for name in names]
        state = FINISHED if self.finished else "unfinished: stopped before its end; the same call continues it"
        return record_here(
            self._kind,
            [*series, *self._derived(series)],
            date=self._date,
            seed=self._seed,
            command=self._command,
            parameters={**self._settings, **self.notes, STATE: state, _SPENT: round(self.spent_s(), 1)},
        )
