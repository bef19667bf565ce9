"""AdamWs of torch, bitsandbytes, torchao and optimi under one signature, for training and to be compared with."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

MakeOptimizer = Callable[[Iterable[nn.Parameter], float], Optimizer]
_KNOBS = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2}


@dataclass(frozen=True)
class Backend:
    """Another library's AdamW.

    Attributes:
        name: What it is called here.
        library: The module to be imported, and after a colon what pip calls it if that is another name.
        weights: The parameters' dtype that it is made for.
        stores: What it keeps, in words.
        make: Returns one for parameters and keyword arguments.
    """

    name: str
    library: str
    weights: torch.dtype
    stores: str
    make: Callable[..., Optimizer]

    @property
    def installed(self) -> bool:
        """Whether its library can be imported here."""
        return importlib.util.find_spec(self.library.partition(":")[0]) is not None

    def __call__(self, parameters: Iterable[nn.Parameter], lr: float) -> Optimizer:
        """Returns the optimizer; betas 0.9 and 0.999, eps 1e-8, decoupled weight decay 0.01.

        Raises:
            ModuleNotFoundError: Its library is not installed.
        """
        if not self.installed:
            module, _, package = self.library.partition(":")
            raise ModuleNotFoundError(f"{self.name} needs {module}; pip install {package or module}")
        return self.make(parameters, lr=lr, **_KNOBS)


def backend(name: str) -> Backend:
    """Returns a backend, to be called with parameters and a learning rate, also as the optimizer of a `mixlab.Task`.

    >>> from dataclasses import replace
    >>> from mixlab.training import load_task
    >>> task = replace(load_task("digits-cnn"), optimizer=backend("torch foreach"))

    Raises:
        ValueError: An unknown name.
    """
    if name not in BACKENDS:
        raise ValueError(f"unknown optimizer backend {name!r}: use one of {', '.join(BACKENDS)}")
    return BACKENDS[name]


def _torch(parameters: Iterable[nn.Parameter], **knobs: Any) -> Optimizer:
    return torch.optim.AdamW(parameters, **knobs)


def _bitsandbytes(name: str, parameters: Iterable[nn.Parameter], **knobs: Any) -> Optimizer:
    import bitsandbytes

    make: Callable[..., Optimizer] = getattr(bitsandbytes.optim, name)
    return make(parameters, **knobs)


def _torchao(name: str, parameters: Iterable[nn.Parameter], **knobs: Any) -> Optimizer:
    import torchao.optim

    make: Callable[..., Optimizer] = getattr(torchao.optim, name)
    return make(parameters, **knobs)


def _optimi(parameters: Iterable[nn.Parameter], **knobs: Any) -> Optimizer:
    import optimi

    make: Callable[..., Optimizer] = optimi.AdamW
    return make(parameters, **knobs)


_SMALL = "parameters under 4096 elements in fp32"
BACKENDS: dict[str, Backend] = {
    one.name: one
    for one in (
        Backend("torch fused", "torch", torch.float32, "fp32", partial(_torch, fused=True)),
        Backend("torch foreach", "torch", torch.float32, "fp32", partial(_torch, foreach=True)),
        Backend("torch loop", "torch", torch.float32, "fp32", partial(_torch, foreach=False)),
        Backend("bitsandbytes 32-bit", "bitsandbytes", torch.float32, "fp32", partial(_bitsandbytes, "AdamW32bit")),
        Backend(
            "bitsandbytes 8-bit",
            "bitsandbytes",
            torch.float32,
            f"8-bit dynamic, blocks of 256; {_SMALL}",
            partial(_bitsandbytes, "AdamW8bit"),
        ),
        Backend(
            "torchao 8-bit",
            "torchao",
            torch.float32,
            f"8-bit dynamic, blocks of 256; {_SMALL}",
            partial(_torchao, "AdamW8bit"),
        ),
        Backend(
            "torchao 4-bit",
            "torchao",
            torch.float32,
            f"4-bit, blocks of 128; {_SMALL}",
            partial(_torchao, "AdamW4bit"),
        ),
        Backend(
            "torchao fp8",
            "torchao",
            torch.float32,
            f"e4m3fn, blocks of 256; {_SMALL}",
            partial(_torchao, "AdamWFp8"),
        ),
        Backend("optimi", "optimi:torch-optimi", torch.float32, "fp32", _optimi),
        Backend(
            "optimi bf16 kahan",
            "optimi:torch-optimi",
            torch.bfloat16,
            "bf16, with a Kahan sum",
            partial(_optimi, kahan_sum=True),
        ),
    )
}
