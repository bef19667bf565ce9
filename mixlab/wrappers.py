"""Optimizers inside the wrappers of accelerate, Lightning and others."""

from __future__ import annotations

from typing import Any

# accelerate, Lightning and Fabric; timm's Lookahead; SAM; torch.distributed, where it has this process's share
_INSIDE = ("optimizer", "_base_optimizer", "base_optimizer", "optim")


def unwrapped(optimizer: Any) -> Any:
    """Returns the optimizer inside a wrapper, such as accelerate's, Lightning's or a Lookahead; or itself.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.ones(1)])
    >>> unwrapped(optimizer) is optimizer
    True

    Args:
        optimizer: An optimizer, wrapped any number of times or not at all.
    """
    seen = [optimizer]
    while (inner := _inside(seen[-1])) is not None and not any(inner is one for one in seen):
        seen.append(inner)
    return seen[-1]


def _inside(optimizer: Any) -> Any:
    for name in _INSIDE:
        inner = getattr(optimizer, name, None)
        # One that holds an optimizer for other parameters, as Muon may hold an AdamW, is no wrapper.
        if hasattr(inner, "param_groups") and (name == "optim" or _parameters(optimizer) <= _parameters(inner)):
            return inner
    return None


def _parameters(optimizer: Any) -> set[int]:
    return {id(parameter) for group in getattr(optimizer, "param_groups", ()) for parameter in group["params"]}
