"""Trainings in words and as a table: one's progress, its outcome, and several side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from mixlab.powers import power_of_two
from mixlab.tables import html_table, text_table
from mixlab.training import StepRecord, final, first_non_finite, metric_words

Runs = Mapping[str, Sequence[StepRecord]]

_COLUMNS = ("run", "loss", "metric", "skipped", "largest underflow", "ms/step")


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
    """Runs in rows: loss and metric at the end, skipped steps, largest underflow, time per step.

    The metric's column bears its name, such as "accuracy"; where runs have different ones, each row names its own. A
    column that has nothing to say of any run is left out: the metric if no task has one, skipped steps if no loss was
    scaled, underflow if no step was probed.

    Args:
        runs: The records of each run, by label.

    Raises:
        ValueError: If there are no runs, or one has no steps.
    """

    def __init__(self, runs: Runs) -> None:
        require_runs(runs)
        every = [record for records in runs.values() for record in records]
        metrics = metric_names(runs)
        left_out = {
            *(() if metrics else ("metric",)),
            *(() if any(record.skipped or record.scale != 1 for record in every) else ("skipped",)),
            *(() if any(record.underflow for record in every) else ("largest underflow",)),
        }
        kept = [place for place, column in enumerate(_COLUMNS) if column not in left_out]
        columns = (*_COLUMNS[:2], metrics[0] if len(metrics) == 1 else _COLUMNS[2], *_COLUMNS[3:])
        self.columns = tuple(columns[place] for place in kept)
        rows = [_row(label, records, named=len(metrics) > 1) for label, records in runs.items()]
        self.rows = [tuple(row[place] for place in kept) for row in rows]

    def __repr__(self) -> str:
        return text_table(self.columns, self.rows)

    def _repr_html_(self) -> str:
        return html_table(self.columns, self.rows, row_heads=True)


def metric_names(runs: Runs) -> list[str]:
    """Returns the names of the metrics that the runs have, each once."""
    each = (record.metric_name for records in runs.values() for record in records if record.metric is not None)
    return list(dict.fromkeys(each))


def _row(label: str, records: Sequence[StepRecord], *, named: bool) -> tuple[str, ...]:
    loss, metric = final(records)
    name = records[-1].metric_name
    words = metric_words(name, metric) or "none"
    lost = [max(record.underflow.values()) for record in records if record.underflow]
    return (
        label,
        diverged(records) or f"{loss:.3g}",
        words if named else words.removeprefix(f"{name} "),
        f"{sum(record.skipped for record in records)} of {len(records)}",
        f"{max(lost):.2%}" if lost else "not probed",
        f"{1e3 * float(np.median([record.seconds for record in records])):.1f}",
    )


def require_runs(runs: Runs) -> None:
    empty = [label for label, records in runs.items() if not records]
    if not runs or empty:
        raise ValueError(f"no steps to show{': ' + ', '.join(empty) if empty else ''}; train the run first")
