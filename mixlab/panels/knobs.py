"""One control for each field of a recipe: its label, its options, and how a number in it is written."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import ipywidgets as widgets

from mixlab.loss_scaling import OnOverflow
from mixlab.loss_scaling.policies import require_scale
from mixlab.panels.base import labelled
from mixlab.panels.text_box import LABELS, WIDTH, TextBox, whole
from mixlab.recipes import COMPUTED, READERS, STATES, STORED, ScalerName, printed

SCALE_RANGE = (-24, 40)  # exponents of the slider; the box takes any scale
MOST = 10**9  # the highest whole number that a box takes

Read = Callable[[str], Any]
Take = Callable[[Any], object]
Told = Callable[[Exception | None], object]


@dataclass(frozen=True)
class Knob:
    """A field of a recipe as a reader meets it.

    Attributes:
        label: Its label.
        options: (label, value) of each choice; empty for a number.
        places: For a number: how arrow keys move it, see `TextBox`.
    """

    label: str
    options: tuple[tuple[str, Any], ...] = ()
    places: tuple[Callable[[Any], int], Callable[[int], Any]] | None = None


def _named(values: Any) -> tuple[tuple[str, Any], ...]:
    return tuple((str(value), value) for value in values)


_WHOLE = (int, int)
_POWER = (lambda scale: round(math.log2(scale)), lambda place: 2.0**place)

FIELDS: dict[str, Knob] = {
    "weights": Knob("Weights", _named(STORED)),
    "master_weights": Knob("Master weights", (("none", False), ("in fp32", True))),
    "compute": Knob("Products", _named(COMPUTED)),
    "gradients": Knob("Gradients", _named(STORED)),
    "exp_avg": Knob("First moment m", _named(STATES)),
    "exp_avg_sq": Knob("Second moment v", _named(STATES)),
    "update": Knob(
        "Update rounded",
        (
            ("to nearest", "nearest_even"),
            ("stochastically", "stochastic"),
            ("with a Kahan sum", "kahan"),
            ("after each operation", "per_op"),
        ),
    ),
    "state_rounding": Knob("Moments rounded", (("to nearest", "nearest_even"), ("stochastically", "stochastic"))),
    "block_size": Knob("Block size", places=_WHOLE),
    "scaler": Knob("Loss scaler", _named(get_args(ScalerName))),
    "scale": Knob("Loss scale", places=_POWER),
    "growth_interval": Knob("Growth interval", places=_WHOLE),
    "growth_factor": Knob("Growth factor"),
    "backoff_factor": Knob("Backoff factor"),
    "min_scale": Knob("Lowest scale", places=_POWER),
    "max_scale": Knob("Highest scale", places=_POWER),
    "hysteresis": Knob("Hysteresis", places=_WHOLE),
    "consecutive_hysteresis": Knob("Hysteresis restored", (("by growth", False), ("by a clean step", True))),
    "on_overflow": Knob("On overflow", (("skip the step", "skip"), ("take zeros", "zero"))),
}
assert get_args(OnOverflow) == ("skip", "zero")

SIMPLE = ("scaler", "scale")
MORE = {
    "Formats": ("weights", "master_weights", "compute", "gradients", "exp_avg", "exp_avg_sq"),
    "Rounding": ("update", "state_rounding", "block_size"),
    "Loss scaler": (
        *("growth_interval", "growth_factor", "backoff_factor", "min_scale", "max_scale"),
        *("hysteresis", "consecutive_hysteresis", "on_overflow"),
    ),
}
STATES_AND_WEIGHTS = ("exp_avg", "exp_avg_sq", "state_rounding", "weights", "master_weights", "update")

_POWERS = ("scale", "min_scale", "max_scale")


def written(field: str, value: Any) -> str:
    """Returns the text of a field's value, with powers of two as such.

    >>> written("scale", 65536.0), written("scale", 1000.0), written("exp_avg_sq", "dynamic8")
    ('2^16', '1000', 'dynamic8')

    Args:
        field: A field of `Recipe`.
        value: Its value.
    """
    mantissa, exponent = math.frexp(value) if field in _POWERS else (0.0, 0)
    return f"2^{exponent - 1}" if mantissa == 0.5 else printed(value)


def named(field: str, value: Any) -> str:
    """Returns a field and its value in the words of its control, such as "Second moment v: bf16".

    Args:
        field: A field of `Recipe`.
        value: Its value.
    """
    knob = FIELDS[field]
    words = next((label for label, option in knob.options if option == value), None)
    return f"{knob.label}: {words or written(field, value)}"


def control(field: str, value: Any, take: Take, *, told: Told = lambda _error: None) -> Any:
    """Returns the control of a field: a dropdown, or a line of text for a number, which calls `take` by itself.

    Args:
        field: A field of `Recipe`.
        value: Its value at first.
        take: Called with a number that the reader gives.
        told: For a number: called with each refusal, see `TextBox`.
    """
    knob = FIELDS[field]
    if knob.options:
        options = [*knob.options]
        return labelled(widgets.Dropdown, knob.label, labels=LABELS, width=WIDTH, options=options, value=value)
    return TextBox(
        knob.label,
        value,
        read=_reader(field),
        take=take,
        told=told,
        write=partial(written, field),
        places=knob.places,
        slider=SCALE_RANGE if field == "scale" else None,
    )


def _reader(field: str) -> Read:
    knob = FIELDS[field]
    if knob.places == _WHOLE:
        return whole(knob.label, 1, MOST)
    return partial(_scale, knob.label) if field in _POWERS else READERS[field]


def _scale(label: str, text: str) -> float:
    scale = float(READERS["scale"](text))
    try:
        require_scale(label, "", scale)
    except ValueError:
        raise ValueError(f"{label} must be a positive number that float32 can hold, got {text!r}") from None
    return scale
