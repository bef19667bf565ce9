"""The estimate of a module that others made: its shape from its config, its sizes from its batch."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from mixlab.batches import Batch, model_part, require_batch, tensors_of
from mixlab.memory.choices import AttentionKind, Checkpointing
from mixlab.memory.estimates import Estimate, estimate
from mixlab.optimizers import OptimizerName
from mixlab.recipes import Recipe
from mixlab.shapes import ModelShape
from mixlab.shapes.configs import shape_of_fields

_EAGER: dict[AttentionKind, str] = {"fused": "sdpa", "materialised": "eager"}


def estimate_of(
    model: nn.Module,
    batch: Batch,
    recipe: Recipe | str,
    *,
    optimizer: OptimizerName = "adam",
    accumulation: int = 1,
) -> Estimate:
    """Estimates the training of a causal language model of transformers, which is not run.

    Args:
        model: A module of transformers whose config `model_shape` reads; attention and checkpointing are its own.
        batch: Its batch: {"input_ids": (B, T), ...}, or with the tokens first.
        recipe: Recipe of the training, or its text.
        optimizer: "sgd", "adam" or "adamw".
        accumulation: Forward and backward passes per step.

    Raises:
        TypeError: If `model` is no module, `batch` no batch, or `recipe` neither a Recipe nor text.
        ValueError: If there are no formulas for the model; the message says why.
    """
    require_batch("estimate_of", batch)
    shape, config = _shape_of(model), cast(Any, model).config
    rows, length = _tokens(batch)
    return estimate(
        shape,
        recipe,
        batch=rows,
        seq=length,
        attention="materialised" if config._attn_implementation == "eager" else "fused",
        checkpointing="full"
        if any(getattr(one, "gradient_checkpointing", False) for one in model.modules())
        else "none",
        optimizer=optimizer,
        accumulation=accumulation,
        implementation="transformers",
    )


def _shape_of(model: nn.Module) -> ModelShape:
    if not isinstance(model, nn.Module):
        raise TypeError(f"estimate_of: model must be a torch.nn.Module, got {type(model).__name__}")
    name = type(model).__name__
    config: Any = getattr(model, "config", None)
    if not type(model).__module__.startswith("transformers.") or not hasattr(config, "to_json_string"):
        raise ValueError(f"estimate_of: {name} is no model of transformers with a config")
    if frozen := sum(not parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"estimate_of: {frozen} parameters of {name} are frozen, and estimates train them all")
    shape = shape_of_fields({**json.loads(config.to_json_string()), "architectures": [name]}, Path(name))
    numel = sum(parameter.numel() for parameter in model.parameters())
    if numel != shape.parameters:
        raise ValueError(
            f"estimate_of: {name} has {numel:,} parameters, and the shape of its config {shape.parameters:,}; "
            "it was changed after it was made"
        )
    return shape


def _tokens(batch: Batch) -> tuple[int, int]:
    """Returns rows, and tokens of a row."""
    given: Any = model_part(batch)
    tokens = given["input_ids"] if isinstance(given, dict) and "input_ids" in given else tensors_of(given)[0]
    if not isinstance(tokens, Tensor) or tokens.dim() != 2 or tokens.is_floating_point():
        raise ValueError("estimate_of: batch must have input_ids, one integer tensor (B, T)")
    return int(tokens.shape[0]), int(tokens.shape[1])


def meta_module(config: Path, attention: AttentionKind, checkpointing: Checkpointing) -> nn.Module:
    """Builds the causal language model of a config.json on the meta device, with transformers.

    Args:
        config: The config.json.
        attention: "fused" (sdpa) or "materialised" (eager).
        checkpointing: "none" or "full".

    Raises:
        ImportError: If transformers is not installed.
        ValueError: If it cannot build the model.
    """
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise ImportError(
            f"the module of {config} is built with transformers, which cannot be imported: {error}; "
            "install it, or leave the trace out"
        ) from error
    try:
        read = transformers.AutoConfig.from_pretrained(str(config))
        with torch.device("meta"):
            made = transformers.AutoModelForCausalLM.from_config(read, attn_implementation=_EAGER[attention])
    except Exception as error:  # whatever transformers raises
        cause = f"; its cause: {error.__cause__}" if error.__cause__ else ""
        raise ValueError(f"transformers cannot build the model of {config}: {error}{cause}") from error
    model: nn.Module = made
    if checkpointing == "full":
        enable = "activation_checkpointing_enable"  # its name in newer versions
        getattr(model, enable if hasattr(model, enable) else "gradient_checkpointing_enable")()
    return model.train()


def labelled_tokens(rows: int, length: int) -> dict[str, Tensor]:
    """Returns a batch of tokens with labels on the meta device, from which models of transformers compute a loss.

    Args:
        rows: Rows of the batch.
        length: Tokens of a row.
    """
    tokens = torch.zeros(rows, length, dtype=torch.long, device="meta")
    return {"input_ids": tokens, "labels": tokens.clone()}
