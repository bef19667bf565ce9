"""Trees of tensors: tuples, lists, mappings and dataclasses, one in another, with tensors at their leaves."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_map


def map_tensors(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """Returns a tree with a function's result in place of each tensor; everything else is the same.

    Args:
        function: Called once for each tensor, however often it stands in the tree.
        tree: Tuples, lists, mappings and dataclasses of tensors, and what else torch knows as a tree. The sizes in a
            packed sequence stay as they are, on the CPU.
    """
    made: dict[int, tuple[Tensor, Tensor]] = {}  # with the tensor, so that no number comes twice

    def leaf(value: Any) -> Any:
        if isinstance(value, Tensor):
            if id(value) not in made:
                made[id(value)] = value, function(value)
            return made[id(value)][1]
        if isinstance(value, PackedSequence):
            indices = (None if one is None else leaf(one) for one in (value.sorted_indices, value.unsorted_indices))
            return PackedSequence(leaf(value.data), value.batch_sizes, *indices)
        if isinstance(value, Mapping):
            return _like(value, {key: whole(part) for key, part in value.items()})
        if is_dataclass(value) and not isinstance(value, type):
            mapped = copy.copy(value)
            for field in fields(value):
                object.__setattr__(mapped, field.name, whole(getattr(value, field.name, None)))
            return mapped
        return value

    def whole(part: Any) -> Any:
        return tree_map(leaf, part, is_leaf=lambda node: isinstance(node, PackedSequence))

    return whole(tree)


def _like(mapping: Mapping[Any, Any], values: dict[Any, Any]) -> Mapping[Any, Any]:
    """Returns a mapping of the same class with other values, or a dict if its class takes none."""
    try:
        like: Any = copy.copy(mapping)
        for key, value in values.items():
            like[key] = value
    except TypeError:
        return values
    return like  # type: ignore[no-any-return]


def tensors_of(tree: Any) -> list[Tensor]:
    """Returns the tensors of a tree, each once.

    Args:
        tree: As for `map_tensors`.
    """
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(keep, tree)
    return found
