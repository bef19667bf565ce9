"""The record of a training step, and its form on disk: one line of strict JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NoReturn

from mixlab.arguments import require_whole

_NON_FINITE = ("nan", "inf", "-inf")  # JSON has no numbers for them


@dataclass(frozen=True)
class StepRecord:
    """One step of a training.

    Attributes:
        step: Counted from 0.
        loss: The task's loss before the step, without loss weight or loss scale.
        metric: The task's metric on the training batch, such as the accuracy; None if it has none.
        scale: The loss scale during the step.
        found_inf: Whether a gradient held inf or NaN.
        skipped: Whether the optimizer skipped the step because of that.
        grad_norm: The Euclidean norm of all gradients as the optimizer sees them, unscaled.
        seconds: Wall time of the step, without probing.
        underflow: For each layer, the fraction of weight-gradient elements that are zero, among those that are non-zero
            in float32 at the same weights and batch. Empty if the step was not probed.
        metric_name: What the metric is; "" if there is none.
    """

    step: int
    loss: float
    metric: float | None
    scale: float
    found_inf: bool
    skipped: bool
    grad_norm: float
    seconds: float
    underflow: dict[str, float] = field(default_factory=dict)
    metric_name: str = "accuracy"


def encode(record: StepRecord) -> bytes:
    """Returns a record as one line. Floats that are not finite become the strings "nan", "inf" and "-inf"."""
    values = asdict(record)
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            values[name] = str(value)
    return json.dumps(values, allow_nan=False).encode() + b"\n"


def decode(line: bytes) -> StepRecord:
    """Reads a record from one line. In older runs the metric is the accuracy, under that name.

    Raises:
        ValueError: If the line is not a record. The message says what is wrong.
    """
    try:
        values = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON ({error})") from None
    if isinstance(values, dict) and "accuracy" in values and not _METRIC & values.keys():
        values["metric"] = values.pop("accuracy")
    if not isinstance(values, dict) or not _REQUIRED <= values.keys() <= _READERS.keys():
        raise ValueError(f"it must be an object with {', '.join(_READERS)}")
    return StepRecord(**{name: _READERS[name](name, value) for name, value in values.items()})


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not strict JSON")


def _step(name: str, value: Any) -> int:
    require_whole(name, value, 0)
    return int(value)


def _number(name: str, value: Any) -> float:
    if type(value) not in (int, float) and value not in _NON_FINITE:
        raise ValueError(f"{name} must be a number or one of {', '.join(_NON_FINITE)}, got {value!r:.60}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} is beyond the range of a float") from None


def _metric(name: str, value: Any) -> float | None:
    return None if value is None else _number(name, value)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text, got {value!r:.60}")
    return value


def _truth(name: str, value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError(f"{name} must be true or false, got {value!r:.60}")
    return value


def _fractions(name: str, value: Any) -> dict[str, float]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be an object of fractions by layer, got {value!r:.60}")
    return {layer: _number(f"{name} of {layer}", fraction) for layer, fraction in value.items()}


_KINDS: dict[str, Callable[[str, Any], Any]] = {
    "int": _step,
    "float": _number,
    "float | None": _metric,
    "bool": _truth,
    "str": _text,
    "dict[str, float]": _fractions,
}
_READERS = {field.name: _KINDS[str(field.type)] for field in fields(StepRecord)}
_REQUIRED = _READERS.keys() - {"underflow", "metric_name"}
_METRIC = {"metric", "metric_name"}
