"""Hugging Face's config.json: counts of transformers' own models, and fields that are refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixlab.memory import Parallelism, model_shape, transformer
from mixlab.memory.parallel import pipeline_stages

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


def test_a_window_is_the_longest_row(file):
    assert shape_of(file, {**MISTRAL, "sliding_window": 16}).context == 16
    assert shape_of(file, {**MISTRAL, "sliding_window": None}).context == 48
    assert shape_of(file, {**QWEN2, "num_key_value_heads": 8, "sliding_window": 16}).context == 48
    windowed = {**QWEN2, "num_key_value_heads": 8, "sliding_window": 16, "use_sliding_window": True}
    assert shape_of(file, windowed).context == 16


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
    ("gpt2", "activation_function", "relu"),
    ("gpt2", "reorder_and_upcast_attn", True),
    ("gpt2", "scale_attn_by_inverse_layer_idx", True),
    ("gpt2", "pruned_heads", {"0": [1]}),
    ("gpt2", "architectures", ["GPT2ForSequenceClassification"]),
    ("gpt2", "tie_word_embeddings", "false"),
    ("llama", "quantization_config", {"quant_method": "bitsandbytes", "load_in_4bit": True}),
    ("llama", "head_dim", 16),
    ("llama", "head_dim", "8"),
    ("llama", "hidden_act", "gelu"),
    ("llama", "attention_dropout", 0.1),
    ("llama", "attention_bias", 1),
    ("llama", "num_local_experts", 8),
    ("llama", "num_experts", 64),
    ("llama", "architectures", ["LlamaModel"]),
    ("llama", "auto_map", {"AutoModel": "modeling.Mine"}),
    ("llama", "output_hidden_states", True),
    ("llama", "sliding_window", 16),
    ("mistral", "attention_bias", True),
    ("mistral", "sliding_window", "16"),
    ("mistral", "quantization_config", {}),
    ("qwen2", "use_qk_norm", True),
    ("qwen2", "attention_bias", True),
    ("qwen2", "mlp_bias", True),
    ("qwen2", "use_sliding_window", "yes"),
]


@pytest.mark.parametrize(("kind", "field", "value"), REFUSED)
def test_a_field_that_may_change_the_model_is_refused_by_its_name(file, kind, field, value):
    base = {**CONFIGS[kind], "num_key_value_heads": 8} if kind != "gpt2" else GPT2
    with pytest.raises(ValueError, match=rf"config.json: {field}[ =]"):
        shape_of(file, {**base, field: value})


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([*CONFIGS, "bert"]),
    st.dictionaries(
        st.sampled_from([*SMALL, *GPT2, "head_dim", "num_key_value_heads", "n_inner", "sliding_window", "mlp_bias"])
        | st.text(max_size=8),
        st.none() | st.booleans() | st.integers(-2, 200) | st.floats() | st.text(max_size=4) | st.just([]),
        max_size=3,
    ),
)
def test_any_config_is_a_shape_or_refused(file, kind, changes):
    try:
        shape = shape_of(file, {**CONFIGS.get(kind, LLAMA), **changes})
    except ValueError as error:
        refused = str(error)
    else:
        with torch.device("meta"):
            assert sum(p.numel() for p in transformer(shape).parameters()) == shape.parameters
        return
    assert "config.json" in refused or "ModelShape" in refused


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[" * 100_000, b'"x"', b"null", b""])
def test_what_is_no_config_is_refused(file, content):
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"config.json is no"):
        model_shape(file)
