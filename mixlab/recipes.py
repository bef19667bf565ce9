"""The recipe: how a model is stored, computed and its loss scaled, as frozen data with a text form."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from mixlab.formats import BF16, FP16, FP32, Format
from mixlab.scalers import DynamicScaler, NoScaler, Scaler, StaticScaler

ScalerName = Literal["none", "static", "dynamic"]

_KNOBS: dict[str, tuple[str, ...]] = {
    "none": (),
    "static": ("scale",),
    "dynamic": ("scale", "growth_factor", "backoff_factor", "growth_interval"),
}


@dataclass(frozen=True)
class Recipe:
    """A way to train. Its text form is the nearest preset, then what differs from it, and prints back as itself.

    >>> recipe = Recipe.parse("amp-fp16,scale=1024")
    >>> recipe.compute.name, recipe.scale, str(recipe)
    ('fp16', 1024.0, 'amp-fp16,scale=1024')

    Args:
        weights: The format in which parameters, gradients and optimizer states are stored: fp32, fp16 or bf16.
        compute: The format of matrix products and convolutions. If it differs from `weights`, these run under autocast
            (AMP); if it is the same, everything runs in it ("pure").
        scaler: "none", "static" or "dynamic".
        scale: The static loss scale, or where the dynamic one starts.
        growth_factor, backoff_factor, growth_interval: The dynamic scaler's knobs, as in `torch.amp.GradScaler`.

    Raises:
        TypeError, ValueError: A value out of its range, or a knob that the chosen scaler does not have.
    """

    weights: Format = FP32
    compute: Format = FP32
    scaler: ScalerName = "none"
    scale: float = 2.0**16
    growth_factor: float = 2.0
    backoff_factor: float = 0.5
    growth_interval: int = 2000

    def __post_init__(self) -> None:
        for name in ("weights", "compute"):
            fmt = getattr(self, name)
            if not isinstance(fmt, Format):
                raise TypeError(
                    f"Recipe: {name} must be a Format such as mixlab.FP16, got {fmt!r}; Recipe.parse reads text"
                )
            if fmt not in TRAINABLE:
                raise ValueError(f"Recipe: {name}={fmt} is not allowed; use {_listed(TRAINABLE)}")
        if self.weights != FP32 and self.compute != self.weights:
            raise ValueError(
                f"Recipe: weights={self.weights} needs compute={self.weights}, got compute={self.compute}; "
                f"or keep weights=fp32, and autocast computes in {self.compute}"
            )
        if self.scaler not in _KNOBS:
            raise ValueError(f"Recipe: scaler={self.scaler!r} is not allowed; use {_listed(_KNOBS)}")
        for field in fields(self)[3:]:
            value = getattr(self, field.name)
            if field.name not in _KNOBS[self.scaler] and value != field.default:
                raise ValueError(
                    f"Recipe: {field.name}={value!r} has no effect with scaler={self.scaler}; "
                    f"use scaler={_listed(name for name, knobs in _KNOBS.items() if field.name in knobs)}"
                )
        self.make_scaler()  # refuses knobs out of range

    @classmethod
    def parse(cls, text: str) -> Recipe:
        """Reads "preset" or "preset,field=value,...".

        Raises:
            ValueError: An unknown preset, field or value; the message names it and what is allowed.
        """
        if not isinstance(text, str):
            raise TypeError(f"Recipe.parse: text must be a string such as 'amp-fp16,scale=1024', got {text!r}")
        preset, *assignments = (word.strip() for word in text.split(","))
        if preset not in PRESETS:
            raise ValueError(f"unknown recipe {preset!r} in {text!r}: start with one of {_listed(PRESETS)}")
        changes: dict[str, Any] = {}
        for assignment in assignments:
            name, equals, value = (part.strip() for part in assignment.partition("="))
            if not equals or name not in _READERS:
                raise ValueError(
                    f"{assignment!r} in recipe {text!r} is not field=value; the fields are {_listed(_READERS)}"
                )
            if name in changes:
                raise ValueError(f"recipe {text!r} sets {name} twice; keep one")
            try:
                changes[name] = _READERS[name](value)
            except ValueError as error:
                raise ValueError(f"{assignment!r} in recipe {text!r}: {error}") from None
        return replace(PRESETS[preset], **changes)

    def __str__(self) -> str:
        def differences(preset: Recipe) -> list[str]:
            pairs = ((field.name, getattr(self, field.name), getattr(preset, field.name)) for field in fields(self))
            return [f"{name}={_printed(own)}" for name, own, theirs in pairs if own != theirs]

        def distance(preset: Recipe) -> tuple[bool, int]:
            other_formats = (preset.weights, preset.compute) != (self.weights, self.compute)
            return other_formats, len(differences(preset))

        name = min(PRESETS, key=lambda name: distance(PRESETS[name]))
        return ",".join([name, *differences(PRESETS[name])])

    @property
    def autocast(self) -> bool:
        """Whether listed ops compute in another format than the weights are stored in."""
        return self.compute != self.weights

    def make_scaler(self) -> Scaler:
        """Returns a new loss scaler with this recipe's knobs."""
        if self.scaler == "none":
            return NoScaler()
        if self.scaler == "static":
            return StaticScaler(self.scale)
        return DynamicScaler(self.scale, self.growth_factor, self.backoff_factor, self.growth_interval)

    def with_loss_scale(self, scale: float) -> Recipe:
        """Returns this recipe with another scale: held fixed if it had no scaler, the start of a dynamic one.

        A scale of 0 stands for the recipe's own and returns it unchanged, which is what the labs' parameter means by
        it.
        """
        if isinstance(scale, bool) or not isinstance(scale, int | float):
            raise ValueError(f"the loss scale must be a number, 0 for the recipe's own, got {scale!r}")
        if scale == 0:
            return self
        return replace(self, scaler="static" if self.scaler == "none" else self.scaler, scale=scale)

    def with_scaler(self, scaler: ScalerName) -> Recipe:
        """Returns this recipe with another kind of scaler; knobs that both kinds have are kept."""
        kept: dict[str, Any] = {name: getattr(self, name) for name in _KNOBS.get(scaler, ())}
        return Recipe(self.weights, self.compute, scaler, **kept)


TRAINABLE = (FP32, FP16, BF16)

PRESETS: dict[str, Recipe] = {
    "fp32": Recipe(),
    "amp-fp16": Recipe(compute=FP16, scaler="dynamic"),
    "amp-bf16": Recipe(compute=BF16),
    "fp16": Recipe(weights=FP16, compute=FP16),
    "bf16": Recipe(weights=BF16, compute=BF16),
}


def _number(text: str) -> float:
    """Reads "1024", "1e-3" or "2^10"."""
    base, power, exponent = text.partition("^")
    try:
        return float(base) ** int(exponent) if power else float(text)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is not a number such as 1024, 1e-3 or 2^10") from None


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number such as 2000") from None


_READERS: dict[str, Callable[[str], Any]] = {
    "weights": Format.parse,
    "compute": Format.parse,
    "scaler": str,
    "scale": _number,
    "growth_factor": _number,
    "backoff_factor": _number,
    "growth_interval": _whole_number,
}


def _printed(value: object) -> str:
    if isinstance(value, float) and value.is_integer() and value < 2**53:
        return str(int(value))
    return str(value)


def _listed(names: Iterable[object]) -> str:
    return ", ".join(map(str, names))
