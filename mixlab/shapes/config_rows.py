"""The config.json of each model type: which fields say which part of a shape, by transformers 5.24.

A constant stands for itself. What a type's design has anyway is in `DESIGNS`; here stands what its fields change.
"""

from __future__ import annotations

from mixlab.shapes.config_parts import (
    ATTENTION_BIAS,
    BIASES,
    CAUSAL,
    DEEPSEEK_EXPERTS,
    EARLY_WINDOWS,
    EVERY_OTHER_WINDOW,
    EXPERTS,
    FFN_BIAS,
    FOURFOLD,
    GEMMA,
    GPT2,
    GPT2_NAMES,
    HEAD,
    HEADS_OF_KEYS,
    LATE_WINDOWS,
    LATENT,
    LOCAL_EXPERTS,
    PARTLY_ROTARY,
    QKV_BIAS,
    QWEN_EXPERTS,
    ROUTED,
    SIZES,
    USE_BIAS,
    fourfold,
    nothing,
    windows_by_pattern,
)
from mixlab.shapes.config_reads import (
    ConfigRow,
    Read,
    activation,
    dropouts,
    every_window,
    layers,
    product,
    rotary_share,
    size,
    size_or,
    some_windows,
    truth,
)
from mixlab.shapes.config_special import (
    dense_layers_of_ernie,
    dropout_of_mpt,
    embedding_width_of_opt,
    final_norm_of_opt,
    kv_heads_of_falcon,
    local_layers_of_gpt_neo,
    norms_of_falcon,
    unrotated_of_smollm,
)

CONFIG_ROWS: dict[str, ConfigRow] = {
    "bloom": ConfigRow.of(
        "BloomForCausalLM",
        {
            "layers": layers("n_layer"),
            "width": size("hidden_size"),
            "heads": size("n_head"),
            **HEADS_OF_KEYS,
            **FOURFOLD,
            "vocabulary": size("vocab_size"),
            "context": size("seq_length"),
            "tied": truth("tie_word_embeddings"),
            "dropout": dropouts(attention="attention_dropout", residual="hidden_dropout"),
        },
        allowed={"apply_residual_connection_post_layernorm": (False,), "slow_but_exact": (False,)},
        harmless="bias_dropout_fusion masked_softmax_fusion skip_bias_add skip_bias_add_qkv offset_alibi "
        "attention_softmax_in_fp32",
        aliases={"num_hidden_layers": "n_layer", "num_attention_heads": "n_head", "n_embed": "hidden_size"},
    ),
    "cohere": ConfigRow.of(
        "CohereForCausalLM",
        *(SIZES, HEAD, BIASES, {"design.head_norm": truth("use_qk_norm", "heads", None)}),
        harmless="logit_scale",
    ),
    "cohere2": ConfigRow.of(
        "Cohere2ForCausalLM",
        *(SIZES, BIASES, windows_by_pattern(4)),
        {"unrotated": Read((), lambda _, parts: parts["layers"] - parts["windowed"])},
        allowed={"use_qk_norm": (False,), "use_parallel_block": (True,), "use_gated_activation": (True,)},
        harmless="logit_scale rotary_pct layer_switch order_of_interleaved_layers position_embedding_type "
        "use_embedding_sharing use_parallel_embedding",
    ),
    "deepseek_v2": ConfigRow.of(
        "DeepseekV2ForCausalLM",
        *(SIZES, BIASES, FFN_BIAS, LATENT, DEEPSEEK_EXPERTS, {"experts.shared_bias": truth("mlp_bias")}),
        allowed=ROUTED,
        aliases={"num_experts": "n_routed_experts"},
    ),
    "deepseek_v3": ConfigRow.of(
        "DeepseekV3ForCausalLM",
        *(SIZES, BIASES, LATENT, DEEPSEEK_EXPERTS),
        allowed=ROUTED,
        aliases={"num_local_experts": "n_routed_experts"},
    ),
    "ernie4_5": ConfigRow.of("Ernie4_5ForCausalLM", SIZES, HEAD, USE_BIAS),
    "ernie4_5_moe": ConfigRow.of(
        "Ernie4_5_MoeForCausalLM",
        *(SIZES, HEAD, USE_BIAS),
        {
            "design.head_bias": truth("use_bias"),
            "experts.count": size("moe_num_experts"),
            "experts.active": size("moe_k"),
            "experts.width": size("moe_intermediate_size"),
            "experts.shared": product("moe_num_shared_experts", "moe_intermediate_size"),
            "experts.shared_bias": truth("use_bias"),
            "experts.corrections": True,
            "experts.dense_layers": Read(
                ("moe_layer_start_index", "moe_layer_end_index", "moe_layer_interval"), dense_layers_of_ernie
            ),
        },
        allowed=ROUTED,
        harmless="moe_capacity moe_gate moe_use_aux_free",
        aliases={"num_experts": "moe_num_experts", "num_experts_per_tok": "moe_k"},
    ),
    "falcon": ConfigRow.of(
        "FalconForCausalLM",
        SIZES,
        {
            "kv_heads": Read(("new_decoder_architecture", "multi_query", "num_kv_heads"), kv_heads_of_falcon),
            "ffn": size_or("ffn_hidden_size", fourfold),
            **{part: truth("bias") for part in ("qkv_bias", "output_bias", "ffn_bias")},
            "design.activation": activation("activation"),
            "design.positions": truth("alibi", "alibi", "rotary"),
            "design.norms": Read(("parallel_attn", "num_ln_in_parallel_attn"), norms_of_falcon),
            "design.parallel": truth("parallel_attn"),
            "dropout": dropouts(attention="attention_dropout", residual="hidden_dropout"),
        },
        allowed={"ff_factor": (4,)},
        harmless="apply_residual_connection_post_layernorm",
        aliases={"n_embed": "hidden_size"},
    ),
    "gemma": ConfigRow.of("GemmaForCausalLM", SIZES, HEAD, BIASES, allowed=CAUSAL, harmless="hidden_activation"),
    "gemma2": ConfigRow.of(
        "Gemma2ForCausalLM",
        *(SIZES, HEAD, BIASES, GEMMA, EVERY_OTHER_WINDOW),
        allowed=CAUSAL,
        harmless="hidden_act query_pre_attn_scalar sliding_window_size",
    ),
    "gemma3_text": ConfigRow.of(
        "Gemma3ForCausalLM",
        *(SIZES, HEAD, BIASES, GEMMA, windows_by_pattern(6)),
        allowed=CAUSAL,
        harmless="hidden_act query_pre_attn_scalar rope_local_base_freq _sliding_window_pattern",
    ),
    "glm": ConfigRow.of("GlmForCausalLM", SIZES, HEAD, QKV_BIAS, PARTLY_ROTARY),
    "glm4": ConfigRow.of("Glm4ForCausalLM", SIZES, HEAD, QKV_BIAS, PARTLY_ROTARY),
    "glm4_moe": ConfigRow.of(
        "Glm4MoeForCausalLM",
        *(SIZES, HEAD, QKV_BIAS, PARTLY_ROTARY, DEEPSEEK_EXPERTS),
        {"design.head_norm": truth("use_qk_norm", "head", None)},
        allowed=ROUTED,
        aliases={"num_local_experts": "n_routed_experts"},
    ),
    "gpt2": ConfigRow.of(
        "GPT2LMHeadModel",
        GPT2,
        allowed={
            "scale_attn_weights": (True,),
            "add_cross_attention": (False,),
            "reorder_and_upcast_attn": (False,),
            "scale_attn_by_inverse_layer_idx": (False,),
        },
        aliases=GPT2_NAMES,
    ),
    "gpt_bigcode": ConfigRow.of(
        "GPTBigCodeForCausalLM",
        GPT2,
        {
            "kv_heads": Read(
                ("multi_query",), lambda config, parts: 1 if config.truth("multi_query") else parts["heads"]
            )
        },
        allowed={
            "scale_attn_weights": (True,),
            "add_cross_attention": (False,),
            "attention_softmax_in_fp32": (True,),
            "scale_attention_softmax_in_fp32": (True,),
        },
        harmless="inference_runner max_batch_size max_sequence_length pad_key_length pre_allocate_kv_cache "
        "validate_runner_input num_key_value_heads",
        aliases=GPT2_NAMES,
    ),
    "gpt_neo": ConfigRow.of(
        "GPTNeoForCausalLM",
        *(SIZES, HEADS_OF_KEYS),
        {
            "layers": layers("num_layers"),
            "heads": size("num_heads"),
            "ffn": size_or("intermediate_size", fourfold),
            "design.activation": activation("activation_function"),
            "windowed": Read(("attention_types", "attention_layers"), local_layers_of_gpt_neo),
            "window": Read(
                ("window_size",), lambda config, parts: config.whole("window_size") if parts["windowed"] else None
            ),
            "dropout": dropouts(embedding="embed_dropout", attention="attention_dropout", residual="resid_dropout"),
        },
        aliases={"num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"},
    ),
    "gpt_neox": ConfigRow.of(
        "GPTNeoXForCausalLM",
        *(SIZES, HEADS_OF_KEYS, ATTENTION_BIAS),
        {
            "rotary_width": rotary_share("rotary_pct", "partial_rotary_factor"),
            "design.parallel": truth("use_parallel_residual"),
            "dropout": dropouts(embedding="hidden_dropout", attention="attention_dropout", residual="hidden_dropout"),
        },
    ),
    "gpt_oss": ConfigRow.of(
        "GptOssForCausalLM",
        *(SIZES, HEAD, ATTENTION_BIAS, EXPERTS, EVERY_OTHER_WINDOW),
        {"experts.bias": True, "experts.router_bias": True},
        allowed=ROUTED,
        harmless="experts_per_token initial_context_length swiglu_limit swiglu_alpha",
        aliases=LOCAL_EXPERTS,
    ),
    "gptj": ConfigRow.of(
        "GPTJForCausalLM",
        *(GPT2, {"rotary_width": size_or("rotary_dim", nothing)}),
        allowed={"scale_attn_weights": (True,), "rotary": (True,)},
        aliases=GPT2_NAMES,
    ),
    "granite": ConfigRow.of("GraniteForCausalLM", SIZES, HEAD, BIASES, FFN_BIAS),
    "granitemoe": ConfigRow.of("GraniteMoeForCausalLM", SIZES, HEAD, BIASES, EXPERTS, allowed=ROUTED),
    "llama": ConfigRow.of("LlamaForCausalLM", SIZES, HEAD, BIASES, FFN_BIAS),
    "mistral": ConfigRow.of("MistralForCausalLM", SIZES, HEAD, every_window()),
    "mixtral": ConfigRow.of(
        "MixtralForCausalLM",
        *(SIZES, HEAD, EXPERTS, every_window()),
        {"dropout": dropouts(attention="attention_dropout", experts="router_jitter_noise")},
        allowed=ROUTED,
        aliases=LOCAL_EXPERTS,
    ),
    "mpt": ConfigRow.of(
        "MptForCausalLM",
        {
            "layers": layers("n_layers"),
            "width": size("d_model"),
            "heads": size("n_heads"),
            **HEADS_OF_KEYS,
            **FOURFOLD,
            "vocabulary": size("vocab_size"),
            "context": size("max_seq_len"),
            "tied": truth("tie_word_embeddings"),
            "dropout": Read(("attn_config",), dropout_of_mpt),
        },
        allowed={"no_bias": (True,), "expansion_ratio": (4,)},
        harmless="embedding_fraction norm_type learned_pos_emb emb_pdrop logit_scale",
        aliases={"num_attention_heads": "n_heads", "hidden_size": "d_model", "num_hidden_layers": "n_layers"},
    ),
    "nemotron": ConfigRow.of("NemotronForCausalLM", SIZES, HEAD, BIASES, FFN_BIAS, PARTLY_ROTARY),
    "olmo": ConfigRow.of("OlmoForCausalLM", SIZES, HEAD, BIASES),
    "olmo2": ConfigRow.of("Olmo2ForCausalLM", SIZES, HEAD, BIASES),
    "olmo3": ConfigRow.of("Olmo3ForCausalLM", SIZES, HEAD, BIASES, windows_by_pattern(4)),
    "olmoe": ConfigRow.of(
        "OlmoeForCausalLM",
        *(SIZES, BIASES, EXPERTS, {"experts.count": size("num_experts")}),
        allowed=ROUTED,
        aliases={"num_local_experts": "num_experts"},
    ),
    "opt": ConfigRow.of(
        "OPTForCausalLM",
        *(SIZES, HEADS_OF_KEYS),
        {
            "ffn": size("ffn_dim"),
            "embedding_width": Read(("word_embed_proj_dim",), embedding_width_of_opt),
            **{f"design.{part}": truth("enable_bias") for part in ("qkv_bias", "output_bias", "ffn_bias")},
            "design.activation": activation("activation_function"),
            "design.norm_tensors": truth("layer_norm_elementwise_affine", 2, 0),
            "design.norms": truth("do_layer_norm_before", "before", "residual"),
            "design.final_norm": Read(("do_layer_norm_before", "_remove_final_layer_norm"), final_norm_of_opt),
            "dropout": dropouts(attention="attention_dropout", residual="dropout"),
        },
        allowed={"layerdrop": (0, 0.0)},
        harmless="activation_dropout",
    ),
    "phi": ConfigRow.of(
        "PhiForCausalLM",
        *(SIZES, PARTLY_ROTARY),
        {
            "design.head_norm": truth("qk_layernorm", "head", None),
            "design.head_norm_tensors": truth("qk_layernorm", 2, 1),
            "dropout": dropouts(embedding="embd_pdrop", attention="attention_dropout", residual="resid_pdrop"),
        },
    ),
    "phi3": ConfigRow.of(
        "Phi3ForCausalLM",
        *(SIZES, HEAD, every_window(), PARTLY_ROTARY),
        {"dropout": dropouts(attention="attention_dropout", residual="resid_pdrop")},
        allowed={"attention_bias": (False,), "mlp_bias": (False,), "lm_head_bias": (False,)},
        harmless="full_attn_mod interpolate_factor",
    ),
    "phimoe": ConfigRow.of(
        "PhimoeForCausalLM",
        *(SIZES, HEAD, BIASES, EXPERTS, every_window(), {"design.head_bias": truth("lm_head_bias")}),
        {"dropout": dropouts(attention="attention_dropout", experts="input_jitter_noise")},
        allowed={"output_router_logits": (False,)},
        harmless="router_jitter_noise hidden_dropout",  # a threshold here, not noise, and no dropout
        aliases=LOCAL_EXPERTS,
    ),
    "qwen2": ConfigRow.of("Qwen2ForCausalLM", SIZES, HEAD, LATE_WINDOWS),
    "qwen2_moe": ConfigRow.of(
        "Qwen2MoeForCausalLM",
        *(SIZES, HEAD, QWEN_EXPERTS, EARLY_WINDOWS),
        {
            "design.qkv_bias": truth("qkv_bias"),
            "experts.count": size("num_experts"),
            "experts.shared": size("shared_expert_intermediate_size"),
            "experts.shared_gate": True,
        },
        allowed=ROUTED,
    ),
    "qwen3": ConfigRow.of("Qwen3ForCausalLM", SIZES, HEAD, BIASES, LATE_WINDOWS),
    "qwen3_moe": ConfigRow.of(
        "Qwen3MoeForCausalLM",
        *(SIZES, HEAD, BIASES, QWEN_EXPERTS, {"experts.count": size("num_local_experts")}),
        every_window("use_sliding_window"),
        allowed=ROUTED,
        aliases=LOCAL_EXPERTS,
    ),
    "smollm3": ConfigRow.of(
        "SmolLM3ForCausalLM",
        *(SIZES, HEAD, BIASES, FFN_BIAS, some_windows(sliding=lambda *_: False, switch="use_sliding_window")),
        {"unrotated": Read(("no_rope_layers", "no_rope_layer_interval"), unrotated_of_smollm)},
    ),
    "stablelm": ConfigRow.of(
        "StableLmForCausalLM",
        *(SIZES, PARTLY_ROTARY),
        {
            "qkv_bias": truth("use_qkv_bias"),
            "design.head_norm": truth("qk_layernorm", "heads", None),
            "design.norms": truth("use_parallel_residual", "shared", "before"),
            "design.parallel": truth("use_parallel_residual"),
            "dropout": dropouts(attention="attention_dropout", residual="hidden_dropout"),
        },
    ),
    "starcoder2": ConfigRow.of(
        "Starcoder2ForCausalLM",
        *(SIZES, HEAD, every_window()),
        {f"design.{part}": read for part, read in USE_BIAS.items()},
        {
            "dropout": dropouts(
                embedding="embedding_dropout", attention="attention_dropout", residual="residual_dropout"
            )
        },
        allowed={"mlp_type": ("default",), "norm_type": ("layer_norm",)},
        harmless="activation_function",
    ),
}
