"""How a part of a shape is read from a config.json: a field, several of them, or a constant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mixlab.arguments import require_whole
from mixlab.shapes.designs import ACTIVATIONS, LARGEST_SIZE, MOST_LAYERS

Parts = Mapping[str, Any]  # of the shape, as far as it is read


class Config:
    """The fields of a config.json, with transformers' defaults of those that are absent.

    Args:
        path: The file, for messages.
        fields: What it holds.
        defaults: Values of absent fields.
    """

    def __init__(self, path: object, fields: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self.path = path
        self.fields = fields
        self.defaults = defaults

    def value(self, name: str) -> Any:
        """Returns a field, or its default."""
        return self.fields.get(name, self.defaults.get(name))

    def whole(self, name: str, low: int = 1, high: int = LARGEST_SIZE) -> int:
        """Returns a field that is a whole number."""
        value = self.value(name)
        require_whole(f"{self.path}: {name}", value, low, high)
        return int(value)

    def truth(self, name: str) -> bool:
        """Returns a field that is true or false; null is false, whatever the default, as where transformers asks it."""
        value = False if self.value(name) is None else self.value(name)
        if type(value) is not bool:
            raise self.refused(name, "true or false")
        return value

    def number(self, name: str, high: float) -> float:
        """Returns a field that is a number from 0 to `high`; null is 0."""
        value = 0 if (value := self.value(name)) is None else value
        if type(value) not in (int, float) or not 0 <= value <= high:
            raise self.refused(name, f"a number from 0 to {high:g}")
        return float(value)

    def one_of(self, name: str, allowed: tuple[str, ...]) -> str:
        """Returns a field that is one of some words."""
        value = self.value(name)
        if not isinstance(value, str) or value not in allowed:
            raise self.refused(name, f"one of {', '.join(allowed)}")
        return value

    def refused(self, name: str, allowed: str) -> ValueError:
        """Returns the error of a field that is none of what is allowed."""
        return ValueError(f"{self.path}: {name} must be {allowed}, got {self.value(name)!r:.60}")


@dataclass(frozen=True)
class Read:
    """What a part of a shape is read from.

    Attributes:
        names: The fields.
        part: Computes the part of them, and of the parts before it.
    """

    names: tuple[str, ...]
    part: Callable[[Config, Parts], Any]


@dataclass(frozen=True)
class ConfigRow:
    """How the config.json of a model type is read.

    Attributes:
        architecture: transformers' class of the language model.
        reads: What each part of the shape is read from, or its constant. "design.", "experts." and "latent." begin the
            names of parts of those.
        allowed: Values of fields that mixlab knows, but reads only with these.
        harmless: Fields that change neither parameters nor activations.
        aliases: Second names of fields.
    """

    architecture: str
    reads: Mapping[str, Any]
    allowed: Mapping[str, tuple[Any, ...]]
    harmless: frozenset[str]
    aliases: Mapping[str, str]

    @classmethod
    def of(
        cls,
        architecture: str,
        *reads: Mapping[str, Any],
        allowed: Mapping[str, tuple[Any, ...]] | None = None,
        harmless: str = "",
        aliases: Mapping[str, str] | None = None,
    ) -> ConfigRow:
        """Returns a row whose later reads replace earlier ones; `harmless` has spaces between its names."""
        merged = {part: read for some in reads for part, read in some.items()}
        return cls(architecture, merged, allowed or {}, frozenset(harmless.split()), aliases or {})


def size(name: str, low: int = 1, high: int = LARGEST_SIZE) -> Read:
    """Returns how a whole number is read."""
    return Read((name,), lambda config, _: config.whole(name, low, high))


def layers(name: str) -> Read:
    """Returns how the number of layers is read."""
    return size(name, high=MOST_LAYERS)


def size_or(name: str, null: Callable[[Parts], Any]) -> Read:
    """Returns how a whole number is read whose null stands for something else."""
    return Read((name,), lambda config, parts: null(parts) if config.value(name) is None else config.whole(name))


def truth(name: str, yes: Any = True, no: Any = False) -> Read:
    """Returns how one of two values is read."""
    return Read((name,), lambda config, _: yes if config.truth(name) else no)


def given(name: str) -> Read:
    """Returns how it is read whether a number is there."""
    return Read((name,), lambda config, _: config.number(name, 1e6) > 0)


def activation(name: str) -> Read:
    """Returns how an activation is read."""
    return Read((name,), lambda config, _: config.one_of(name, _ACTIVATIONS))


_ACTIVATIONS = tuple(name for name in ACTIVATIONS if name != "bloom_gelu")  # which is bloom's alone, and in no file


def dropouts(**places: str) -> Read:
    """Returns how the places of dropouts are read from the fields of their rates."""

    def part(config: Config, _: Parts) -> tuple[str, ...]:
        return tuple(place for place, name in places.items() if config.number(name, 1) > 0)

    return Read(tuple(dict.fromkeys(places.values())), part)


def product(name: str, other: str) -> Read:
    """Returns how a product of two fields is read; 0 where the first is null."""
    return Read((name, other), lambda config, _: _or_zero(config, name) * config.whole(other))


def _or_zero(config: Config, name: str) -> int:
    return 0 if config.value(name) is None else config.whole(name, 0)


def rotary_share(*names: str) -> Read:
    """Returns how the width of the rotated part of a head is read from its share, which new files hold in a table."""

    def part(config: Config, parts: Parts) -> int | None:
        table = config.value("rope_parameters") or {}
        if not isinstance(table, dict):
            raise config.refused("rope_parameters", "an object")
        if table.get("partial_rotary_factor") is not None:
            share = Config(f"{config.path}: rope_parameters", table, {}).number("partial_rotary_factor", 1)
        else:
            share = config.number(next((name for name in names if config.fields.get(name) is not None), names[0]), 1)
        head = parts["head_dim"] if parts.get("head_dim") else parts["width"] // parts["heads"]
        width = int(head * share)
        return None if width == head else width

    return Read((*names, "rope_parameters"), part)


def every_window(switch: str | None = None) -> dict[str, Read]:
    """Returns how the length of the sliding windows is read that all layers have, if the switch is on."""
    used = ("sliding_window", *([switch] if switch else []))

    def window(config: Config, _: Parts) -> int | None:
        off = switch is not None and not config.truth(switch)
        return None if off or config.value("sliding_window") is None else config.whole("sliding_window")

    return {"window": Read(used, window), "windowed": Read(used, lambda _, parts: parts["layers"])}


def layer_kinds(config: Config, parts: Parts, default: Callable[[int], bool]) -> list[bool]:
    """Returns for each layer whether it has a sliding window: by `layer_types`, or by `default` of its index."""
    kinds = config.value("layer_types")
    if kinds is None:
        return [default(index) for index in range(parts["layers"])]
    if not isinstance(kinds, list) or len(kinds) != parts["layers"]:
        raise config.refused("layer_types", f"a list of {parts['layers']} words, one for each layer")
    if not all(kind in ("full_attention", "sliding_attention") for kind in kinds):
        raise config.refused("layer_types", "a list of full_attention and sliding_attention")
    return [kind == "sliding_attention" for kind in kinds]


def some_windows(*names: str, sliding: Callable[[Config, int], bool], switch: str | None = None) -> dict[str, Read]:
    """Returns how windows of some layers are read, by `layer_types` or, where it is absent, by `sliding`."""

    def windowed(config: Config, parts: Parts) -> int:
        on = switch is None or config.truth(switch)
        kinds = layer_kinds(config, parts, lambda index: on and sliding(config, index))
        return sum(kinds) if on else 0

    def window(config: Config, parts: Parts) -> int | None:
        length = 0 if config.value("sliding_window") is None else config.whole("sliding_window", 0)
        return length if length and windowed(config, parts) else None

    used = ("sliding_window", "layer_types", *names, *([switch] if switch else []))
    return {"window": Read(used, window), "windowed": Read(used, windowed)}
