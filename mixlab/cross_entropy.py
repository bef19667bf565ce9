"""Cross-entropy as CUDA's autocast sees it: not one op, but those that it is made of."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.nn import _reduction


def cross_entropy_in_parts(
    input: Tensor,  # noqa: A002
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Returns `F.cross_entropy` of the same arguments, from log_softmax, nll_loss, sum and products, called by Python.

    `cross_entropy` is on no list of CUDA's autocast. Of its parts, log_softmax is asked for its input's dtype, which
    overrules the list: of 16-bit logits, the logarithms of probabilities are rounded to 16 bits. Only what is made of
    them, nll_loss or a sum, is computed in float32 (PyTorch, aten/src/ATen/native/LossNLL.cpp, and the rule
    fp32_set_opt_dtype in ATen/autocast_mode.h). Logits that the caller casts to float32 avoid that.
    """
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce)
    _reduction.get_enum(reduction)
    if not 0 <= label_smoothing <= 1:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    dim = min(input.dim() - 1, 1)
    classes = input.shape[dim]
    log_probabilities = F.log_softmax(input, dim, dtype=input.dtype)
    if target.shape == input.shape:
        if label_smoothing:
            target = target * (1 - label_smoothing) + label_smoothing / classes
        terms = _weighted(log_probabilities * target, weight, dim)
        return -terms.sum(dim) if reduction == "none" else -_reduced(terms, reduction, input.numel() // classes)
    loss = F.nll_loss(log_probabilities, target, weight, ignore_index=ignore_index, reduction=reduction)
    if not label_smoothing:
        return loss
    ignored = target == ignore_index
    smooth = (-_weighted(log_probabilities, weight, dim).sum(dim)).masked_fill(ignored, 0.0)
    count: Tensor = (~ignored).sum()
    if weight is not None:
        count = weight[target.masked_fill(ignored, 0)].masked_fill(ignored, 0.0).sum()
    return (1 - label_smoothing) * loss + label_smoothing / classes * _reduced(smooth, reduction, count)


def _weighted(terms: Tensor, weight: Tensor | None, dim: int) -> Tensor:
    return terms if weight is None else terms * weight.view([-1 if d == dim else 1 for d in range(terms.dim())])


def _reduced(loss: Tensor, reduction: str, count: Tensor | int) -> Tensor:
    if reduction == "none":
        return loss
    return loss.sum() / count if reduction == "mean" else loss.sum()
