"""Optimizers with the storage that a recipe prescribes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.optim import Optimizer

from mixlab import optimizers
from mixlab.optimizers import MakeOptimizer, OptimizerName, StateDtype
from mixlab.recipes import Recipe, StateName

_KNOBS: dict[str, dict[str, float]] = {"sgd": {"momentum": 0.9}, "adam": {}, "adamw": {}}
_TORCHS: dict[str, Callable[..., Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}
_OURS: dict[str, Callable[..., Optimizer]] = {"sgd": optimizers.SGD, "adam": optimizers.Adam, "adamw": optimizers.AdamW}


def make_optimizer(
    parameters: Iterable[nn.Parameter],
    recipe: Recipe | str,
    optimizer: OptimizerName | MakeOptimizer = "adam",
    lr: float = 1e-3,
    *,
    generator: torch.Generator | None = None,
    owner: str = "make_optimizer",
) -> Optimizer:
    """Returns an optimizer with the storage that the recipe prescribes.

    It is torch.optim's own if everything is stored in fp32, or with update=per_op, which rounds every operation.

    Args:
        parameters: The parameters, already stored as the recipe says.
        recipe: The training's recipe, or its text.
        optimizer: "sgd" (momentum 0.9), "adam" or "adamw", or a function of (parameters, lr); see `Task`.
        lr: Learning rate.
        generator: For stochastic rounding.
        owner: The name at the start of error messages.

    Raises:
        ValueError: If the recipe prescribes a storage, but your own optimizer chooses its storage.
        TypeError: If your own function does not return an optimizer, or returns one whose step needs a closure, such
            as LBFGS.
    """
    recipe = Recipe.of(recipe)
    if not callable(optimizer):
        knobs = {"lr": lr, **_KNOBS[optimizer]}
        if recipe.uses_torch_optim:
            return _TORCHS[optimizer](parameters, **knobs)
        return _OURS[optimizer](parameters, **knobs, storage=storage_of(recipe), generator=generator)
    if not recipe.uses_torch_optim:
        raise ValueError(
            f"{owner}: your own optimizer chooses its storage, but recipe {recipe} prescribes one; use a recipe "
            "with fp32 weights and states or with update=per_op, or optimizer=sgd, adam or adamw"
        )
    return _checked(optimizer(parameters, lr), owner)


def _checked(own: object, owner: str) -> Optimizer:
    if not isinstance(own, Optimizer):
        raise TypeError(f"{owner}: optimizer must return a torch.optim.Optimizer, got {type(own).__name__}")
    closure = inspect.signature(own.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise TypeError(
            f"{owner}: optimizer must step on existing gradients; {type(own).__name__}.step needs a closure, "
            "which evaluates the model again within the step"
        )
    return own


def storage_of(recipe: Recipe | str) -> optimizers.Storage:
    """Returns the storage that a recipe prescribes for mixlab's optimizers.

    Args:
        recipe: A recipe or its text.

    Raises:
        ValueError: If the recipe has update=per_op, for which torch.optim is used.
    """
    recipe = Recipe.of(recipe)
    if recipe.update == "per_op":
        raise ValueError(
            f"storage_of: recipe {recipe} has update=per_op, so torch.optim is used, with states stored like parameters"
        )
    return optimizers.Storage(
        exp_avg_dtype=_state_dtype(recipe.exp_avg),
        exp_avg_sq_dtype=_state_dtype(recipe.exp_avg_sq),
        master_weights=recipe.master_weights,
        update=recipe.update,
        state_rounding=recipe.state_rounding,
        block_size=recipe.block_size,
    )


def _state_dtype(state: StateName) -> StateDtype:
    if isinstance(state, str):
        return state
    assert state.dtype is not None  # a recipe allows no others
    return state.dtype
