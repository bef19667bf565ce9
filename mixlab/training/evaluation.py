"""Evaluation of a model in the middle of training, without effect on the training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Puts a model into evaluation mode, and on exit restores the mode of each module and the value of each buffer.

    Buffers are restored because some modules, such as quantization observers, change them in every mode.

    Args:
        model: Any module.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(name, buffer, buffer.clone()) for name, buffer in model.named_buffers()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:  # parents come first, and set their children too
            if module.training != training:
                module.train(training)
        for module, training in modes:
            module.training = training  # whatever the module's own `train` did
        for name, buffer, before in buffers:
            _put_back(model, name, buffer, before)


@torch.no_grad()
def _put_back(model: nn.Module, name: str, buffer: torch.Tensor, before: torch.Tensor) -> None:
    owner, _, attribute = name.rpartition(".")
    module = model.get_submodule(owner)
    if getattr(module, attribute) is not buffer:
        setattr(module, attribute, buffer)
    buffer.copy_(before)
