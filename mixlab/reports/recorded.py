"""Records of `mixlab measure` as tables: training, memory, products, emulation; and two records side by side."""

from __future__ import annotations

import math

from mixlab.measure import Record, RecordComparison, Series, differences
from mixlab.measure.resuming import PREDICTED
from mixlab.tables import NotedTable


class TrainingTable(NotedTable):
    """Speed, memory and loss of each recipe, eager and compiled.

    Args:
        record: From `mixlab measure train`.

    Raises:
        ValueError: If the record is of another kind.
    """

    def __init__(self, record: Record) -> None:
        _require(record, "train")
        values, about = {series.name: series for series in record.series}, record.parameters
        cases = [name.removesuffix(", tokens/s") for name in values if name.endswith(", tokens/s")]
        told = {case: str(note) for case, note in about.items() if case.endswith((" eager", " compiled"))}
        rows = []
        for case in cases:
            speed, base = (values[f"{one}, tokens/s"].median for one in (case, cases[0]))
            memory, mfu, loss = (values.get(f"{case}, {what}") for what in ("peak memory", "MFU", "loss"))
            last = "NaN" if told.get(case, "").startswith("diverged") else f"{loss.samples[-1]:.4f}" if loss else "-"
            rows.append(
                (
                    case,
                    f"{speed:,.0f}",
                    f"{speed / base:.2f}",
                    f"{memory.median / 2**30:.2f}" if memory else "-",
                    f"{mfu.median:.1%}" if mfu else "-",
                    last,
                )
            )
        size = f"a GPT of {about['parameters']:,} parameters, {about['batch']} x {about['context']} tokens per step"
        notes = [f"{case}: {note.removeprefix('diverged: ')}" for case, note in told.items()]
        steps = int(about["steps"]) + int(about["warm-up steps"])
        super().__init__(
            ("recipe", "tokens/s", "ratio to the first", "peak, GiB", "MFU", f"last of {steps} losses"),
            rows,
            [f"{record.summary}, not run here", size, *notes],
        )


class MemoryTable(NotedTable):
    """Measured peaks of memory beside predicted ones.

    Args:
        record: From `mixlab measure memory`.

    Raises:
        ValueError: If the record is of another kind.
    """

    def __init__(self, record: Record) -> None:
        _require(record, "memory")
        rows = []
        for case, difference in differences(record).items():
            predicted = record[f"{case}, predicted peak"].median
            rows.append(
                (
                    case,
                    f"{predicted / (1 + difference) / 2**20:,.2f}",
                    f"{predicted / 2**20:,.2f}",
                    f"{difference:+.2%}",
                )
            )
        columns = ("training", "measured peak, MiB", "predicted", "off by")
        super().__init__(columns, rows, [f"{record.summary}, not run here; without the workspaces of cuBLAS"])


class MatmulTable(NotedTable):
    """Measured speeds of products and memory-bound ops, beside the prediction of the record's own roofline.

    Args:
        record: From `mixlab measure matmul`.

    Raises:
        ValueError: If the record is of another kind.
    """

    def __init__(self, record: Record) -> None:
        _require(record, "matmul")
        predicted = {one.name: one.median for one in record.series if one.name.endswith(PREDICTED)}
        rows = []
        for series in record.series:
            if series.name in predicted:
                continue
            foretold = predicted.get(f"{series.name}{PREDICTED}")
            off = f"{foretold / series.median - 1:+.0%}" if foretold and series.median else "-"
            rows.append(
                (
                    series.name,
                    *(_speed(series.median), series.unit, _spread(series), str(len(series.samples))),
                    *(_speed(foretold) if foretold else "-", off),
                )
            )
        notes = [f"{name}: {value}" for name, value in record.parameters.items() if name.startswith("left out")]
        state = str(record.parameters.get("state", "finished"))
        columns = ("what", "median", "unit", "quartiles", "samples", "roofline", "off by")
        super().__init__(columns, rows, [f"{record.summary}, not run here", *([state] * (state != "finished")), *notes])


class ComparedRecordsTable(NotedTable):
    """Two records of one kind, series by series.

    Args:
        comparison: From `mixlab.measure.compare_records`.
    """

    def __init__(self, comparison: RecordComparison) -> None:
        rows = []
        for one in comparison.both:
            numbers = (text for series in (one.first, one.second) for text in (_speed(series.median), _spread(series)))
            rows.append((f"{one.name} ({one.unit})", *numbers, f"{one.ratio:.3g}" if one.ratio is not None else "-"))
        notes = [f"A: {comparison.first.summary}", f"B: {comparison.second.summary}"]
        notes += [f"{name}: {a or 'not said'} | {b or 'not said'}" for name, (a, b) in comparison.apart.items()]
        for who, alone in (("A", comparison.only_first), ("B", comparison.only_second)):
            notes += [f"only in {who}: {', '.join(alone)}"] if alone else []
        if not rows:
            notes.insert(0, "no series is in both")
        super().__init__(("series", "A", "quartiles of A", "B", "quartiles of B", "B / A"), rows, notes)


def _speed(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _spread(series: Series) -> str:
    low, high = series.quartiles
    return f"{_speed(low)} to {_speed(high)}"


class EmulationTable(NotedTable):
    """The share of elements of each op that are equal under emulation and on a GPU, forward and backward.

    Args:
        record: From `mixlab measure emulation`.

    Raises:
        ValueError: If the record is of another kind.
    """

    def __init__(self, record: Record) -> None:
        _require(record, "emulation")
        values = {series.name: series.median for series in record.series}
        formats = str(record.parameters["formats"]).split(",")
        ways = [(fmt, direction) for fmt in formats for direction in ("forward", "backward")]
        names = [name.removesuffix(", equal").split(" ", 1)[1].rsplit(" ", 1)[0] for name in values if "equal" in name]
        rows = []
        for op in dict.fromkeys(names):
            shares = (values[f"{fmt} {op} {direction}, equal"] for fmt, direction in ways)
            worst = max(
                values[f"{fmt} {op} {direction}, largest difference / largest value"] for fmt, direction in ways
            )
            rows.append((op, *(_share(share) for share in shares), f"{worst:.0e}" if worst else "0"))
        columns = (
            "equal elements",
            *(f"{fmt} {direction}" for fmt, direction in ways),
            "largest difference / largest value",
        )
        super().__init__(columns, rows, [f"{record.summary}, not run here; emulated on that machine's CPU"])


def _share(share: float) -> str:
    """Returns a percentage, rounded down: nearly all never reads as all."""
    return "all" if share == 1 else f"{math.floor(1e4 * share) / 100:.2f} %"


def _require(record: Record, kind: str) -> None:
    if record.kind != kind:
        raise ValueError(f"the record must be of kind {kind}, got {record.kind!r}")
