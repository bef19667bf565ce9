"""Updates that rounding swallows: weights that do not change although the optimizer updates them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mixlab.formats import Format, round_to


def swallowed(weights: Tensor, updates: Tensor, fmt: Format | str) -> float:
    """Returns the share of non-zero updates that are lost when weights in `fmt` are updated without a master copy.

    A weight w, rounded to `fmt`, loses its update u if w + u rounds to w again. That happens if u is below about half
    the distance to the next value, eps/4 to eps/2 times the weight (Micikevicius et al., Mixed Precision Training,
    2018, section 3.1). Values beyond the format's range become inf.

    >>> import torch
    >>> swallowed(torch.ones(2), torch.tensor([1e-2, 1e-3]), "bf16")
    0.5

    Args:
        weights: The weights before the update.
        updates: What is added to the weights, in the same shape.
        fmt: The format in which weights are stored, or its name.

    Returns:
        A fraction from 0 to 1; 0 if every update is zero.

    Raises:
        ValueError: If the shapes differ.
    """
    if weights.shape != updates.shape:
        raise ValueError(
            f"swallowed: weights {tuple(weights.shape)} and updates {tuple(updates.shape)} differ in shape"
        )
    stored = round_to(weights.detach().float(), fmt, overflow="inf")
    moved = round_to(stored + updates.detach().float(), fmt, overflow="inf")
    meant = updates != 0
    return float(((moved == stored) & meant).sum()) / max(1, int(meant.sum()))


def swallowed_by_layer(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], fmt: Format | str
) -> dict[str, float]:
    """Returns `swallowed` for each parameter of one float32 step.

    Args:
        before: The weights before the step, by parameter name.
        after: The weights after the step.
        fmt: The format in which weights would be stored, or its name.
    """
    return {name: swallowed(before[name], after[name].float() - before[name].float(), fmt) for name in before}


def swallowed_in_all(before: Mapping[str, Tensor], after: Mapping[str, Tensor], fmt: Format | str) -> float:
    """Returns `swallowed` for all parameters of one float32 step together.

    Updates that float32 lost itself are not seen here; `track_updates` counts those.

    Args:
        before: The weights before the step, by parameter name.
        after: The weights after the step.
        fmt: The format in which weights would be stored, or its name.
    """
    weights = torch.cat([weight.float().flatten() for weight in before.values()])
    return swallowed(weights, torch.cat([after[name].float().flatten() for name in before]) - weights, fmt)
