"""Language models of transformers: a tiny config for each type, and batches for each kind of training."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tests.models.exactness import Architecture

WORDS = {"vocab_size": 100, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
DEPTH = {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}
OF_GPT2 = {**WORDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "n_inner": 64}
OF_LLAMA = {**WORDS, **DEPTH, "hidden_size": 32, "intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8}

CAUSAL: dict[str, dict[str, Any]] = {
    "gpt2": OF_GPT2,
    "llama": OF_LLAMA,
}
"""What is not a type's default in its config."""


def causal(name: str, options: dict[str, Any], arguments: dict[str, Any], kind: str = "causal LM") -> Architecture:
    """Returns a model of transformers that predicts the next word.

    Args:
        name: The `model_type` of its config.
        options: What is not the default in its config.
        arguments: What it is called with besides ids and labels.
        kind: What its row says.
    """

    def make() -> nn.Module:
        from transformers import AutoConfig, AutoModelForCausalLM

        return AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **options))

    ids = torch.arange(3, 35).reshape(2, 16)
    return Architecture(kind, make, {"input_ids": ids, "labels": ids, **arguments})
