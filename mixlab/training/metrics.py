"""Metrics: what a step's record shows beside the loss."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixlab.batches import Batch, Loss, is_pair, logits_of, loss_part

Metric = Callable[[Any, Any], Tensor | float | None]

_IGNORED = -100  # torch's own


def accuracy(output: Any, targets: Any, *, ignore_index: int = _IGNORED) -> Tensor | None:
    """Returns the share of targets to which the output gives the highest score; None if they are no class numbers.

    Args:
        output: Scores of C classes, (..., C), or for images (B, C, ...); or an output that holds them as `.logits`.
        targets: Class numbers, (...), or for images (B, ...).
        ignore_index: Targets that do not count. If all are ignored, the share is NaN.
    """
    logits = logits_of(output)
    if not isinstance(logits, Tensor) or logits.dim() < 2 or not _are_classes(targets):
        return None
    classes = -1 if logits.shape[:-1] == targets.shape else 1
    if logits.shape[classes] < 2 or logits.movedim(classes, -1).shape[:-1] != targets.shape:
        return None
    counted = targets != ignore_index
    share: Tensor = ((logits.argmax(classes) == targets) & counted).sum() / counted.sum()
    return share


def _are_classes(targets: Any) -> bool:
    return isinstance(targets, Tensor) and not (
        targets.is_floating_point() or targets.is_complex() or targets.dtype is torch.bool
    )


def metric_of(loss: Loss | None, batch: Batch) -> Metric | None:
    """Returns the metric of a task that names none: the accuracy if its loss is a cross-entropy, or else None.

    Args:
        loss: The task's loss; None is cross-entropy. torch's cross-entropy and negative log-likelihood say themselves
            which targets they ignore.
        batch: A batch, whose targets must be class numbers.
    """
    if not is_pair(batch) or not _are_classes(loss_part(batch)):
        return None
    if loss is None:
        return accuracy
    function, options = (loss.func, loss.keywords) if isinstance(loss, functools.partial) else (loss, {})
    if function in (F.cross_entropy, F.nll_loss):
        return functools.partial(accuracy, ignore_index=options.get("ignore_index", _IGNORED))
    if isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss):
        return functools.partial(accuracy, ignore_index=loss.ignore_index)
    return None


def name_of(metric: Metric) -> str:
    """Returns a metric's name for people: that of the function or class, "metric" if it has none.

    >>> name_of(accuracy), name_of(F.l1_loss), name_of(nn.MSELoss()), name_of(lambda output, targets: 0.0)
    ('accuracy', 'l1 loss', 'MSELoss', 'metric')

    Args:
        metric: The metric.
    """
    while isinstance(metric, functools.partial):
        metric = metric.func
    name = str(getattr(metric, "__name__", type(metric).__name__))
    return "metric" if name == "<lambda>" else name.replace("_", " ").strip()
