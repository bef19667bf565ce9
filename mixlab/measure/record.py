"""Measurements as files: what was measured, where and when, with every sample. `records/` has the shipped ones."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from mixlab.files import replacing
from mixlab.machine import describe

SCHEMA = 1


@dataclass(frozen=True)
class Series:
    """Repeated measurements of one thing.

    Attributes:
        name: What was measured.
        unit: Unit of the samples, such as "GB/s".
        samples: Finite numbers in the order in which they were taken; at least one.
    """

    name: str
    unit: str
    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle sample, or the mean of the two in the middle."""
        return float(np.median(self.samples))

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third quartile of the samples."""
        low, high = np.quantile(self.samples, [0.25, 0.75])
        return float(low), float(high)


@dataclass(frozen=True)
class Record:
    """One measurement of one kind on one machine. `record["name"]` is the series of that name.

    Attributes:
        kind: Its name under `mixlab measure`, such as "cast".
        machine: The machine, as text under "cpu", "cores", "gpus", "python", "torch", "numpy" and "mixlab".
        date: Start of the measurement in UTC, ISO 8601.
        seed: Seed of the random inputs.
        command: Command line, or name of the function called.
        parameters: Settings and remarks by name.
        series: The measured numbers.
        schema: Version of the file format.
    """

    kind: str
    machine: Mapping[str, str]
    date: str
    seed: int
    command: str
    parameters: Mapping[str, str | int | float]
    series: tuple[Series, ...]
    schema: int = field(default=SCHEMA)

    @property
    def summary(self) -> str:
        """One line to put under a chart: machine, versions, date and seed."""
        gpus = self.machine["gpus"] or "no GPU"
        versions = f"Python {self.machine['python']}, torch {self.machine['torch']}"
        return f"recorded on {self.machine['cpu']}, {gpus}; {versions}; {self.date[:10]}, seed {self.seed}"

    def __getitem__(self, name: str) -> Series:
        found = [series for series in self.series if series.name == name]
        if not found:
            raise KeyError(f"no series {name!r}; there are {', '.join(series.name for series in self.series)}")
        return found[0]

    def save(self, path: Path | str) -> None:
        """Writes the record as JSON, whole or not at all.

        Args:
            path: File to write; an existing one is replaced.

        Raises:
            OSError: If the file cannot be written.
        """
        with replacing(Path(path)) as file:
            file.write(self.to_json().encode())

    def to_json(self) -> str:
        """Returns the record as JSON, as `save` writes it."""
        return json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"

    @classmethod
    def load(cls, path: Path | str) -> Record:
        """Reads a record from a file.

        Args:
            path: JSON file that `save` wrote.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If it holds anything but a record; the message names the field.
        """
        try:
            content = json.loads(Path(path).read_text())
        except ValueError as error:
            raise ValueError(f"{path} is not a record: {error}") from error
        try:
            return _record(content)
        except ValueError as error:
            raise ValueError(f"{path} is not a record: {error}") from None


def shipped(kind: str) -> tuple[Record, ...]:
    """Returns the records of one kind that come with mixlab, sorted by file name.

    >>> [record.machine["gpus"][:11] for record in shipped("memory")]
    ['', 'NVIDIA H100']

    Args:
        kind: "cast", "emulation", "matmul", "memory", "optimizer", "states" or "train".
    """
    folder = resources.files("mixlab") / "measure" / "records"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".json"))
    with resources.as_file(folder) as path:
        records = [Record.load(path / name) for name in names]
    return tuple(record for record in records if record.kind == kind)


def record_here(
    kind: str,
    series: Iterable[Series],
    *,
    date: str,
    seed: int,
    command: str,
    parameters: Mapping[str, str | int | float],
) -> Record:
    """Returns the record of a measurement that this process took."""
    return Record(kind, this_machine(), date, seed, command, parameters, tuple(series))


def this_machine() -> dict[str, str]:
    """Returns a record's description of the machine that runs this process."""
    here = describe()
    return {**{name: str(value) for name, value in asdict(here).items()}, "gpus": "; ".join(map(str, here.gpus))}


def now() -> str:
    """Returns the time in UTC, to the second, in the form that records use."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _record(content: Any) -> Record:
    _require(isinstance(content, dict), "the file", "an object", content)
    names = {"kind", "machine", "date", "seed", "command", "parameters", "series", "schema"}
    _require(content.keys() == names, "the file", f"an object with {', '.join(sorted(names))}", sorted(content))
    _require(content["schema"] == SCHEMA, "schema", str(SCHEMA), content["schema"])
    for name in ("kind", "command"):
        _require(isinstance(content[name], str) and content[name] != "", name, "text", content[name])
    _require(_is_date(content["date"]), "date", "an ISO 8601 time such as 2026-01-31T12:00:00+00:00", content["date"])
    _require(type(content["seed"]) is int, "seed", "a whole number", content["seed"])
    machine, parameters = content["machine"], content["parameters"]
    facts = {"cpu", "cores", "gpus", "python", "torch", "numpy", "mixlab"}
    told = isinstance(machine, dict) and facts <= machine.keys() and all(isinstance(v, str) for v in machine.values())
    _require(told, "machine", f"an object with the texts {', '.join(sorted(facts))}", machine)
    plain = isinstance(parameters, dict) and all(isinstance(v, str | int | float) for v in parameters.values())
    _require(plain, "parameters", "an object of texts and numbers", parameters)
    _require(isinstance(content["series"], list), "series", "a list", content["series"])
    series = tuple(_series(index, entry) for index, entry in enumerate(content["series"]))
    return Record(**{**content, "series": series})


def _series(index: int, content: Any) -> Series:
    where = f"series[{index}]"
    shaped = isinstance(content, dict) and content.keys() == {"name", "unit", "samples"}
    _require(shaped, where, "an object with name, unit, samples", content)
    for name in ("name", "unit"):
        _require(isinstance(content[name], str), f"{where}.{name}", "text", content[name])
    samples = content["samples"]
    numbers = isinstance(samples, list) and len(samples) > 0 and all(type(v) in (int, float) for v in samples)
    finite = numbers and all(map(math.isfinite, samples))
    _require(finite, f"{where}.samples", "a list of at least one finite number", samples)
    return Series(content["name"], content["unit"], tuple(map(float, samples)))


def _is_date(text: Any) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except (TypeError, ValueError):
        return False


def _require(fulfilled: bool, what: str, allowed: str, came: Any) -> None:
    if not fulfilled:
        raise ValueError(f"{what} must be {allowed}, got {came!r}")
