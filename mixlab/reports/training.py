"""Trainings in words and as a table: one's progress, its outcome, and several side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from mixlab.powers import power_of_two
from mixlab.tables import html_table, text_table
from mixlab.training import StepRecord, final, first_non_finite

Runs = Mapping[str, Sequence[StepRecord]]

_COLUMNS = ("run", "loss", "accuracy", "skipped", "largest underflow", "ms/step")


def progress_line(records: Sequence[StepRecord], steps: int) -> str:
    """Returns the progress of a training: "step 120 of 300: loss 0.41, scale 2¹⁴, 3 steps skipped, 85 steps/s".

    The speed is the mean over all steps but the first.

    Args:
        records: The records of the steps so far.
        steps: How many steps the training will take.
    """
    if not records:
        return f"step 0 of {steps}"
    last = records[-1]
    skipped = sum(record.skipped for record in records)
    timed = records[1:] or records  # the first step warms up
    rate = len(timed) / max(sum(record.seconds for record in timed), 1e-9)
    scale = f", scale {power_of_two(last.scale)}" if last.scale != 1 else ""
    plural = "step" if skipped == 1 else "steps"
    lost = f", {skipped} {plural} skipped" if skipped else ""
    return f"step {last.step + 1} of {steps}: loss {last.loss:.3g}{scale}{lost}, {rate:.0f} steps/s"


def diverged(records: Sequence[StepRecord]) -> str:
    """Returns words such as "NaN from step 1 on" if the loss is not finite at the end, else "".

    Args:
        records: The run's records, step by step.
    """
    born = first_non_finite(records)
    if born is None:
        return ""
    return f"{'NaN' if math.isnan(records[born].loss) else records[born].loss} from step {records[born].step} on"


class ComparisonTable:
    """Runs in rows: loss and accuracy at the end, skipped steps, largest underflow, time per step.

    A column that has nothing to say of any run is left out: skipped steps if no loss was scaled, underflow if no step
    was probed.

    Args:
        runs: The records of each run, by label.

    Raises:
        ValueError: If there are no runs, or one has no steps.
    """

    def __init__(self, runs: Runs) -> None:
        require_runs(runs)
        every = [record for records in runs.values() for record in records]
        left_out = {
            *(() if any(record.skipped or record.scale != 1 for record in every) else ("skipped",)),
            *(() if any(record.underflow for record in every) else ("largest underflow",)),
        }
        kept = [place for place, column in enumerate(_COLUMNS) if column not in left_out]
        self.columns = tuple(_COLUMNS[place] for place in kept)
        rows = [_row(label, records) for label, records in runs.items()]
        self.rows = [tuple(row[place] for place in kept) for row in rows]

    def __repr__(self) -> str:
        return text_table(self.columns, self.rows)

    def _repr_html_(self) -> str:
        return html_table(self.columns, self.rows, row_heads=True)


def _row(label: str, records: Sequence[StepRecord]) -> tuple[str, ...]:
    loss, accuracy = final(records)
    lost = [max(record.underflow.values()) for record in records if record.underflow]
    return (
        label,
        diverged(records) or f"{loss:.3g}",
        f"{accuracy:.1%}",
        f"{sum(record.skipped for record in records)} of {len(records)}",
        f"{max(lost):.2%}" if lost else "not probed",
        f"{1e3 * float(np.median([record.seconds for record in records])):.1f}",
    )


def require_runs(runs: Runs) -> None:
    empty = [label for label, records in runs.items() if not records]
    if not runs or empty:
        raise ValueError(f"no steps to show{': ' + ', '.join(empty) if empty else ''}; train the run first")
