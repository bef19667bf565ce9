"""Parts of a shape that several model types read from the same fields of their config.json."""

from __future__ import annotations

from typing import Any

from mixlab.shapes.config_reads import (
    Config,
    Parts,
    Read,
    activation,
    dropouts,
    given,
    layers,
    product,
    rotary_share,
    size,
    size_or,
    some_windows,
    truth,
)
from mixlab.shapes.config_special import dense_layers_of_qwen, head_dim


def all_heads(parts: Parts) -> Any:
    """Returns as many as a layer has heads."""
    return parts["heads"]


def fourfold(parts: Parts) -> Any:
    """Returns four times the width."""
    return 4 * parts["width"]


def nothing(_: Parts) -> None:
    """Returns None."""


HEADS_OF_KEYS = {"kv_heads": Read((), lambda _, parts: all_heads(parts))}
FOURFOLD = {"ffn": Read((), lambda _, parts: fourfold(parts))}
SIZES: dict[str, Any] = {
    "layers": layers("num_hidden_layers"),
    "width": size("hidden_size"),
    "heads": size("num_attention_heads"),
    "kv_heads": size_or("num_key_value_heads", all_heads),
    "ffn": size("intermediate_size"),
    "vocabulary": size("vocab_size"),
    "context": size("max_position_embeddings"),
    "tied": truth("tie_word_embeddings"),
    "design.activation": activation("hidden_act"),
    "dropout": dropouts(attention="attention_dropout"),
}
HEAD = {"head_dim": Read(("head_dim",), head_dim)}
BIASES = {"qkv_bias": truth("attention_bias"), "output_bias": truth("attention_bias")}
FFN_BIAS = {"ffn_bias": truth("mlp_bias")}
QKV_BIAS = {"design.qkv_bias": truth("attention_bias")}
ATTENTION_BIAS = {**QKV_BIAS, "design.output_bias": truth("attention_bias")}
USE_BIAS = {part: truth("use_bias") for part in ("qkv_bias", "output_bias", "ffn_bias")}
PARTLY_ROTARY = {"rotary_width": rotary_share("partial_rotary_factor")}

GPT2: dict[str, Any] = {
    "layers": layers("n_layer"),
    "width": size("n_embd"),
    "heads": size("n_head"),
    **HEADS_OF_KEYS,
    "ffn": size_or("n_inner", fourfold),
    "vocabulary": size("vocab_size"),
    "context": size("n_positions"),
    "tied": truth("tie_word_embeddings"),
    "design.activation": activation("activation_function"),
    "dropout": dropouts(embedding="embd_pdrop", attention="attn_pdrop", residual="resid_pdrop"),
}
GPT2_NAMES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}

ROUTED: dict[str, tuple[Any, ...]] = {"output_router_logits": (False,), "router_jitter_noise": (0, 0.0)}
EXPERTS = {
    "experts.count": size("num_local_experts"),
    "experts.active": size("num_experts_per_tok"),
    "experts.width": size("intermediate_size"),
}
LOCAL_EXPERTS = {"num_experts": "num_local_experts"}
QWEN_EXPERTS = {
    "experts.active": size("num_experts_per_tok"),
    "experts.width": size("moe_intermediate_size"),
    "experts.dense_layers": Read(("mlp_only_layers", "decoder_sparse_step"), dense_layers_of_qwen),
}
DEEPSEEK_EXPERTS = {
    "experts.count": size("n_routed_experts"),
    "experts.active": size("num_experts_per_tok"),
    "experts.width": size("moe_intermediate_size"),
    "experts.shared": product("n_shared_experts", "moe_intermediate_size"),
    "experts.dense_layers": size("first_k_dense_replace", 0),
}
LATENT = {
    "latent.query_rank": size_or("q_lora_rank", nothing),
    "latent.kv_rank": size("kv_lora_rank"),
    "latent.plain": size("qk_nope_head_dim"),
    "latent.rotary": size("qk_rope_head_dim"),
    "latent.value": size("v_head_dim"),
}
GEMMA = {
    "design.activation": activation("hidden_activation"),
    "design.attention_softcap": given("attn_logit_softcapping"),
    "design.logit_softcap": given("final_logit_softcapping"),
}
CAUSAL: dict[str, tuple[Any, ...]] = {"use_bidirectional_attention": (False,)}


def windows_by_pattern(default: int) -> dict[str, Read]:
    """Returns how windows are read that all layers have but each `sliding_window_pattern`-th."""

    def sliding(config: Config, layer: int) -> bool:
        pattern = config.value("sliding_window_pattern")
        return (layer + 1) % (default if pattern is None else config.whole("sliding_window_pattern")) != 0

    return some_windows("sliding_window_pattern", sliding=sliding)


EVERY_OTHER_WINDOW = some_windows(sliding=lambda _, layer: layer % 2 == 0)
LATE_WINDOWS = some_windows(
    "max_window_layers",
    sliding=lambda config, layer: layer >= config.whole("max_window_layers", 0),
    switch="use_sliding_window",
)
EARLY_WINDOWS = some_windows(
    "max_window_layers",
    sliding=lambda config, layer: layer % 2 == 0 and layer < config.whole("max_window_layers", 0),
    switch="use_sliding_window",
)
