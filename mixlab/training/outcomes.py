"""How a training went, from the records of its steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mixlab.training.step_records import StepRecord


def outcome(records: Sequence[StepRecord]) -> str:
    """Returns one line on how a training went: `final` loss and accuracy, skipped steps, and whether it diverged.

    Args:
        records: The record of each step.

    Raises:
        TypeError: If `records` is not a sequence.
    """
    _require_records("outcome", records)
    if not len(records):
        return "no steps"
    skipped = sum(record.skipped for record in records)
    note = f", {skipped} of {len(records)} steps skipped" if skipped else ""
    born = first_non_finite(records)
    if born is not None:
        return f"diverged: the loss is {records[born].loss} from step {records[born].step} on{note}"
    loss, accuracy = final(records)
    taken = "1 step" if len(records) == 1 else f"{len(records)} steps"
    return f"loss {loss:.3g}, accuracy {accuracy:.1%} after {taken}{note}"


def final(records: Sequence[StepRecord]) -> tuple[float, float]:
    """Returns the mean (loss, accuracy) on the training batches of the last tenth of the steps.

    Args:
        records: The record of each step, in order; at least one.

    Raises:
        ValueError: If there is no step.
    """
    _require_records("final", records)
    if not len(records):
        raise ValueError("final: there are no steps to average over; train first")
    last = records[-max(1, len(records) // 10) :]
    return sum(record.loss for record in last) / len(last), sum(record.accuracy for record in last) / len(last)


def first_non_finite(records: Sequence[StepRecord]) -> int | None:
    """Returns the index of the record from which on every loss is inf or NaN; None if the last loss is finite.

    Args:
        records: The record of each step.
    """
    _require_records("first_non_finite", records)
    born = None
    for index in range(len(records) - 1, -1, -1):
        if math.isfinite(records[index].loss):
            break
        born = index
    return born


def _require_records(what: str, records: object) -> None:
    if not isinstance(records, Sequence):
        raise TypeError(f"{what}: records must be a list of StepRecord, got {type(records).__name__}")
