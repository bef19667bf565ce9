"""How a training went, from the records of its steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mixlab.training.step_records import StepRecord


def outcome(records: Sequence[StepRecord]) -> str:
    """Returns one line on how a training went: `final` loss and metric, skipped steps, and whether it diverged.

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
    loss, metric = final(records)
    measured = f", {words}" if (words := metric_words(records[-1].metric_name, metric)) else ""
    taken = "1 step" if len(records) == 1 else f"{len(records)} steps"
    return f"loss {loss:.3g}{measured} after {taken}{note}"


def final(records: Sequence[StepRecord]) -> tuple[float, float | None]:
    """Returns the mean (loss, metric) on the training batches of the last tenth of the steps.

    The metric is None if the task has none; steps without one do not count.

    Args:
        records: The record of each step, in order; at least one.

    Raises:
        ValueError: If there is no step.
    """
    _require_records("final", records)
    if not len(records):
        raise ValueError("final: there are no steps to average over; train first")
    last = records[-max(1, len(records) // 10) :]
    metrics = [record.metric for record in last if record.metric is not None]
    return sum(record.loss for record in last) / len(last), sum(metrics) / len(metrics) if metrics else None


def metric_words(name: str, value: float | None) -> str:
    """Returns a metric's name and value, an accuracy as a percentage; "" for no metric.

    >>> metric_words("accuracy", 0.5), metric_words("l1 loss", 0.1234), metric_words("", None)
    ('accuracy 50.0%', 'l1 loss 0.123', '')

    Args:
        name: The metric's name.
        value: Its value; None for none.
    """
    if value is None:
        return ""
    return f"{name} {value:.1%}" if name == "accuracy" and math.isfinite(value) else f"{name} {value:.3g}"


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
