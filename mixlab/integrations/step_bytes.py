"""The memory of a step in somebody's training, as far as it can be told, beside a prediction."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mixlab.layers import local_part
from mixlab.optimizers import state_bytes


class PredictedPeak(Protocol):
    """What predicts a peak: a `mixlab.memory.Trace` or an `Estimate`."""

    @property
    def peak_bytes(self) -> int: ...


@dataclass(frozen=True)
class StepBytes:
    """The bytes of a training that can be told without changing it.

    Attributes:
        parameters, gradients, states: Counted from the tensors of the model and its optimizers; of sharded ones, this
            process's part.
        peak: The most bytes that CUDA's caching allocator held for tensors on the model's device since the process
            began or its statistics were reset, as `torch.cuda.max_memory_allocated` says. None on a CPU, whose
            allocator keeps no such number.
    """

    parameters: int
    gradients: int
    states: int
    peak: int | None

    def report(self, predicted: PredictedPeak | None = None) -> str:
        """Returns a line of what was counted, and one of the peak beside its prediction.

        Args:
            predicted: A trace or an estimate of the same training.
        """
        kept = f"parameters {_size(self.parameters)}, gradients {_size(self.gradients)}, states {_size(self.states)}"
        peak = "no peak: a CPU's allocator keeps none" if self.peak is None else f"peak {_size(self.peak)}"
        if predicted is not None:
            peak += f"; predicted {_size(predicted.peak_bytes)}"
            if self.peak:
                peak += f", {self.peak / predicted.peak_bytes - 1:+.1%} measured"
        return f"memory: {kept}\n        {peak}"


def bytes_of(model: nn.Module, optimizers: Iterable[Optimizer], gradients: int) -> StepBytes:
    """Returns the bytes of a model in training.

    Args:
        model: The model.
        optimizers: Its optimizers.
        gradients: The bytes of its gradients when the optimizers stepped; see `gradient_bytes`.
    """
    parameters = list(model.parameters())
    device = parameters[0].device if parameters else torch.device("cpu")
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return StepBytes(_bytes(parameters), gradients, sum(map(state_bytes, optimizers)), peak)


def gradient_bytes(model: nn.Module) -> int:
    """Returns the bytes of all gradients."""
    return _bytes(parameter.grad for parameter in model.parameters() if parameter.grad is not None)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(local_part(tensor).nbytes for tensor in tensors)


def _size(size: int) -> str:
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 2**power:
            return f"{size / 2**power:.2f} {unit}"
    return f"{size} bytes"
