"""The comparison of training modes as a table: one column per mode, every cell measured or recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mixlab.experiments import ModeResult
from mixlab.formats import BF16, FP16, TF32
from mixlab.measure import Record
from mixlab.recipes import Recipe
from mixlab.tables import NotedTable

_SCATTER = 0.25  # of the median step time, between the quartiles; an idle machine stays below


class ModeTable(NotedTable):
    """Speed, memory and stability of several modes side by side; the first is the baseline.

    Args:
        results: From one call of `measure_modes`, by label.
        machine: The machine on which they were measured, in one line.
        records: From `mixlab measure train`, on any machine; each adds a row of speeds.

    Raises:
        ValueError: If there are no results.
    """

    def __init__(self, results: Mapping[str, ModeResult], machine: str, records: Sequence[Record] = ()) -> None:
        if not results:
            raise ValueError("ModeTable: no results; measure_modes(task, recipes, steps=...) makes them")
        base = next(iter(results.values()))
        shown = list(results.values())
        rows = [
            ("speed here, native", *(_speed(r, base) for r in shown)),
            ("time of a step, ms", *(_milliseconds(r) for r in shown)),
            *(_recorded_row(record, shown) for record in records),
            ("bytes per parameter", *(_bytes_each(r) for r in shown)),
            ("memory with activations", *(f"{r.ledger.bytes / base.ledger.bytes:.2f} ×" for r in shown)),
            ("runs that stay finite", *(f"{r.finite} of {len(r.runs)}" for r in shown)),
            ("loss at the end", *(_loss(r) for r in shown)),
            ("steps skipped", *(f"{r.skipped:.1%}" for r in shown)),
            ("hardware, by its documents", *(hardware(r.recipe) for r in shown)),
        ]
        size, runs = f"{base.ledger.task}, {base.ledger.numel:,} parameters", base.runs
        seeds, steps = _counted(len(runs), "seed"), _counted(len(runs[0]), "step")
        spread = ", and ± their standard deviation over the seeds" if len(runs) > 1 else ""
        notes = [
            f"{size}, {steps}, {seeds}; measured on {machine}",
            f"Speeds: in each of {len(base.step_s)} rounds every recipe takes a step, and the first recipe's time is "
            "divided by the others'; the median of these ratios, and the quartiles. Memory with "
            "activations: the sum of all that is kept, not a peak. Loss at the end: the mean training loss of each "
            f"run's last tenth{spread}.",
            *_scattered(results),
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
    where = record.machine["gpus"] or record.machine["cpu"]
    return f"recorded on {where.partition(',')[0]}"


def _speed(result: ModeResult, base: ModeResult) -> str:
    low, middle, high = result.times_faster_than(base)
    return f"{middle:.2f} × ({low:.2f} to {high:.2f})"


def _milliseconds(result: ModeResult) -> str:
    low, middle, high = np.quantile(result.step_s, [0.25, 0.5, 0.75])
    return f"{1e3 * middle:.1f} ({1e3 * low:.1f} to {1e3 * high:.1f})"


def _scattered(results: Mapping[str, ModeResult]) -> list[str]:
    """Returns a line that warns of step times that scatter, or nothing."""
    quartiles = {label: np.quantile(result.step_s, [0.25, 0.5, 0.75]) for label, result in results.items()}
    wide = [label for label, (low, middle, high) in quartiles.items() if high - low > _SCATTER * middle]
    if not wide:
        return []
    return [
        f"The step times of {', '.join(wide)} scatter by more than {100 * _SCATTER:.0f} %; something may have "
        "disturbed this machine. Do not read small differences; run the cell again."
    ]


def _bytes_each(result: ModeResult) -> str:
    words = f"{result.ledger.bytes_per_parameter:.3g}"
    return words if result.ledger.stepped else f"{words}: no step was taken, so nothing else is stored yet"


def _loss(result: ModeResult) -> str:
    mean, spread = result.loss
    if not result.finite:
        return "NaN"
    return f"{mean:.3g}" if spread is None else f"{mean:.3g} ± {spread:.1g}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
