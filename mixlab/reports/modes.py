"""The comparison of training modes as a table: one column per mode, every cell measured or recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mixlab.experiments import ModeResult
from mixlab.formats import BF16, FP16, TF32
from mixlab.measure import Record
from mixlab.recipes import Recipe
from mixlab.tables import NotedTable


class ModeTable(NotedTable):
    """Speed, memory and stability of several modes side by side; the first is the baseline.

    Args:
        results: From `measure_mode`, by label.
        machine: The machine on which they were measured, in one line.
        records: From `mixlab measure train`, on any machine; each adds a row of speeds.

    Raises:
        ValueError: If there are no results.
    """

    def __init__(self, results: Mapping[str, ModeResult], machine: str, records: Sequence[Record] = ()) -> None:
        if not results:
            raise ValueError("ModeTable: no results; measure_mode(task, recipe, steps=...) makes one")
        base = next(iter(results.values()))
        shown = list(results.values())
        rows = [
            ("speed here, native", *(f"{base.step_s / r.step_s:.2f} ×, {1e3 * r.step_s:.1f} ms" for r in shown)),
            *(_recorded_row(record, shown) for record in records),
            ("bytes per parameter", *(f"{r.ledger.bytes_per_parameter:.3g}" for r in shown)),
            ("memory with activations", *(f"{r.ledger.bytes / base.ledger.bytes:.2f} ×" for r in shown)),
            ("runs that stay finite", *(f"{r.finite} of {len(r.runs)}" for r in shown)),
            ("loss at the end", *(_loss(r) for r in shown)),
            ("steps skipped", *(f"{r.skipped:.1%}" for r in shown)),
            ("hardware", *(hardware(r.recipe) for r in shown)),
        ]
        size, runs = f"{base.ledger.task}, {base.ledger.numel:,} parameters", base.runs
        notes = [
            f"{size}, {len(runs[0])} steps, {len(runs)} seeds; measured on {machine}",
            *(
                f"{record.summary}: a GPT of {record.parameters['parameters']:,} parameters, not run here"
                for record in records
            ),
        ]
        super().__init__(("", *results), rows, notes)


def hardware(recipe: Recipe) -> str:
    """Returns the hardware that makes a recipe's products fast (NVIDIA's architecture white papers, 2017 and 2020)."""
    needs = {FP16: "tensor cores from Volta", BF16: "tensor cores from Ampere", TF32: "tensor cores from Ampere"}
    return needs.get(recipe.compute, "any")


def _recorded_row(record: Record, results: Sequence[ModeResult]) -> tuple[str, ...]:
    """Returns a row of recorded speeds relative to fp32; "not recorded" for a recipe that the record lacks."""
    speeds = {series.name: series.median for series in record.series if series.unit == "tokens/s"}
    base = speeds.get("fp32 eager, tokens/s")
    cells = []
    for result in results:
        speed = speeds.get(f"{result.recipe} eager, tokens/s")
        cells.append(f"{speed / base:.2f} ×" if speed and base else "not recorded")
    return (f"speed, {_short(record)}", *cells)


def _short(record: Record) -> str:
    return f"recorded on {record.machine['gpus'] or record.machine['cpu']}"


def _loss(result: ModeResult) -> str:
    mean, spread = result.loss
    return f"{mean:.3g} ± {spread:.1g}" if result.finite else "NaN"
