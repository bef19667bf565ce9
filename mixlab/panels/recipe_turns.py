"""Turning one knob of a recipe: what else has to follow, and which knobs have no effect."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from mixlab.formats import FP32
from mixlab.recipes import EIGHT_BIT, KNOBS, Recipe


def turned(recipe: Recipe, field: str, value: Any) -> Recipe:
    """Returns a recipe with one field changed, and with it only what would contradict it otherwise.

    Products and gradients that have the weights' format follow the weights; products in another format than 16-bit
    weights make the weights fp32; rounding that has nothing left to round becomes the default.

    >>> str(turned(Recipe.parse("fp16"), "exp_avg_sq", FP32))  # each operation in fp16 needs all states in fp16
    'fp16,exp_avg_sq=fp32,update=nearest'
    >>> from mixlab.formats import BF16
    >>> str(turned(Recipe(), "weights", BF16))
    'bf16-master,gradients=bf16,master_weights=false'

    Args:
        recipe: The recipe.
        field: One of its fields.
        value: The field's new value.

    Raises:
        ValueError: If no change of other fields makes room for this value.
    """
    if field == "scaler":
        return recipe.with_scaler(value)
    new = {one.name: getattr(recipe, one.name) for one in fields(recipe)} | {field: value}
    _follow_weights(recipe, field, new)
    _settle_update(field, new)
    _settle_states(field, new)
    return replace(recipe, **{name: new[name] for name in new if new[name] != getattr(recipe, name)})


def _follow_weights(recipe: Recipe, field: str, new: dict[str, Any]) -> None:
    if field == "compute" and new["weights"] not in (FP32, new["compute"]):
        new["weights"] = FP32
    if new["weights"] != recipe.weights:
        for name, allowed in (("compute", (new["weights"],)), ("gradients", (new["weights"], FP32))):
            breaks = new["weights"] != FP32 and new[name] not in allowed
            if name != field and (new[name] == recipe.weights or breaks):
                new[name] = new["weights"]


def _settle_update(field: str, new: dict[str, Any]) -> None:
    if field == "update" and new["update"] != "nearest_even":
        new["master_weights"] = False
        if new["update"] == "per_op":
            new.update(dict.fromkeys(("gradients", "exp_avg", "exp_avg_sq"), new["weights"]))
    elif field != "update":
        states = {new["gradients"], new["exp_avg"], new["exp_avg_sq"]}
        stochastic = field == "state_rounding" and new["state_rounding"] != "nearest_even"
        breaks_per_op = new["update"] == "per_op" and (states != {new["weights"]} or stochastic)
        if new["weights"] == FP32 or (field == "master_weights" and new["master_weights"]) or breaks_per_op:
            new["update"] = "nearest_even"
    if new["weights"] == FP32 and field != "master_weights":
        new["master_weights"] = False


def _settle_states(field: str, new: dict[str, Any]) -> None:
    if field != "state_rounding" and (new["exp_avg"] == new["exp_avg_sq"] == FP32 or new["update"] == "per_op"):
        new["state_rounding"] = "nearest_even"
    if field != "block_size" and not any(new[name] in EIGHT_BIT for name in ("exp_avg", "exp_avg_sq")):
        new["block_size"] = 256


def idle(recipe: Recipe, field: str, *, optimizer: str = "adam") -> str:
    """Returns why a field has no effect in a recipe, or "" if it has one.

    >>> idle(Recipe(), "master_weights")
    'fp32 weights are their own master'

    Args:
        recipe: The recipe.
        field: One of its fields.
        optimizer: "sgd", "adam" or "adamw".
    """
    if field not in KNOBS[recipe.scaler] and any(field in knobs for knobs in KNOBS.values()):
        return f"a scaler {recipe.scaler!r} has no such knob"
    reduced = {recipe.exp_avg, recipe.exp_avg_sq} != {FP32}
    reasons = {
        "master_weights": (recipe.weights == FP32, "fp32 weights are their own master"),
        "update": (recipe.weights == FP32, "fp32 weights need no such rounding"),
        "state_rounding": (not reduced, "fp32 moments need no such rounding"),
        "block_size": (not {recipe.exp_avg, recipe.exp_avg_sq} & set(EIGHT_BIT), "only 8-bit moments have blocks"),
        "exp_avg_sq": (optimizer == "sgd", "SGD keeps no second moment"),
    }
    applies, why = reasons.get(field, (False, ""))
    return why if applies else ""
