"""Bytes of a training's weights, gradients and optimizer states as the optimizer steps, counted from the recipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, get_args

from mixlab.formats import FP32
from mixlab.optimizers import OptimizerName
from mixlab.optimizers.choices import scales_bytes
from mixlab.recipes import EIGHT_BIT, Recipe, StateName
from mixlab.tables import html_table, text_table


@dataclass(frozen=True)
class ModelStates:
    """Bytes of weights, gradients and optimizer states. Its repr and its HTML are a table.

    Attributes:
        recipe: Recipe of the training.
        numel: Number of parameters.
        parts: Bytes by kind of tensor, with the names of `mixlab.experiments.dtype_ledger`; kinds without bytes are
            left out.
        formats: Storage format by kind.
    """

    recipe: Recipe
    numel: int
    parts: Mapping[str, int]
    formats: Mapping[str, str]

    @property
    def bytes(self) -> int:
        """Bytes of all kinds."""
        return sum(self.parts.values())

    @property
    def bytes_per_parameter(self) -> float:
        """Bytes of all kinds, divided by the number of parameters."""
        return self.bytes / self.numel

    def __repr__(self) -> str:
        return f"{self._title()}\n{text_table(_COLUMNS, self._rows())}"

    def _repr_html_(self) -> str:
        return html_table(_COLUMNS, self._rows(), caption=self._title())

    def _title(self) -> str:
        return f"{self.recipe}: {self.bytes_per_parameter:.4g} bytes per parameter"

    def _rows(self) -> list[tuple[str, ...]]:
        return [(name, self.formats[name], f"{size / self.numel:.4g}") for name, size in self.parts.items()]


_COLUMNS = ("what", "format", "bytes per parameter")


def model_states(
    recipe: Recipe | str, numels: Iterable[int] | None = None, *, optimizer: OptimizerName = "adam"
) -> ModelStates:
    """Counts the bytes of weights, gradients and optimizer states, exactly for every parameter tensor.

    They are there together as the optimizer steps. Between two steps PyTorch's `zero_grad` frees the gradients, unless
    it is told to keep them.

    Adam in fp32 takes 16 bytes per parameter: weight, gradient and two moments of 4 bytes each. So does mixed precision
    with master weights: 2 + 2 + 4 + 4 + 4 (Rajbhandari et al., ZeRO, 2020, section 3.1). Activations, autocast's casts
    and the optimizer's step counters are not counted.

    >>> model_states("amp-fp16").bytes_per_parameter
    16.0
    >>> model_states("fp32,exp_avg=dynamic8,exp_avg_sq=dynamic8").bytes_per_parameter
    10.03125

    Args:
        recipe: Recipe of the training, or its text.
        numels: Elements of each parameter tensor. They matter for states in 8 bits, since a tensor's last block has a
            scale even if it is not full. None counts one tensor that is one full block.
        optimizer: "sgd" (with momentum), "adam" or "adamw"; the last two keep the same states.

    Raises:
        TypeError: If `recipe` is neither a Recipe nor text.
        ValueError: If the recipe or optimizer is unknown, or `numels` are not whole numbers from 1 up.
    """
    recipe = Recipe.of(recipe)
    if optimizer not in get_args(OptimizerName):
        names = ", ".join(get_args(OptimizerName))
        raise ValueError(f"model_states: optimizer must be one of {names}, got {optimizer!r}")
    sizes = [recipe.block_size] if numels is None else list(numels)
    if not sizes or any(type(size) is not int or size < 1 for size in sizes):
        raise ValueError(f"model_states: numels must be whole numbers from 1 up, at least one, got {sizes!r}")
    numel = sum(sizes)
    formats = {"parameters": str(recipe.weights)}
    if recipe.master_weights:
        formats["master weights"] = str(FP32)
    formats["gradients"] = str(recipe.gradients)
    parts = {name: numel * _ITEMSIZE[fmt] for name, fmt in formats.items()}
    for name, field in _MOMENTS[optimizer].items():
        stored: StateName = getattr(recipe, field)
        formats[name] = str(stored)
        parts[name] = numel * _ITEMSIZE.get(str(stored), 1)
        if stored in EIGHT_BIT:
            formats[f"scales of {name}"] = str(FP32)
            parts[f"scales of {name}"] = sum(scales_bytes(size, recipe.block_size) for size in sizes)
    if recipe.update == "kahan":
        formats["Kahan compensation"] = str(recipe.weights)
        parts["Kahan compensation"] = numel * _ITEMSIZE[str(recipe.weights)]
    return ModelStates(recipe, numel, parts, formats)


class HasTensors(Protocol):
    """What has parameter tensors: a stage of a pipeline, or a recorded pass."""

    @property
    def tensors(self) -> Sequence[int]:
        """Elements of each parameter tensor."""

    @property
    def parameters(self) -> int:
        """Elements of all parameters."""


def states_of(model: HasTensors, recipe: Recipe, optimizer: OptimizerName) -> Mapping[str, int]:
    """Returns the bytes by kind that a model's weights, gradients and optimizer states take.

    Args:
        model: The model, or the part of it on a GPU.
        recipe: Recipe of the training.
        optimizer: As for `model_states`.
    """
    in_blocks = recipe.exp_avg in EIGHT_BIT or recipe.exp_avg_sq in EIGHT_BIT  # which each tensor has of its own
    numels = model.tensors if in_blocks else (model.parameters,)
    return model_states(recipe, numels, optimizer=optimizer).parts


# States by optimizer: the recipe's field with the storage format.
_ADAM = {"exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq"}
_MOMENTS: dict[str, dict[str, str]] = {"adam": _ADAM, "adamw": _ADAM, "sgd": {"momentum": "exp_avg"}}
_ITEMSIZE = {"fp32": 4, "fp16": 2, "bf16": 2}  # and 1 in 8 bits
