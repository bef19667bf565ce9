"""Optimizers side by side, from a record of `mixlab measure optimizer`, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from mixlab.measure import Record
from mixlab.optimizers import BACKENDS
from mixlab.tables import NotedTable


class OptimizerTable(NotedTable):
    """Bytes of states and time of a step, relative to torch's fused AdamW: mixlab's optimizers, then other libraries'.

    Each row of mixlab's is a recipe, eager or compiled. The notes list optimizers that did not run on the machine.

    Args:
        record: From `mixlab measure optimizer`.
        recipes: The recipes to show, as text; None shows all.

    Raises:
        ValueError: If the record is of another kind, or lacks one of the recipes.
    """

    def __init__(self, record: Record, recipes: Sequence[str] | None = None) -> None:
        if record.kind != "optimizer":
            raise ValueError(f"OptimizerTable: the record must be of kind optimizer, got {record.kind!r}")
        cases = [one.name.removesuffix(", ratio") for one in record.series if one.name.endswith(", ratio")]
        ours = [case for case in cases if case not in BACKENDS]
        if recipes is not None:
            ours = [f"{recipe} {mode}" for recipe in recipes for mode in ("eager", "compiled")]
            ours = [case for case in ours if case in cases]
            absent = [recipe for recipe in recipes if not any(case.startswith(f"{recipe} ") for case in ours)]
            if absent:
                raise ValueError(f"OptimizerTable: the record has no {', '.join(absent)}")
        rows = [_row(record, case) for case in (*ours, *(case for case in cases if case in BACKENDS))]
        parameters = record.parameters
        size = f"{parameters['numel']:,} parameters, {parameters['threads']} threads on {parameters['device']}"
        notes = [
            f"{record.summary}, not run here",
            f"{size}; a copy runs at {_rate(record['copy_'].median)} GB/s",
            *(f"{name}: {note}" for name, note in parameters.items() if str(note).startswith("does not run here")),
        ]
        super().__init__(("AdamW", "bytes of states", "time / torch fused", "quartiles", "GB/s"), rows, notes)


def _row(record: Record, case: str) -> tuple[str, ...]:
    ratio = record[f"{case}, ratio"]
    low, high = ratio.quartiles
    kept, speed = record[f"{case}, states"].median, record[f"{case}, speed"].median
    words = f"{case}: {BACKENDS[case].stores}" if case in BACKENDS else case
    return (words, f"{kept:.4g}", f"{ratio.median:.2f} ×", f"{low:.2f} to {high:.2f}", _rate(speed))


def _rate(gb_per_s: float) -> str:
    return f"{gb_per_s:,.0f}" if gb_per_s >= 100 else f"{gb_per_s:.3g}"
