"""Checks an estimate with a trace: formulas take a millisecond, the exact peak takes seconds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

from mixlab.batches import Batch
from mixlab.memory.estimates import Estimate
from mixlab.memory.module_estimates import labelled_tokens, meta_module
from mixlab.memory.traced_step import Trace
from mixlab.memory.tracing import trace
from mixlab.memory.transformers import transformer
from mixlab.optimizers import MakeOptimizer, OptimizerName


def confirm(training: Estimate, config: str | Path | None = None) -> Trace:
    """Traces an estimated training as on CUDA; a model of 70 billion parameters takes half a minute.

    >>> from mixlab.memory.estimates import estimate
    >>> training = estimate("gpt2", "bf16", batch=4, seq=512)
    >>> round(confirm(training).peak_bytes / training.peak_bytes, 2)
    1.0

    Args:
        training: An estimate for one GPU.
        config: The config.json from which transformers builds its module, if `training` is an estimate of that module;
            mixlab's own layers need none.

    Raises:
        ImportError: If a module of transformers is to be built, and transformers is not installed.
        ValueError: If it is for several GPUs, steps with the compiled step of mixlab's own optimizers, or estimates a
            module of transformers without a config.
    """
    if training.parallel.gpus > 1:
        raise ValueError(f"confirm: a trace covers one GPU, but this training runs on {training.parallel}")
    model, batch = _own_layers(training) if training.module == "mixlab" else _of_transformers(training, config)
    return trace(
        model,
        batch,
        training.recipe,
        optimizer=_optimizer(training),
        accumulation=training.accumulation * training.parallel.microbatches,
    )


def _own_layers(training: Estimate) -> tuple[nn.Module, Batch]:
    with torch.device("meta"):
        model = transformer(training.shape, attention=training.attention, checkpointing=training.checkpointing)
        tokens = torch.empty(training.batch, training.seq, dtype=torch.long)
    return model, (tokens, tokens)


def _of_transformers(training: Estimate, config: str | Path | None) -> tuple[nn.Module, Batch]:
    if config is None:
        raise ValueError(
            f"confirm: transformers' module for {training.shape.name} is built from its config.json; give its path"
        )
    model = meta_module(Path(config), training.attention, training.checkpointing)
    return model, labelled_tokens(training.batch, training.seq)


def _optimizer(training: Estimate) -> OptimizerName | MakeOptimizer:
    if training.recipe.uses_torch_optim:
        return training.optimizer if training.step == "foreach" else _of_torch(training)
    if training.step == "fused":
        raise ValueError(
            f"confirm: recipe {training.recipe} trains with mixlab's own optimizer, whose compiled step (fused) cannot "
            "be traced; use step=loop"
        )
    return training.optimizer


def _of_torch(training: Estimate) -> MakeOptimizer:
    fused = training.step == "fused"

    def make(parameters: Iterable[nn.Parameter], lr: float) -> Optimizer:
        if training.optimizer == "sgd":
            return torch.optim.SGD(parameters, lr, momentum=0.9, fused=fused, foreach=False)
        made = torch.optim.AdamW if training.optimizer == "adamw" else torch.optim.Adam
        return made(parameters, lr, fused=fused, foreach=False)

    return make
