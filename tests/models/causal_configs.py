"""A tiny config.json of each model type that `model_shape` reads, and each change of a field that changes its count."""

from __future__ import annotations

from typing import Any

_SIZES = {"num_hidden_layers": 3, "hidden_size": 64, "num_attention_heads": 8, "intermediate_size": 96}
_WORDS = {"vocab_size": 101, "max_position_embeddings": 48}
_ALL = {**_SIZES, **_WORDS}
_GROUPED = {**_ALL, "num_key_value_heads": 4}
_OF_GPT2 = {"n_layer": 3, "n_embd": 64, "n_head": 8, "vocab_size": 101, "n_positions": 48}
_EXPERTS = {"num_local_experts": 6, "num_experts_per_tok": 2}
_ROUTED = {"n_routed_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 40, "first_k_dense_replace": 1}
_LATENT = {"q_lora_rank": 24, "kv_lora_rank": 20, "qk_nope_head_dim": 10, "qk_rope_head_dim": 6, "v_head_dim": 14}
_TIED, _UNTIED = {"tie_word_embeddings": True}, {"tie_word_embeddings": False}
_BIASED, _UNBIASED, _FFN_BIAS = {"attention_bias": True}, {"attention_bias": False}, {"mlp_bias": True}
_WIDE = {"head_dim": 12}
_NEW_FALCON = {"new_decoder_architecture": True, "num_kv_heads": 2}

CHANGES: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "bloom": ({"n_layer": 3, "hidden_size": 64, "n_head": 8, "vocab_size": 101}, [_UNTIED]),
    "cohere": (_GROUPED, [_BIASED, {"use_qk_norm": True}, _UNTIED, _WIDE]),
    "cohere2": (_GROUPED, [_BIASED, _UNTIED, {"sliding_window_pattern": 2}]),
    "deepseek_v2": (
        {**_ALL, **_LATENT, **_ROUTED, "n_shared_experts": 2},
        [
            *(_BIASED, _FFN_BIAS, {"q_lora_rank": None}, {"first_k_dense_replace": 0}, {"first_k_dense_replace": 3}),
            *({"n_shared_experts": 1}, _TIED),
        ],
    ),
    "deepseek_v3": (
        {**_ALL, **_LATENT, **_ROUTED, "n_group": 1, "topk_group": 1, "num_key_value_heads": 8},
        [_BIASED, {"q_lora_rank": None}, {"first_k_dense_replace": 0}, {"n_shared_experts": 3}, _TIED],
    ),
    "ernie4_5": (_GROUPED, [{"use_bias": True}, _WIDE, _UNTIED]),
    "ernie4_5_moe": (
        {**_GROUPED, "moe_num_experts": 6, "moe_k": 2, "moe_intermediate_size": 40, "moe_num_shared_experts": 1},
        [
            *({"use_bias": True}, {"moe_num_shared_experts": 2}, {"moe_num_shared_experts": 0}, _WIDE, _UNTIED),
            *({"moe_layer_start_index": 0}, {"moe_layer_interval": 2}, {"moe_layer_end_index": 1}),
        ],
    ),
    "falcon": (
        {**_WORDS, "num_hidden_layers": 3, "hidden_size": 64, "num_attention_heads": 8},
        [
            *({"bias": True}, {"multi_query": False}, {"parallel_attn": False}, {"alibi": True}, _UNTIED),
            *({"parallel_attn": False, "bias": True, "multi_query": False}, {"ffn_hidden_size": 96}, _NEW_FALCON),
            *({**_NEW_FALCON, "num_ln_in_parallel_attn": 1}, {**_NEW_FALCON, "bias": True}),
        ],
    ),
    "gemma": ({**_GROUPED, **_WIDE}, [_BIASED, _UNTIED, {"head_dim": 8}]),
    "gemma2": (
        {**_GROUPED, **_WIDE},
        [_BIASED, _UNTIED, {"final_logit_softcapping": None}, {"attn_logit_softcapping": None}],
    ),
    "gemma3_text": ({**_GROUPED, **_WIDE}, [_BIASED, _UNTIED, {"final_logit_softcapping": 30.0}]),
    "glm": ({**_GROUPED, **_WIDE}, [_UNBIASED, _TIED, {"partial_rotary_factor": 1.0}]),
    "glm4": ({**_GROUPED, **_WIDE}, [_UNBIASED, _TIED]),
    "glm4_moe": (
        {**_GROUPED, **_ROUTED, "n_shared_experts": 1},
        [_BIASED, {"use_qk_norm": True}, _WIDE, {"n_shared_experts": 2}, {"first_k_dense_replace": 0}, _TIED],
    ),
    "gpt2": (_OF_GPT2, [{"n_inner": 96}, _UNTIED]),
    "gpt_bigcode": (_OF_GPT2, [{"n_inner": 96}, {"multi_query": False}, _UNTIED]),
    "gpt_neo": (
        {
            "num_layers": 3,
            "hidden_size": 64,
            "num_heads": 8,
            **_WORDS,
            "attention_types": [[["global", "local"], 1], [["local"], 1]],
        },
        [{"intermediate_size": 96}, _UNTIED],
    ),
    "gpt_neox": (_ALL, [_UNBIASED, {"use_parallel_residual": False}, _TIED, {"rotary_pct": 1.0}]),
    "gpt_oss": ({**_GROUPED, **_EXPERTS, **_WIDE}, [_UNBIASED, {"head_dim": 8}, _TIED]),
    "gptj": ({**_OF_GPT2, "rotary_dim": 4}, [{"n_inner": 96}, _TIED]),
    "granite": (_GROUPED, [_BIASED, _FFN_BIAS, _TIED, _WIDE]),
    "granitemoe": ({**_GROUPED, **_EXPERTS}, [_BIASED, _TIED, _WIDE]),
    "llama": (_GROUPED, [_BIASED, _FFN_BIAS, _TIED, _WIDE, {"num_key_value_heads": None}]),
    "mistral": (_GROUPED, [_TIED, _WIDE, {"sliding_window": None}]),
    "mixtral": ({**_GROUPED, **_EXPERTS}, [_TIED, _WIDE, {"sliding_window": 16}]),
    "mpt": ({"n_layers": 3, "d_model": 64, "n_heads": 8, "vocab_size": 101, "max_seq_len": 48}, [_UNTIED]),
    "nemotron": (_GROUPED, [_BIASED, _FFN_BIAS, _TIED, _WIDE]),
    "olmo": (_GROUPED, [_BIASED, _TIED, _WIDE]),
    "olmo2": (_GROUPED, [_BIASED, _TIED, _WIDE]),
    "olmo3": (_GROUPED, [_BIASED, _TIED, _WIDE]),
    "olmoe": ({**_GROUPED, "num_experts": 6, "num_experts_per_tok": 2}, [_BIASED, _TIED]),
    "opt": (
        {**{k: v for k, v in _ALL.items() if k != "intermediate_size"}, "ffn_dim": 96, "word_embed_proj_dim": 64},
        [
            *({"word_embed_proj_dim": 32}, {"word_embed_proj_dim": 32, **_UNTIED}, {"do_layer_norm_before": False}),
            *({"_remove_final_layer_norm": True}, {"enable_bias": False}, {"layer_norm_elementwise_affine": False}),
            _UNTIED,
        ],
    ),
    "phi": (_GROUPED, [{"qk_layernorm": True}, _TIED]),
    "phi3": (_GROUPED, [_TIED, _WIDE, {"sliding_window": 16}]),
    "phimoe": ({**_GROUPED, **_EXPERTS}, [_BIASED, {"lm_head_bias": True}, _TIED, _WIDE]),
    "qwen2": (_GROUPED, [_TIED, _WIDE]),
    "qwen2_moe": (
        {
            **_GROUPED,
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 40,
            "shared_expert_intermediate_size": 56,
        },
        [{"qkv_bias": False}, {"mlp_only_layers": [1]}, {"decoder_sparse_step": 2}, _TIED, _WIDE],
    ),
    "qwen3": ({**_GROUPED, **_WIDE}, [_BIASED, _TIED, {"head_dim": 8}]),
    "qwen3_moe": (
        {**_GROUPED, "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 40},
        [_BIASED, _WIDE, {"mlp_only_layers": [0, 2]}, {"decoder_sparse_step": 3}, _TIED],
    ),
    "smollm3": (_GROUPED, [_BIASED, _FFN_BIAS, _UNTIED, _WIDE]),
    "stablelm": (_GROUPED, [{"use_qkv_bias": True}, {"qk_layernorm": True}, {"use_parallel_residual": True}, _TIED]),
    "starcoder2": (_GROUPED, [{"use_bias": False}, _UNTIED, _WIDE]),
}

# Fields of published files, beside those above, that transformers passes over or that repeat what its module does.
PUBLISHED_FIELDS: dict[str, dict[str, Any]] = {
    "bloom": {
        "attention_softmax_in_fp32": True,
        "bias_dropout_fusion": True,
        "masked_softmax_fusion": True,
        "offset_alibi": 100,
        "pretraining_tp": 4,
        "seq_length": 2048,
        "skip_bias_add": True,
        "n_inner": None,
    },
    "cohere2": {
        "layer_switch": 4,
        "order_of_interleaved_layers": "local_attn_first",
        "rotary_pct": 1.0,
        "position_embedding_type": "rope_gptj",
        "use_embedding_sharing": True,
        "use_gated_activation": True,
        "use_parallel_block": True,
        "use_parallel_embedding": False,
        "use_qk_norm": False,
        "head_dim": 8,
    },
    "deepseek_v2": {
        "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV2Config"},
        "aux_loss_alpha": 0.001,
        "ep_size": 1,
        "moe_layer_freq": 1,
        "norm_topk_prob": False,
        "scoring_func": "softmax",
        "seq_aux": True,
    },
    "ernie4_5_moe": {"moe_capacity": [64, 64, 64], "moe_gate": "topk", "moe_use_aux_free": True},
    "falcon": {"apply_residual_connection_post_layernorm": False, "ff_factor": 4},
    "gemma": {"hidden_activation": "gelu_pytorch_tanh"},
    "gemma2": {"cache_implementation": "hybrid", "hidden_act": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256},
    "gemma3_text": {"rope_local_base_freq": 10000, "rope_scaling": None, "sliding_window_pattern": 6},
    "gpt_oss": {"experts_per_token": 2, "initial_context_length": 4096, "swiglu_limit": 7.0},
    "gptj": {"rotary": True, "gradient_checkpointing": False, "scale_attn_weights": True},
    "mpt": {
        "attn_config": {"alibi": True, "alibi_bias_max": 8, "attn_impl": "torch", "clip_qkv": None},
        "verbose": 0,
        "init_config": {"name": "kaiming_normal_"},
        "no_bias": True,
        "expansion_ratio": 4,
        "tokenizer_name": "x",
        "norm_type": "low_precision_layernorm",
        "learned_pos_emb": True,
        "resid_pdrop": 0,
        "emb_pdrop": 0,
    },
    "olmoe": {"clip_qkv": None, "norm_topk_prob": False, "output_router_logits": False},
    "phi3": {"full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": False, "mlp_bias": False},
    "phimoe": {"input_jitter_noise": 0.01, "router_jitter_noise": 0.01, "hidden_dropout": 0.0},
    "qwen3_moe": {"max_window_layers": 48, "norm_topk_prob": True, "use_sliding_window": False},
    "starcoder2": {"mlp_type": "default", "norm_type": "layer_norm", "activation_function": "gelu_pytorch_tanh"},
}


def _of(layers: int, width: int, heads: int, kv_heads: int, ffn: int, vocabulary: int, **more: Any) -> dict[str, Any]:
    sizes = {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": ffn,
        "vocab_size": vocabulary,
    }
    return {**sizes, **more}


_DEEPSEEK_HEADS = {"kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}

# Type, fields, parameters, and those that a token passes: published models, by the sizes in the config.json of each.
PUBLISHED: dict[str, tuple[str, dict[str, Any], int, int]] = {
    "llama-3.1-8b": ("llama", _of(32, 4096, 32, 8, 14336, 128256), 8_030_261_248, 8_030_261_248),
    "mistral-nemo": (
        "mistral",
        _of(40, 5120, 32, 8, 14336, 131072, head_dim=128, sliding_window=None),
        12_247_782_400,
        12_247_782_400,
    ),
    "mixtral-8x7b": (
        "mixtral",
        _of(32, 4096, 32, 8, 14336, 32000, num_local_experts=8, num_experts_per_tok=2),
        46_702_792_704,
        12_879_925_248,
    ),
    "mixtral-8x22b": (
        "mixtral",
        _of(56, 6144, 48, 8, 16384, 32768, num_local_experts=8, num_experts_per_tok=2),
        140_630_071_296,
        39_161_468_928,
    ),
    "deepseek-v2-lite": (
        "deepseek_v2",
        _of(
            27,
            2048,
            16,
            16,
            10944,
            102400,
            **_DEEPSEEK_HEADS,
            q_lora_rank=None,
            n_routed_experts=64,
            num_experts_per_tok=6,
            n_shared_experts=2,
            moe_intermediate_size=1408,
            first_k_dense_replace=1,
        ),
        15_706_484_224,
        2_661_150_208,
    ),
    "deepseek-v2": (
        "deepseek_v2",
        _of(
            60,
            5120,
            128,
            128,
            12288,
            102400,
            **_DEEPSEEK_HEADS,
            q_lora_rank=1536,
            n_routed_experts=160,
            num_experts_per_tok=6,
            n_shared_experts=2,
            moe_intermediate_size=1536,
            first_k_dense_replace=1,
        ),
        235_741_434_880,
        21_375_800_320,
    ),
    "deepseek-v3": (
        "deepseek_v3",
        _of(
            61,
            7168,
            128,
            128,
            18432,
            129280,
            **_DEEPSEEK_HEADS,
            q_lora_rank=1536,
            n_routed_experts=256,
            num_experts_per_tok=8,
            n_shared_experts=1,
            moe_intermediate_size=2048,
            first_k_dense_replace=3,
        ),
        671_026_404_352,
        37_552_282_624,
    ),
    "gpt-oss-20b": (
        "gpt_oss",
        _of(24, 2880, 64, 8, 2880, 201088, head_dim=64, num_local_experts=32, num_experts_per_tok=4),
        20_914_757_184,
        4_187_440_704,
    ),
    "gpt-oss-120b": (
        "gpt_oss",
        _of(36, 2880, 64, 8, 2880, 201088, head_dim=64, num_local_experts=128, num_experts_per_tok=4),
        116_829_156_672,
        5_711_982_912,
    ),
    "qwen1.5-moe-a2.7b": (
        "qwen2_moe",
        _of(
            24,
            2048,
            16,
            16,
            5632,
            151936,
            num_experts=60,
            num_experts_per_tok=4,
            moe_intermediate_size=1408,
            shared_expert_intermediate_size=5632,
        ),
        14_315_784_192,
        2_689_173_504,
    ),
    "qwen3-0.6b": (
        "qwen3",
        _of(28, 1024, 16, 8, 3072, 151936, head_dim=128, tie_word_embeddings=True),
        596_049_920,
        596_049_920,
    ),
    "qwen3-8b": ("qwen3", _of(36, 4096, 32, 8, 12288, 151936, head_dim=128), 8_190_735_360, 8_190_735_360),
    "qwen3-30b-a3b": (
        "qwen3_moe",
        _of(
            48,
            2048,
            32,
            4,
            6144,
            151936,
            head_dim=128,
            num_experts=128,
            num_experts_per_tok=8,
            moe_intermediate_size=768,
        ),
        30_532_122_624,
        3_353_032_704,
    ),
    "gemma-2b": ("gemma", _of(18, 2048, 8, 1, 16384, 256000, head_dim=256), 2_506_172_416, 2_506_172_416),
    "gemma-2-9b": ("gemma2", _of(42, 3584, 16, 8, 14336, 256000, head_dim=256), 9_241_705_984, 9_241_705_984),
    "gemma-3-1b": (
        "gemma3_text",
        _of(26, 1152, 4, 1, 6912, 262144, head_dim=256, sliding_window=512),
        999_885_952,
        999_885_952,
    ),
    "phi-2": ("phi", _of(32, 2560, 32, 32, 10240, 51200), 2_779_683_840, 2_779_683_840),
    "phi-3-mini": ("phi3", _of(32, 3072, 32, 32, 8192, 32064), 3_821_079_552, 3_821_079_552),
    "phi-4": ("phi3", _of(40, 5120, 40, 10, 17920, 100352), 14_659_507_200, 14_659_507_200),
    "phi-3.5-moe": (
        "phimoe",
        _of(
            32,
            4096,
            32,
            8,
            6400,
            32064,
            num_local_experts=16,
            num_experts_per_tok=2,
            attention_bias=True,
            lm_head_bias=True,
        ),
        41_873_153_344,
        6_640_999_744,
    ),
    "olmo-2-7b": ("olmo2", _of(32, 4096, 32, 32, 11008, 100352), 7_298_617_344, 7_298_617_344),
    "olmoe-1b-7b": (
        "olmoe",
        _of(16, 2048, 16, 16, 1024, 50304, num_experts=64, num_experts_per_tok=8),
        6_919_161_856,
        1_282_017_280,
    ),
    "stablelm-3b-4e1t": ("stablelm", _of(32, 2560, 32, 32, 6912, 50304), 2_795_443_200, 2_795_443_200),
    "starcoder2-3b": ("starcoder2", _of(30, 3072, 24, 2, 12288, 49152), 3_030_371_328, 3_030_371_328),
    "command-r": ("cohere", _of(40, 8192, 64, 64, 22528, 256000), 34_980_831_232, 34_980_831_232),
    "smollm3-3b": ("smollm3", _of(36, 2048, 16, 4, 11008, 128256), 3_075_098_624, 3_075_098_624),
    "glm-4-9b": ("glm", _of(40, 4096, 32, 2, 13696, 151552), 9_399_951_360, 9_399_951_360),
    "ernie-4.5-0.3b": ("ernie4_5", _of(18, 1024, 16, 2, 3072, 103424, head_dim=128), 360_748_032, 360_748_032),
    "pythia-1.4b": (
        "gpt_neox",
        {
            "num_hidden_layers": 24,
            "hidden_size": 2048,
            "num_attention_heads": 16,
            "intermediate_size": 8192,
            "vocab_size": 50304,
        },
        1_414_647_808,
        1_414_647_808,
    ),
    "gpt-neox-20b": (
        "gpt_neox",
        {
            "num_hidden_layers": 44,
            "hidden_size": 6144,
            "num_attention_heads": 64,
            "intermediate_size": 24576,
            "vocab_size": 50432,
        },
        20_554_567_680,
        20_554_567_680,
    ),
    "opt-350m": (
        "opt",
        {
            "num_hidden_layers": 24,
            "hidden_size": 1024,
            "num_attention_heads": 16,
            "ffn_dim": 4096,
            "vocab_size": 50272,
            "max_position_embeddings": 2048,
            "word_embed_proj_dim": 512,
            "do_layer_norm_before": False,
        },
        331_196_416,
        331_196_416,
    ),
    "opt-6.7b": (
        "opt",
        {
            "num_hidden_layers": 32,
            "hidden_size": 4096,
            "num_attention_heads": 32,
            "ffn_dim": 16384,
            "vocab_size": 50272,
            "max_position_embeddings": 2048,
            "word_embed_proj_dim": 4096,
        },
        6_658_473_984,
        6_658_473_984,
    ),
    "bloom-560m": (
        "bloom",
        {"n_layer": 24, "hidden_size": 1024, "n_head": 16, "vocab_size": 250880},
        559_214_592,
        559_214_592,
    ),
    "bloom": (
        "bloom",
        {"n_layer": 70, "n_embed": 14336, "num_attention_heads": 112, "vocab_size": 250880},
        176_247_271_424,
        176_247_271_424,
    ),
    "falcon-7b": (
        "falcon",
        {"num_hidden_layers": 32, "hidden_size": 4544, "num_attention_heads": 71, "vocab_size": 65024},
        6_921_720_704,
        6_921_720_704,
    ),
    "falcon-40b": (
        "falcon",
        {
            "num_hidden_layers": 60,
            "hidden_size": 8192,
            "num_attention_heads": 128,
            "num_kv_heads": 8,
            "new_decoder_architecture": True,
            "vocab_size": 65024,
        },
        41_303_293_952,
        41_303_293_952,
    ),
    "gpt-j-6b": (
        "gptj",
        {"n_layer": 28, "n_embd": 4096, "n_head": 16, "vocab_size": 50400},
        6_050_882_784,
        6_050_882_784,
    ),
    "gpt-neo-1.3b": (
        "gpt_neo",
        {"num_layers": 24, "hidden_size": 2048, "num_heads": 16, "vocab_size": 50257},
        1_315_575_808,
        1_315_575_808,
    ),
    "mpt-7b": (
        "mpt",
        {"n_layers": 32, "d_model": 4096, "n_heads": 32, "vocab_size": 50432},
        6_649_286_656,
        6_649_286_656,
    ),
    "starcoder": (
        "gpt_bigcode",
        {"n_layer": 40, "n_embd": 6144, "n_head": 48, "n_inner": 24576, "n_positions": 8192, "vocab_size": 49152},
        15_517_456_384,
        15_517_456_384,
    ),
}
