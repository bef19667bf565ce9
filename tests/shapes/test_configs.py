"""Hugging Face's config.json: counts of transformers' own models, and fields that are refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixlab.memory import Parallelism, transformer
from mixlab.memory.parallel import pipeline_stages
from mixlab.shapes import model_shape
from mixlab.shapes.config_rows import CONFIG_ROWS

GPT2 = {"model_type": "gpt2", "n_layer": 3, "n_embd": 64, "n_head": 8, "vocab_size": 101, "n_positions": 48}
SMALL = {
    "num_hidden_layers": 3,
    "hidden_size": 64,
    "num_attention_heads": 8,
    "intermediate_size": 160,
    "vocab_size": 101,
    "max_position_embeddings": 48,
}
LLAMA, MISTRAL, QWEN2 = ({"model_type": kind, **SMALL} for kind in ("llama", "mistral", "qwen2"))
CONFIGS = {"gpt2": GPT2, "llama": LLAMA, "mistral": MISTRAL, "qwen2": QWEN2}
_MIXTRAL = {**LLAMA, "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
_FALCON = {"model_type": "falcon", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 8}
_NEO = {"model_type": "gpt_neo", "num_layers": 3, "hidden_size": 64, "num_heads": 8}
_DEEPSEEK = {**LLAMA, "model_type": "deepseek_v3", "n_routed_experts": 8, "num_key_value_heads": 8}
_QWEN_MOE = {**LLAMA, "model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 2}
GRANITE_3B_CODE = {
    **LLAMA,
    "num_hidden_layers": 32,
    "hidden_size": 2560,
    "num_attention_heads": 32,
    "intermediate_size": 10240,
    "vocab_size": 49152,
    "max_position_embeddings": 2048,
    "attention_bias": True,
    "mlp_bias": True,
    "tie_word_embeddings": True,
}

# Parameters of AutoModelForCausalLM.from_config on "meta", transformers 5.24.
COUNTED = [
    (LLAMA, {}, 154_688),
    (LLAMA, {"num_key_value_heads": None}, 154_688),
    (LLAMA, {"head_dim": 8}, 154_688),
    (LLAMA, {"num_key_value_heads": 2}, 136_256),
    (LLAMA, {"tie_word_embeddings": True}, 148_224),
    (LLAMA, {"mlp_bias": True}, 155_840),
    (LLAMA, {"mlp_bias": True, "num_key_value_heads": 2}, 137_408),
    (LLAMA, {"attention_bias": True}, 155_456),
    (LLAMA, {"attention_bias": True, "num_key_value_heads": 2}, 136_736),
    (LLAMA, {"attention_bias": True, "mlp_bias": True}, 156_608),
    (LLAMA, {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 2, "tie_word_embeddings": True}, 131_424),
    (MISTRAL, {"num_key_value_heads": 1}, 133_184),
    (MISTRAL, {"num_key_value_heads": 4, "sliding_window": 16, "tie_word_embeddings": True}, 135_936),
    (MISTRAL, {}, 154_688),
    (QWEN2, {"num_key_value_heads": 1}, 133_424),
    (QWEN2, {"num_key_value_heads": 4, "tie_word_embeddings": True}, 136_320),
    (QWEN2, {"num_key_value_heads": 8, "use_sliding_window": True, "sliding_window": 16}, 155_264),
    (GPT2, {}, 159_616),
    (GPT2, {"n_inner": 96}, 97_696),
    (GPT2, {"tie_word_embeddings": False}, 166_080),
    (GPT2, {"n_inner": 96, "tie_word_embeddings": False}, 104_160),
    (GRANITE_3B_CODE, {}, 3_482_503_680),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.json"


def shape_of(file: Path, config: dict[str, object]):
    file.write_text(json.dumps(config))
    return model_shape(file)


@pytest.mark.parametrize(("base", "changes", "parameters"), COUNTED)
def test_parameters_are_those_of_transformers_own_model(file, base, changes, parameters):
    shape = shape_of(file, {**base, **changes})
    assert shape.parameters == parameters
    with torch.device("meta"):
        model = transformer(shape)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert pipeline_stages(shape, Parallelism())[0].parameters == parameters


def test_a_window_of_all_layers_is_the_longest_row(file):
    windowed = {**QWEN2, "num_key_value_heads": 8, "sliding_window": 16, "use_sliding_window": True}
    for config, context, window in (
        ({**MISTRAL, "sliding_window": 16}, 16, 16),
        ({**MISTRAL, "sliding_window": None}, 48, None),
        ({**MISTRAL}, 48, 4096),
        ({**windowed, "use_sliding_window": False}, 48, None),
        (windowed, 48, None),  # its first 28 layers have none
        ({**windowed, "max_window_layers": 1}, 48, 16),
        ({**windowed, "max_window_layers": 0}, 16, 16),
        ({**windowed, "layer_types": ["sliding_attention"] * 3}, 16, 16),
    ):
        shape = shape_of(file, config)
        assert (shape.context, shape.window) == (context, window), config


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        ({**LLAMA, "attention_dropout": 0.1}, {"dropout": ("attention",)}),
        (GPT2, {"dropout": ("embedding", "attention", "residual")}),
        ({**LLAMA, "model_type": "mixtral", "router_jitter_noise": 0.1}, {"dropout": ("experts",)}),
        ({**GPT2, "attn_pdrop": 0, "embd_pdrop": 0.0, "resid_pdrop": None}, {"dropout": ()}),
        ({**LLAMA, "head_dim": 16}, {"head_width": 16, "query_width": 128, "lean": None}),
        ({**LLAMA, "hidden_act": "gelu"}, {"lean": None}),
        ({**_DEEPSEEK, "num_attention_heads": 7, "num_key_value_heads": 7}, {"head_width": 192, "value_width": 896}),
        ({**LLAMA, "model_type": "stablelm", "num_key_value_heads": 8}, {"rotary_width": 2}),
        (
            {**LLAMA, "model_type": "stablelm", "num_key_value_heads": 8, "partial_rotary_factor": 0.5},
            {"rotary_width": 4},
        ),
        ({**LLAMA, "model_type": "glm"}, {"rotary_width": 64}),
        ({**LLAMA, "model_type": "glm", "rope_parameters": {"partial_rotary_factor": 1.0}}, {"rotary_width": None}),
        ({**LLAMA, "model_type": "smollm3", "no_rope_layer_interval": 2}, {"unrotated": 1}),
        ({**LLAMA, "model_type": "smollm3", "no_rope_layers": [0, 0, 1]}, {"unrotated": 2}),
        ({**LLAMA, "model_type": "cohere2"}, {"unrotated": 0, "window": 4096, "context": 48}),
        ({**LLAMA, "model_type": "cohere2", "sliding_window_pattern": 3}, {"unrotated": 1}),
    ],
)
def test_what_transformers_own_module_does_is_read(file, config, parts):
    shape = shape_of(file, config)
    assert {name: getattr(shape, name) for name in parts} == parts


PUBLISHED_GPT2 = {
    **GPT2,
    "n_layer": 12,
    "n_embd": 768,
    "n_head": 12,
    "vocab_size": 50257,
    "n_positions": 1024,
    "n_ctx": 1024,
    "activation_function": "gelu_new",
    "architectures": ["GPT2LMHeadModel"],
    **dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop", "summary_first_dropout"), 0.1),
    "bos_token_id": 50256,
    "eos_token_id": 50256,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "summary_activation": None,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
}


def test_a_published_config_is_read(file):
    assert shape_of(file, PUBLISHED_GPT2).parameters == 124_439_808


REFUSED = [
    ("gpt2", "add_cross_attention", True),  # 152,806,656 parameters for gpt2
    ("gpt2", "activation_function", "prelu"),  # it has parameters
    ("gpt2", "reorder_and_upcast_attn", True),
    ("gpt2", "scale_attn_by_inverse_layer_idx", True),
    ("gpt2", "scale_attn_weights", False),
    ("gpt2", "pruned_heads", {"0": [1]}),
    ("gpt2", "architectures", ["GPT2ForSequenceClassification"]),
    ("gpt2", "tie_word_embeddings", "false"),
    ("gpt2", "resid_pdrop", 1.5),
    ("gpt2", "head_dim", 16),
    ("gpt2", "n_embd", 10**400),
    ("llama", "quantization_config", {"quant_method": "bitsandbytes", "load_in_4bit": True}),
    ("llama", "head_dim", "8"),
    ("llama", "head_dim", True),
    ("llama", "head_dim", 0),
    ("llama", "hidden_act", "gelu_of_mine"),
    ("llama", "hidden_act", ["silu"]),
    ("llama", "hidden_act", "bloom_gelu"),  # bloom's own function, which no file names
    ("llama", "attention_dropout", float("nan")),
    ("llama", "attention_dropout", True),
    ("llama", "attention_bias", 1),
    ("llama", "num_local_experts", 8),
    ("llama", "num_experts", 64),
    ("llama", "architectures", ["LlamaModel"]),
    ("llama", "architectures", "LlamaForCausalLM"),
    ("llama", "output_hidden_states", True),
    ("llama", "sliding_window", 16),
    ("llama", "partial_rotary_factor", 0.5),
    ("llama", "num_hidden_layers", True),
    ("llama", "vocab_size", -1),
    ("mistral", "attention_bias", True),
    ("mistral", "sliding_window", "16"),
    ("mistral", "sliding_window", 0),
    ("mistral", "quantization_config", {}),
    ("qwen2", "use_qk_norm", True),
    ("qwen2", "attention_bias", True),
    ("qwen2", "mlp_bias", True),
    ("qwen2", "use_sliding_window", "yes"),
    ("qwen2", "layer_types", ["full_attention"] * 2),
    ("qwen2", "layer_types", ["full_attention", "linear_attention", "full_attention"]),
    ("qwen2", "layer_types", "full_attention"),
]


@pytest.mark.parametrize(("kind", "field", "value"), REFUSED)
def test_a_field_that_may_change_the_model_is_refused_by_its_name(file, kind, field, value):
    base = {**CONFIGS[kind], "num_key_value_heads": 8} if kind != "gpt2" else GPT2
    with pytest.raises(ValueError, match=rf"config.json: {field}[ =]"):
        shape_of(file, {**base, field: value})


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({**_MIXTRAL, "num_experts_per_tok": 5}, "Experts: active must be at most the 4 experts of a layer, got 5"),
        ({**_MIXTRAL, "num_experts": 8}, "num_experts and num_local_experts are one field, got 8 and 4"),
        ({**_MIXTRAL, "num_local_experts": 0}, "num_local_experts must be a whole number from 1 to 2147483647, got 0"),
        ({**_MIXTRAL, "output_router_logits": True}, "output_router_logits must be False or absent .* got True"),
        ({**_QWEN_MOE, "router_jitter_noise": 0.1}, "router_jitter_noise must be 0, 0.0 or absent .* got 0.1"),
        ({**_MIXTRAL, "router_jitter_noise": 1.1}, "router_jitter_noise must be a number from 0 to 1, got 1.1"),
        (
            {**LLAMA, "num_hidden_layers": 10**6},
            "num_hidden_layers must be a whole number from 1 to 100000",
        ),
        ({**_DEEPSEEK, "first_k_dense_replace": 4}, "dense_layers must be at most the 3 layers, got 4"),
        ({**_DEEPSEEK, "num_key_value_heads": 4}, "latent attention has as many kv_heads as heads, got 4"),
        ({**_DEEPSEEK, "n_shared_experts": -1}, "n_shared_experts must be a whole number from 0 to 2147483647, got -1"),
        ({**_DEEPSEEK, "q_lora_rank": 1.5}, "q_lora_rank must be a whole number from 1 to 2147483647, got 1.5"),
        ({**_DEEPSEEK, "head_dim": 128}, "head_dim must be 64 or absent for a shape of deepseek_v3, got 128"),
        ({**_QWEN_MOE, "mlp_only_layers": 1}, "mlp_only_layers must be a list of numbers of layers"),
        (
            {**_QWEN_MOE, "decoder_sparse_step": 0},
            "decoder_sparse_step must be a whole number from 1 to 2147483647, got 0",
        ),
        ({**LLAMA, "num_key_value_heads": 3}, "kv_heads must divide heads, got 3 and 8"),
        ({**LLAMA, "num_attention_heads": 7}, "heads must divide width, got 7 heads and width 64"),
        ({**LLAMA, "num_attention_heads": 7, "head_dim": 8}, "heads must divide width, got 7 heads and width 64"),
        ({**GPT2, "hidden_size": 32}, "hidden_size and n_embd are one field, got 32 and 64"),
        (
            {**_FALCON, "new_decoder_architecture": True, "parallel_attn": False},
            "parallel_attn must be true with new_decoder_architecture",
        ),
        ({**_FALCON, "num_ln_in_parallel_attn": 2}, "num_ln_in_parallel_attn must be null or 1, got 2"),
        ({**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 3}, "kv_heads must divide heads, got 3 and 8"),
        (
            {**_NEO, "attention_types": [[["global"], 2]]},
            "attention_types must be global or local for each of 3 layers",
        ),
        ({**_NEO, "attention_types": [["global", 3]]}, "attention_types must be a list of pairs"),
        ({**_NEO, "attention_types": [[["global"], 10**400]]}, "attention_types must be global or local"),
        (
            {**_NEO, "attention_types": [[["global"], 3]], "attention_layers": ["local"] * 3},
            "attention_layers must be what attention_types repeats",
        ),
        (
            {**LLAMA, "model_type": "smollm3", "no_rope_layers": [1]},
            "no_rope_layers must be a list of 3 zeros and ones",
        ),
        (
            {**LLAMA, "model_type": "gemma2", "final_logit_softcapping": 10**400},
            "final_logit_softcapping must be a num",
        ),
        ({**LLAMA, "model_type": "gemma", "head_dim": None}, "head_dim must be a whole number from 1"),
        ({**QWEN2, "sliding_window": "16"}, "sliding_window must be a whole number from 0"),
        (
            {**LLAMA, "model_type": "gemma2", "sliding_window": -4},
            "sliding_window must be a whole number from 0 to 2147483647",
        ),
        (
            {**LLAMA, "model_type": "glm", "partial_rotary_factor": 2},
            "partial_rotary_factor must be a number from 0 to 1",
        ),
        ({**LLAMA, "model_type": "glm", "rope_parameters": 2}, "rope_parameters must be an object, got 2"),
        ({**_FALCON, "model_type": "opt", "layerdrop": 0.1}, "layerdrop must be 0, 0.0 or absent"),
        (
            {"model_type": "mpt", "n_layers": 1, "d_model": 64, "attn_config": {"qk_ln": True}},
            "attn_config: qk_ln must be False, got True",
        ),
        (
            {"model_type": "mpt", "n_layers": 1, "d_model": 64, "attn_config": {"rope": True}},
            "attn_config: rope is unknown",
        ),
        ({"model_type": "llama", "hidden_size": 64}, "lacks num_hidden_layers"),
        ({"model_type": "llama"}, "lacks num_hidden_layers, hidden_size"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(file, config, words):
    with pytest.raises(ValueError, match=f"config.json:? .*{words}"):
        shape_of(file, config)


def test_a_type_that_is_not_read_is_told_how_to_be_traced(file):
    with pytest.raises(ValueError, match="model_type 'mamba' is not read, only bloom, cohere,") as refused:
        shape_of(file, {"model_type": "mamba"})
    assert f"AutoConfig.from_pretrained({str(file)!r})" in str(refused.value)
    assert "\n    trace(model," in str(refused.value)
    with pytest.raises(ValueError, match="its text_config, model_type 'llama', may have a shape"):
        shape_of(file, {"model_type": "llava", "text_config": LLAMA})


_ANY = (
    *("head_dim", "num_key_value_heads", "n_inner", "sliding_window", "mlp_bias", "layer_types", "attention_dropout"),
    *("num_experts", "num_local_experts", "num_experts_per_tok", "moe_intermediate_size", "first_k_dense_replace"),
    *("q_lora_rank", "partial_rotary_factor", "rope_parameters", "attn_config", "attention_types", "no_rope_layers"),
    *(
        "mlp_only_layers",
        "decoder_sparse_step",
        "multi_query",
        "new_decoder_architecture",
        "hidden_act",
        "tie_word_embeddings",
    ),
    *("num_layers", "num_heads", "n_layers", "d_model", "word_embed_proj_dim", "moe_layer_interval", "architectures"),
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([*CONFIG_ROWS, "bert"]),
    st.dictionaries(
        st.sampled_from([*SMALL, *GPT2, *_ANY]) | st.text(max_size=8),
        st.none()
        | st.booleans()
        | st.integers(-2, 200)
        | st.floats()
        | st.text(max_size=4)
        | st.sampled_from([[], {}, [1], [None], [[]], [[["local"], 3]], {"partial_rotary_factor": "x"}, 10**400]),
        max_size=3,
    ),
)
def test_any_config_is_a_shape_or_refused(file, kind, changes):
    try:
        shape = shape_of(file, {**GPT2, **SMALL, "model_type": kind, **changes})
    except ValueError as error:
        refused = str(error)
    else:
        assert 0 < shape.active_parameters <= shape.parameters
        if shape.lean:
            with torch.device("meta"):
                assert sum(p.numel() for p in transformer(shape).parameters()) == shape.parameters
        return
    assert "config.json" in refused


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[" * 100_000, b'"x"', b"null", b""])
def test_what_is_no_config_is_refused(file, content):
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"config.json is no"):
        model_shape(file)
