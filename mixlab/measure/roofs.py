"""Rooflines of the machine that a record of products was measured on, and what they predict for each of its cases.

A case that computes F FLOP, reads R bytes and writes W bytes takes at least

    max(F / peak, R / read + W / write)   seconds.

The peak of a format is the median speed of the record's largest product that is square, or nearly; `read` and `write`
are the record's own bandwidths. Reading and writing are counted apart because a CPU reads a line of memory before it
writes to it, which halves the speed of writing. Bytes are the compulsory ones: each input once, each result once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from mixlab.matmul import Roof
from mixlab.measure.matmul_cases import OPS, STORED, Case, OpCase, ProductCase
from mixlab.measure.record import Record, Series
from mixlab.measure.requests import parsed_shape
from mixlab.measure.resuming import PREDICTED


def roofs_here(record: Record) -> tuple[Roof, ...]:
    """Returns the measured roofs, one for each format; their bandwidth is the faster one of reading and copying.

    Args:
        record: From `measure_matmul`.

    Returns:
        () if bandwidths or products are missing, as in a record that was stopped early.

    Raises:
        ValueError: If the record is of another kind.
    """
    if record.kind != "matmul":
        raise ValueError(f"roofs_here: the record must be of kind matmul, got {record.kind!r}")
    speeds = _medians(record.series)
    bandwidth = max(speeds.get("read", 0.0), speeds.get("copy", 0.0))
    if not bandwidth:
        return ()
    on_cpu = record.parameters.get("device") == "cpu"
    machine = record.machine["cpu"] if on_cpu else record.machine["gpus"].partition(",")[0]
    return tuple(
        Roof(machine, fmt, peak * 1e9, bandwidth * 1e9, f"measured {record.date[:10]}, {name}")
        for fmt, (name, peak) in _peaks(speeds).items()
    )


def predicted_series(series: Sequence[Series]) -> tuple[Series, ...]:
    """Returns "NAME, predicted" for each measured case, from the peaks and bandwidths among the series.

    Args:
        series: Measured ones, named as `measure_matmul` names them.

    Returns:
        Series of one value each; none for the bandwidths themselves, nor where a peak or bandwidth is missing.
    """
    speeds = _medians(series)
    return tuple(Series(f"{name}{PREDICTED}", case.unit, (value,)) for name, case, value in _predictions(speeds))


def _predictions(speeds: dict[str, float]) -> Iterator[tuple[str, Case, float]]:
    peaks = _peaks(speeds)
    if "read" not in speeds or "write" not in speeds:
        return
    for name in speeds:
        case = case_named(name)
        if case is None or (isinstance(case, ProductCase) and case.format not in peaks):
            continue
        bytes_moved = case.read_bytes + case.written_bytes
        bandwidth = bytes_moved / (case.read_bytes / speeds["read"] + case.written_bytes / speeds["write"])
        peak = peaks[case.format][1] if isinstance(case, ProductCase) else 1.0
        seconds = Roof(name, case.format, peak * 1e9, bandwidth * 1e9).seconds(case.flops, bytes_moved)
        yield name, case, case.work / seconds


def case_named(name: str) -> Case | None:
    """Returns the case that a series measures, or None for bandwidths and what `measure_matmul` does not name so.

    >>> case_named("bf16 8x64x64x32").flops, case_named("read")
    (2097152, None)

    Args:
        name: Name of a series.
    """
    words = name.split(" ")
    if words[0] in STORED and len(words) == 2 and "x" in words[1]:
        try:
            batch, m, n, k = parsed_shape(words[1])
        except ValueError:  # another program's record
            return None
        return ProductCase(words[0], m, n, k, batch)
    if words[0] in OPS and len(words) == 3 and words[1] in STORED and re.fullmatch(r"[1-9]\d{0,17}", words[2]):
        return OpCase(words[0], words[1], int(words[2]))
    return None


def _medians(series: Sequence[Series]) -> dict[str, float]:
    return {one.name: one.median for one in series if one.median > 0 and not one.name.endswith(PREDICTED)}


def _peaks(speeds: dict[str, float]) -> dict[str, tuple[str, float]]:
    """Returns name and speed of each format's largest product whose sizes differ by at most a factor of 2."""
    largest: dict[str, tuple[int, str]] = {}
    for name in speeds:
        case = case_named(name)
        if (
            isinstance(case, ProductCase)
            and not case.batch
            and max(case.m, case.n, case.k) <= 2 * min(case.m, case.n, case.k)
        ):
            largest[case.format] = max(largest.get(case.format, (0, "")), (case.flops, name))
    return {fmt: (name, speeds[name]) for fmt, (_, name) in largest.items()}
