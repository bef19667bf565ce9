"""Temporary memory of an optimizer step."""

from __future__ import annotations

from typing import Literal

from mixlab.formats import BF16, FP32
from mixlab.optimizers import OptimizerName
from mixlab.recipes import EIGHT_BIT, Recipe, StateName


def step_temporaries(
    recipe: Recipe,
    total: int,
    largest: int,
    *,
    optimizer: OptimizerName = "adam",
    step: Literal["foreach", "fused", "loop"] = "foreach",
) -> int:
    """Returns the bytes of temporary tensors at the peak of an optimizer step.

    torch.optim's foreach step takes the square root of all second moments at once; its loop takes one parameter's, and
    divides it. Its fused step needs nothing. mixlab's own optimizers go parameter by parameter and compute in fp32
    copies of everything stored in fewer bits; compiled into one pass ("fused"), they need nothing either.

    Args:
        recipe: Recipe of the training, which decides between torch.optim and mixlab's own optimizers.
        total: Elements of all parameters.
        largest: Elements of the largest parameter tensor.
        optimizer: "sgd" (with momentum), "adam" or "adamw".
        step: "foreach", "fused" or "loop".
    """
    if step == "fused":
        return 0
    if recipe.uses_torch_optim:
        if optimizer == "sgd":
            return 0
        stored = 2 if recipe.update == "per_op" else 4
        return stored * total if step == "foreach" else 2 * stored * largest
    return largest * _own_step(recipe, optimizer)


def _own_step(recipe: Recipe, optimizer: OptimizerName) -> int:
    """Returns the temporary bytes per element of the current parameter in mixlab's own step."""
    states: tuple[StateName, ...] = (recipe.exp_avg, recipe.exp_avg_sq) if optimizer != "sgd" else (recipe.exp_avg,)
    copies = 4 * sum(state != FP32 for state in states)
    weight = 4 if recipe.weights != FP32 and not recipe.master_weights else 0
    gradient = 4 if recipe.gradients != FP32 else 0
    computing = weight + gradient + copies + (4 if optimizer != "sgd" else 0)
    return max(computing, weight + copies + _storing(recipe, states))


def _storing(recipe: Recipe, states: tuple[StateName, ...]) -> int:
    """Returns the temporary bytes per element of the most expensive rounding to a stored format.

    Counted along the code of `mixlab.optimizers` and `mixlab.formats.rounding`: random bits, scaled values, codes.
    """
    at_random = recipe.state_rounding == "stochastic"
    needs = [_rounding(state, at_random) for state in states]
    needs.append({"kahan": 8, "stochastic": _rounding(recipe.weights, True)}.get(recipe.update, 0))
    return max(needs)


def _rounding(state: StateName, at_random: bool) -> int:
    if state == FP32:
        return 0
    if at_random:
        return 17 if state == BF16 else 28 if state == "dynamic8" else 36
    return 13 if state in EIGHT_BIT else 0
