"""Records as the tables that `mixlab measure` prints."""

from __future__ import annotations

from collections.abc import Callable

from rich.table import Table

from mixlab.measure import Record, RecordComparison, differences, median_and_worst
from mixlab.reports import ComparedRecordsTable, MatmulTable, MemoryTable, TrainingTable
from mixlab.tables import NotedTable


def _new_table(record: Record, *columns: str) -> Table:
    parameters = ", ".join(f"{name} {value}" for name, value in record.parameters.items() if value != "")
    table = Table(title=record.summary, caption=parameters, box=None, title_justify="left", caption_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    return table


def cast_table(record: Record) -> Table:
    copy = record["copy_"].median
    table = _new_table(record, "path", "GB/s", "quartiles", "time / copy_")
    for series in record.series:
        low, high = series.quartiles
        table.add_row(series.name, f"{series.median:.3g}", f"{low:.3g} to {high:.3g}", f"{copy / series.median:.2f}")
    return table


def train_table(record: Record) -> Table:
    return _filled(record, TrainingTable(record))


def emulation_table(record: Record) -> Table:
    values = {series.name: series.samples[0] for series in record.series}
    table = _new_table(record, "op", "equal", "worst, ulp", "worst / largest value")
    for name in (name.removesuffix(", equal") for name in values if name.endswith(", equal")):
        worst = f"{name}, largest difference"
        table.add_row(
            name, f"{values[f'{name}, equal']:.2%}", f"{values[worst]:.3g}", f"{values[f'{worst} / largest value']:.1e}"
        )
    return table


def states_table(record: Record) -> Table:
    values = {series.name: series for series in record.series}
    table = _new_table(record, "setting", "loss", "lowest to highest", "accuracy")
    for case in (name.removesuffix(", loss") for name in values if name.endswith(", loss")):
        loss, accuracy = values[f"{case}, loss"], values[f"{case}, accuracy"]
        spread = f"{min(loss.samples):.3g} to {max(loss.samples):.3g}"
        table.add_row(case, f"{loss.median:.3g}", spread, f"{accuracy.median:.1%}")
    return table


def memory_table(record: Record) -> Table:
    table = _filled(record, MemoryTable(record))
    apart = differences(record)
    for word, difference in zip(("median", "worst"), median_and_worst(apart) if apart else (), strict=False):
        table.add_row(word, "", "", f"{difference:.2%}")
    return table


def _filled(record: Record, shown: NotedTable) -> Table:
    table = _new_table(record, *shown.columns)
    table.columns[0].no_wrap = False
    for row in shown.rows:
        table.add_row(*row)
    return table


def optimizer_table(record: Record) -> Table:
    values = {series.name: series for series in record.series}
    table = _new_table(record, "AdamW", "ms", "/ fused", "state bytes", "GB/s")
    table.columns[0].no_wrap = False  # a recipe may be longer than the terminal is wide
    for case in (name.removesuffix(", step") for name in values if name.endswith(", step")):
        step, ratio, states, speed = (values[f"{case}, {what}"].median for what in ("step", "ratio", "states", "speed"))
        table.add_row(case, f"{1e3 * step:.3g}", f"{ratio:.2f}", f"{states:.4g}", f"{speed:.3g}")
    table.add_row("copy_", "", "", "", f"{values['copy_'].median:.3g}")
    return table


def matmul_table(record: Record) -> Table:
    return _filled(record, MatmulTable(record))


def compared_table(comparison: RecordComparison) -> Table:
    shown = ComparedRecordsTable(comparison)
    table = Table(caption="\n".join(shown.notes), box=None, caption_justify="left")
    for number, column in enumerate(shown.columns):
        table.add_column(column, justify="right" if number else "left")
    for row in shown.rows:
        table.add_row(*row)
    return table


TABLES: dict[str, Callable[[Record], Table]] = {
    "cast": cast_table,
    "matmul": matmul_table,
    "train": train_table,
    "emulation": emulation_table,
    "optimizer": optimizer_table,
    "states": states_table,
    "memory": memory_table,
}
