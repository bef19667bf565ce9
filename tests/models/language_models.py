"""Language models of transformers: a tiny config for each type, and batches for each kind of training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.models.causal_configs import CHANGES
from tests.models.exactness import Architecture

WORDS = {"vocab_size": 101, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_BERT = {
    **WORDS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 48,
}
OF_LLAMA = {**_BERT, "num_key_value_heads": 2, "head_dim": 8}
_MAMBA = {**WORDS, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}
_EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_BART = {
    **WORDS,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 48,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
_T5 = {**WORDS, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}

CAUSAL: dict[str, dict[str, Any]] = {
    **{name: {"pad_token_id": 0, **config} for name, (config, _) in CHANGES.items()},
    "codegen": {**WORDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 48, "n_ctx": 48, "rotary_dim": 4},
    "falcon_mamba": _MAMBA,
    "jamba": {
        **OF_LLAMA,
        **_EXPERTS,
        "mamba_d_state": 4,
        "mamba_dt_rank": 4,
        "use_mamba_kernels": False,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
    },
    "llama4_text": {**OF_LLAMA, **_EXPERTS, "intermediate_size_mlp": 64},
    "mamba": _MAMBA,
    "mamba2": {**_MAMBA, "head_dim": 8, "num_heads": 8, "n_groups": 2, "chunk_size": 8},
    "qwen3_next": {
        **OF_LLAMA,
        **_EXPERTS,
        "shared_expert_intermediate_size": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    },
    "recurrent_gemma": {**OF_LLAMA, "num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 8},
    "rwkv": {**WORDS, "hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 2, "context_length": 48},
}
"""What is not a type's default in its config."""

IDS = torch.arange(3, 35).reshape(2, 16)
PADDED = torch.ones(2, 16, dtype=torch.long).index_put((torch.tensor(0), torch.arange(4)), torch.tensor(0))


def made(auto: str, name: str, options: dict[str, Any], change: Callable[[Any], object]) -> Callable[[], nn.Module]:
    """Returns what makes a model of transformers.

    Args:
        auto: Which of its automatic classes, without "AutoModelFor".
        name: The `model_type` of its config.
        options: What is not the default in its config.
        change: Called with the new model.
    """

    def make() -> nn.Module:
        import transformers

        config = transformers.AutoConfig.for_model(name, **options)
        model = getattr(transformers, f"AutoModelFor{auto}").from_config(config)
        change(model)
        return model.train()

    return make


def as_made(_model: Any) -> None:
    """Leaves a model as it is."""


def eager(model: Any) -> None:
    model.set_attn_implementation("eager")


def batched_experts(model: Any) -> None:
    model.set_experts_implementation("batched_mm")


def checkpointed(model: Any) -> None:
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def checkpointed_reentrantly(model: Any) -> None:
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    model.enable_input_require_grads()


def half_frozen(model: Any) -> None:
    """Leaves every other parameter to train."""
    for parameter in list(model.parameters())[::2]:
        parameter.requires_grad_(False)


KINDS: dict[str, tuple[Callable[[Any], object], dict[str, Any]]] = {
    "sdpa": (as_made, {}),
    "eager attention": (eager, {}),
    "padding": (as_made, {"attention_mask": PADDED}),
    "mask of ones": (as_made, {"attention_mask": torch.ones_like(PADDED)}),
    "eager, padding": (eager, {"attention_mask": PADDED}),
    "cache": (as_made, {"use_cache": True}),
    "checkpointing": (checkpointed, {}),
    "reentrant checkpointing": (checkpointed_reentrantly, {}),
    "half frozen": (half_frozen, {}),
    "batched experts": (batched_experts, {}),
}
"""Ways to train a causal model: what is done to it, and what it is called with besides ids and labels."""


def causal(name: str, kind: str) -> Architecture:
    """Returns a model of `CAUSAL` that predicts the next word, trained in one of `KINDS`."""
    change, arguments = KINDS[kind]
    batch = {"input_ids": IDS, "labels": IDS, "use_cache": False, **arguments}
    return Architecture(f"causal, {kind}", made("CausalLM", name, CAUSAL[name], change), batch)


TARGETS: dict[str, dict[str, torch.Tensor]] = {
    "MaskedLM": {"labels": IDS},
    "SequenceClassification": {"labels": torch.tensor([0, 1])},
    "TokenClassification": {"labels": IDS % 2},
    "QuestionAnswering": {"start_positions": torch.tensor([0, 1]), "end_positions": torch.tensor([2, 3])},
    "Seq2SeqLM": {"labels": IDS},
}
"""What the automatic classes of transformers are trained on."""


def trained_as(auto: str, name: str, options: dict[str, Any]) -> Architecture:
    """Returns a model of one of the automatic classes in `TARGETS`, and a batch with padding."""
    batch = {"input_ids": IDS, "attention_mask": PADDED, **TARGETS[auto]}
    return Architecture(auto, made(auto, name, options, as_made), batch)


ENCODERS: dict[str, dict[str, Any]] = {
    "albert": {**_BERT, "embedding_size": 16},
    "bert": _BERT,
    "big_bird": {**_BERT, "block_size": 4},
    "convbert": {**_BERT, "embedding_size": 32},
    "deberta-v2": {**_BERT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "distilbert": {**WORDS, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 48},
    "electra": {**_BERT, "embedding_size": 16},
    "modernbert": {
        **_BERT,
        "cls_token_id": 1,
        "sep_token_id": 2,
        "global_attn_every_n_layers": 2,
        "local_attention": 8,
    },
    "mpnet": _BERT,
    "roberta": _BERT,
}
SEQ2SEQ: dict[str, dict[str, Any]] = {
    "bart": _BART,
    "led": {
        **_BART,
        "attention_window": 8,
        "max_encoder_position_embeddings": 48,
        "max_decoder_position_embeddings": 48,
    },
    "mt5": _T5,
    "pegasus": _BART,
    "t5": _T5,
}
