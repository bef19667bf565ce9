"""The AdamW of torch, bitsandbytes, torchao and optimi under one signature, to train with and to compare."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.optim import Optimizer

from mixlab.optimizers.choices import require_backend

MakeOptimizer = Callable[[Iterable[nn.Parameter], float], Optimizer]


@dataclass(frozen=True)
class Backend:
    """Another library's AdamW, a function of parameters and learning rate.

    Attributes:
        name: Its name in `BACKENDS`.
        library: The module to import, with a colon and pip's name for it if the two differ.
        weights: The parameters' dtype it is made for.
        stores: How it stores its states, in words.
        make: Returns the optimizer for parameters and a learning rate.
    """

    name: str
    library: str
    weights: torch.dtype
    stores: str
    make: MakeOptimizer

    @property
    def installed(self) -> bool:
        """Whether its library can be imported here."""
        return importlib.util.find_spec(self.library.partition(":")[0]) is not None

    def __call__(self, parameters: Iterable[nn.Parameter], lr: float) -> Optimizer:
        """Returns the optimizer, with betas 0.9 and 0.999, eps 1e-8 and decoupled weight decay 0.01.

        Args:
            parameters: Parameters of dtype `weights`.
            lr: Learning rate.

        Raises:
            ModuleNotFoundError: If its library is not installed.
        """
        if not self.installed:
            module, _, package = self.library.partition(":")
            raise ModuleNotFoundError(f"{self.name} needs {module}; pip install {package or module}")
        return self.make(parameters, lr)


def backend(name: str) -> Backend:
    """Returns a backend: a function of parameters and learning rate, which can also be a `mixlab.Task`'s optimizer.

    >>> from dataclasses import replace
    >>> from mixlab.training import load_task
    >>> task = replace(load_task("digits-cnn"), optimizer=backend("torch foreach"))

    Args:
        name: One of `BACKENDS`.

    Raises:
        ValueError: If the name is unknown.
    """
    require_backend(name)
    return BACKENDS[name]


def _adamw(
    module: str, name: str, options: Mapping[str, bool], parameters: Iterable[nn.Parameter], lr: float
) -> Optimizer:
    """Returns the optimizer `name` of a module, with the settings that all backends have in common."""
    adamw: Callable[..., Optimizer] = getattr(importlib.import_module(module), name)
    return adamw(parameters, lr=lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, **options)


def _torch(name: str, options: Mapping[str, bool]) -> Backend:
    return Backend(name, "torch", torch.float32, "fp32", partial(_adamw, "torch.optim", "AdamW", options))


def _bitsandbytes(name: str, stores: str, optimizer: str) -> Backend:
    return Backend(name, "bitsandbytes", torch.float32, stores, partial(_adamw, "bitsandbytes.optim", optimizer, {}))


def _torchao(name: str, stores: str, optimizer: str) -> Backend:
    return Backend(name, "torchao", torch.float32, stores, partial(_adamw, "torchao.optim", optimizer, {}))


def _optimi(name: str, weights: torch.dtype, stores: str, options: Mapping[str, bool]) -> Backend:
    return Backend(name, "optimi:torch-optimi", weights, stores, partial(_adamw, "optimi", "AdamW", options))


_SMALL = "parameters under 4096 elements in fp32"
BACKENDS: dict[str, Backend] = {
    one.name: one
    for one in (
        _torch("torch fused", {"fused": True}),
        _torch("torch foreach", {"foreach": True}),
        _torch("torch loop", {"foreach": False}),
        _bitsandbytes("bitsandbytes 32-bit", "fp32", "AdamW32bit"),
        _bitsandbytes("bitsandbytes 8-bit", f"8-bit dynamic, blocks of 256; {_SMALL}", "AdamW8bit"),
        _torchao("torchao 8-bit", f"8-bit dynamic, blocks of 256; {_SMALL}", "AdamW8bit"),
        _torchao("torchao 4-bit", f"4-bit, blocks of 128; {_SMALL}", "AdamW4bit"),
        _torchao("torchao fp8", f"e4m3fn, blocks of 256; {_SMALL}", "AdamWFp8"),
        _optimi("optimi", torch.float32, "fp32", {}),
        _optimi("optimi bf16 kahan", torch.bfloat16, "bf16, with a Kahan sum", {"kahan_sum": True}),
    )
}
