"""Updates that rounding swallows: weights that do not move although the optimizer moves them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from mixlab.formats import Format, round_to


def swallowed(weights: Tensor, updates: Tensor, fmt: Format | str) -> float:
    """Returns the share of non-zero updates that are lost when weights stored in `fmt` are updated without master copy.

    A weight w, rounded to `fmt`, loses its update u if w + u rounds back to w: if u is below about half the distance to
    the next value, eps/4 to eps/2 times the weight (Micikevicius et al., Mixed Precision Training, 2018, section 3.1).
    0 without any non-zero update.

    >>> import torch
    >>> swallowed(torch.ones(2), torch.tensor([1e-2, 1e-3]), "bf16")
    0.5

    Args:
        weights, updates: Of one shape, in float32.
        fmt: What the weights are stored in.
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
    """Returns `swallowed` for each parameter of a step in float32, from the weights before and after it, by name."""
    return {name: swallowed(before[name], after[name].float() - before[name].float(), fmt) for name in before}
