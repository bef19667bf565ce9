"""The parameters of each lab: which it has, and which values they may take. Nothing here needs torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mixlab.arguments import did_you_mean, require_whole
from mixlab.memory import GPUS, gpu_spec
from mixlab.recipes import PRESETS, Recipe
from mixlab.shapes import SHAPES, model_shape
from mixlab.training import TASKS


@dataclass(frozen=True)
class Whole:
    """Whole numbers within bounds.

    Attributes:
        low: The smallest.
        high: The largest.
    """

    low: int
    high: int

    def __str__(self) -> str:
        return f"a whole number from {self.low} to {self.high}"

    def check(self, what: str, value: object) -> None:
        """Raises ValueError, beginning with `what`, if the value is not allowed."""
        require_whole(what, value, self.low, self.high)

    def to_dict(self) -> dict[str, Any]:
        """Returns the type and the bounds, for JSON."""
        return {"type": "whole number", "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Number:
    """Numbers above 0 within bounds, and 0 where it stands for something.

    Attributes:
        low: The smallest.
        high: The largest.
        zero: What 0 stands for; None if 0 is not allowed.
    """

    low: float
    high: float
    zero: str | None = None

    def __str__(self) -> str:
        zero = "" if self.zero is None else f"0 for {self.zero}, or "
        return f"{zero}a number from {_bound(self.low)} to {_bound(self.high)}"

    def check(self, what: str, value: object) -> None:
        """Raises ValueError, beginning with `what`, if the value is not allowed."""
        number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
        if not (self.low <= number <= self.high or (number == 0 and self.zero is not None)):
            raise ValueError(f"{what} must be {self}, got {value!r:.60}")

    def to_dict(self) -> dict[str, Any]:
        """Returns the type, the bounds and what 0 stands for, for JSON."""
        return {"type": "number", "low": self.low, "high": self.high, "zero": self.zero}


@dataclass(frozen=True)
class OneOf:
    """One of some names.

    Attributes:
        names: The names.
    """

    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"one of {', '.join(self.names)}"

    def check(self, what: str, value: object) -> None:
        """Raises ValueError, beginning with `what`, if the value is not allowed."""
        if not isinstance(value, str) or value not in self.names:
            hint = did_you_mean(value, self.names).strip()
            raise ValueError(f"{what} must be {self}, got {value!r:.60}{hint and f'; {hint}'}")

    def to_dict(self) -> dict[str, Any]:
        """Returns the type and the names, for JSON."""
        return {"type": "name", "choices": list(self.names)}


@dataclass(frozen=True)
class RecipeText:
    """A recipe's text, as `Recipe.parse` reads it.

    Attributes:
        otherwise: The recipe that "" stands for; None if "" is not allowed.
    """

    otherwise: str | None = None

    def __str__(self) -> str:
        return f"a recipe: one of {', '.join(PRESETS)}, then changes such as ,scale=1024"

    def recipe(self, text: str) -> Recipe:
        """Returns the recipe that a legal text stands for."""
        return Recipe.parse(self.otherwise if text == "" and self.otherwise is not None else text)

    def check(self, what: str, value: object) -> None:
        """Raises ValueError, beginning with `what`, if the value is not allowed."""
        if not isinstance(value, str):
            raise ValueError(f"{what} must be a recipe's text, such as 'amp-fp16,scale=1024', got {value!r:.60}")
        try:
            self.recipe(value)
        except ValueError as error:
            raise ValueError(f"{what}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """Returns the type, the names that a text may start with and what "" stands for, for JSON."""
        return {"type": "recipe", "presets": list(PRESETS), "empty": self.otherwise}


@dataclass(frozen=True)
class ConfigPath:
    """The path of a config.json that `mixlab.shapes.model_shape` reads; a lab runs in its own folder, so it is whole.

    Attributes:
        otherwise: What "" stands for.
    """

    otherwise: str

    def __str__(self) -> str:
        return f"'' for {self.otherwise}, or the whole path of a Hugging Face config.json"

    def check(self, what: str, value: object) -> None:
        """Raises ValueError, beginning with `what`, if the value is not allowed."""
        if value == "":
            return
        if not isinstance(value, str) or not value.endswith(".json") or "\0" in value:
            raise ValueError(f"{what} must be {self}, got {value!r:.60}")
        if not Path(value).is_absolute():
            raise ValueError(f"{what} must be {self}, got {value!r:.100}; write {str(Path.cwd() / value)!r:.200}")
        try:
            model_shape(value)
        except ValueError as error:
            raise ValueError(f"{what}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """Returns the type and what "" stands for, for JSON."""
        return {"type": "path of a config.json", "empty": self.otherwise}


Parameter = Whole | Number | OneOf | RecipeText | ConfigPath

# As far as the cockpit's boxes go.
_STEPS = Whole(1, 100_000)
_RECIPE = RecipeText()
_RECIPES = {  # of the labs that take ""
    "05_dynamic_loss_scaling": RecipeText("amp-fp16,growth_interval=8"),
    "06_adam_in_low_precision": RecipeText("fp32,exp_avg_sq=bf16"),
}
_COMMON: dict[str, Parameter] = {
    "recipe": _RECIPE,
    "loss_scale": Number(2.0**-126, 2.0**127, zero="the recipe's own"),
    "steps": _STEPS,
    "seed": Whole(0, 2**31 - 1),
    "task": OneOf(TASKS),
}
_ANY_STEPS = Whole(0, _STEPS.high)

_PARAMETERS: dict[str, dict[str, Parameter]] = {
    "00_start_here": _COMMON,
    "01_number_formats": _COMMON,
    "02_underflow_and_loss_scaling": {**_COMMON, "loss_weight": Number(1e-12, 1000.0)},
    "03_inside_amp": _COMMON,
    "04_training_modes": _COMMON,
    "05_dynamic_loss_scaling": {**_COMMON, "recipe": _RECIPES["05_dynamic_loss_scaling"]},
    "06_adam_in_low_precision": {**_COMMON, "recipe": _RECIPES["06_adam_in_low_precision"]},
    "07_memory": {
        **_COMMON,
        "steps": Whole(1, 4),
        "model": OneOf(tuple(name for name, shape in SHAPES.items() if shape.lean)),
        "batch": Whole(1, 2**16),
        "seq": Whole(1, 2**20),
        "gpu": OneOf(tuple(GPUS)),
        "config": ConfigPath("Mixtral 8x7B"),
    },
    "08_bf16_matmul": {
        **_COMMON,
        "steps": _ANY_STEPS,
        **dict.fromkeys(("m", "n", "k"), Whole(1, 2**20)),
        "fast_kib": Whole(1, 2**20),
        "gpu": OneOf(tuple(GPUS)),
        "units": Whole(1, 2**16),
    },
    "12_the_claims": _COMMON,
}


def _bound(number: float) -> str:
    """Returns a number as it is typed: 2^127, 1e-12."""
    mantissa, exponent = math.frexp(number)
    return f"2^{exponent - 1}" if mantissa == 0.5 and abs(exponent) > 20 else f"{number:g}"


def lab_parameters(name: str) -> Mapping[str, Parameter]:
    """Returns a lab's parameters and what each may be, in the order of the lab's cell.

    >>> print(lab_parameters("07_memory")["steps"])
    a whole number from 1 to 4

    Args:
        name: The lab's full name, such as "04_training_modes".

    Raises:
        KeyError: If there is no such lab.
    """
    if name not in _PARAMETERS:
        raise KeyError(
            f"unknown lab {name!r:.60}: {did_you_mean(name, _PARAMETERS)}use one of {', '.join(_PARAMETERS)}"
        )
    return MappingProxyType(_PARAMETERS[name])


def kept_parameters(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a lab's parameters as they are kept with answers: without paths, which are those of one machine.

    No question depends on a path, so that answers can be graded elsewhere.

    Args:
        name: The lab's full name, such as "04_training_modes".
        values: The parameters.

    Raises:
        KeyError: If there is no such lab.
    """
    paths = [one for one, allowed in lab_parameters(name).items() if isinstance(allowed, ConfigPath) and one in values]
    return {**values, **dict.fromkeys(paths, "")}


def lab_recipe(name: str, values: Mapping[str, Any]) -> Recipe:
    """Returns the recipe of a lab: its parameter `recipe`, or what "" stands for, with the scale of `loss_scale`.

    >>> print(lab_recipe("04_training_modes", {"recipe": "amp-fp16", "loss_scale": 1024}))
    amp-fp16,scale=1024

    Args:
        name: The lab's full name, such as "04_training_modes".
        values: A value for each parameter of the lab; those but `recipe` and `loss_scale` are not looked at.

    Raises:
        KeyError: If there is no such lab.
        ValueError: If the recipe's text is not legal, or the recipe does not take the loss scale.
    """
    lab_parameters(name)
    text = _RECIPES.get(name, _RECIPE)
    return text.recipe(values["recipe"]).with_loss_scale(values["loss_scale"])


def check_parameters(name: str, values: Mapping[str, object]) -> None:
    """Checks all parameters of a lab: each alone, and those that depend on one another.

    Args:
        name: The lab's full name, such as "04_training_modes".
        values: A value for each parameter of the lab.

    Raises:
        KeyError: If there is no such lab.
        ValueError: If a parameter is missing or unknown, or has a value that the lab does not take.
    """
    parameters = lab_parameters(name)
    for unknown in values:
        if unknown not in parameters:
            hint = did_you_mean(unknown, parameters)
            raise ValueError(f"{name} has no parameter {unknown!r:.60}: {hint}choose from {', '.join(parameters)}")
    if missing := [parameter for parameter in parameters if parameter not in values]:
        raise ValueError(f"{name} needs a value for {', '.join(missing)}; give all of {', '.join(parameters)}")
    for parameter, allowed in parameters.items():
        allowed.check(f"{name}: {parameter}", values[parameter])
    _check_together(name, parameters, values)


def _check_together(name: str, parameters: Mapping[str, Parameter], values: Mapping[str, Any]) -> None:
    """Raises ValueError if values that are allowed alone contradict one another."""
    try:
        recipe = lab_recipe(name, values)
    except ValueError as error:
        raise ValueError(f"{name}: loss_scale {values['loss_scale']:g} with this recipe: {error}") from None
    if "seq" in parameters:
        shape = SHAPES[values["model"]]
        if shape.design.positions == "learned" and values["seq"] > shape.context:
            raise ValueError(
                f"{name}: seq must be at most {shape.context}, the positions of {shape.name}, got {values['seq']}; "
                "give a smaller one, or another model"
            )
    if "units" in parameters:
        gpu, fmt = gpu_spec(values["gpu"]), recipe.compute.name
        if fmt not in gpu.peak_flops:
            others = ", ".join(one.name for one in GPUS.values() if fmt in one.peak_flops)
            raise ValueError(
                f"{name}: gpu {gpu} does not multiply in {fmt}, the format of recipe {values['recipe']}; "
                f"use another recipe, or one of {others}"
            )
