from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from mixlab.memory import SHAPES, ModelShape, model_shape

# As published with each model, or counted from its checkpoint.
PUBLISHED = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "tinyllama-1.1b": 1_100_048_384,
    "smollm2-135m": 134_515_008,
    "mistral-7b": 7_241_732_096,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-72b": 72_706_203_648,
}


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_are_those_that_were_published(name):
    assert SHAPES[name].parameters == PUBLISHED[name]
    assert model_shape(name) is SHAPES[name]


def test_there_are_at_least_fifteen():
    assert len(SHAPES) == len(PUBLISHED) >= 15


def test_a_gpt2_layer_counted_by_torch():
    shape = SHAPES["gpt2"]
    with torch.device("meta"):
        linears = [nn.Linear(columns, rows) for rows, columns in shape.layer_matrices]
        norms = [nn.LayerNorm(shape.width) for _ in range(2)]
    assert shape.layer_parameters == sum(p.numel() for module in (*linears, *norms) for p in module.parameters())


LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
}
GPT2 = {"model_type": "gpt2", "n_layer": 12, "n_embd": 768, "n_head": 12, "vocab_size": 50257, "n_positions": 1024}
QWEN = {**LLAMA, "model_type": "qwen2", "num_hidden_layers": 24, "hidden_size": 896, "num_attention_heads": 14}
QWEN |= {"num_key_value_heads": 2, "intermediate_size": 4864, "vocab_size": 151936, "tie_word_embeddings": True}


@pytest.mark.parametrize(("config", "same"), [(LLAMA, "llama-3-8b"), (GPT2, "gpt2"), (QWEN, "qwen2.5-0.5b")])
def test_a_config_of_hugging_face_is_read(tmp_path, config, same):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert model_shape(tmp_path / "config.json").parameters == SHAPES[same].parameters
    assert model_shape(str(tmp_path / "config.json")).name == tmp_path.name


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "it must hold an object"),
        ("{", "is not JSON"),
        (json.dumps({"model_type": "bert"}), "model_type must be one of gpt2, llama, mistral, qwen2, got 'bert'"),
        (json.dumps({"model_type": "gpt2", "n_layer": 1}), "lacks n_embd, n_head, vocab_size, n_positions"),
        (json.dumps({**LLAMA, "num_attention_heads": 3}), "heads must divide width, got 3 heads and width 4096"),
        (json.dumps({**LLAMA, "head_dim": 64}), "head_dim must be hidden_size / num_attention_heads, got 64"),
        (json.dumps({**LLAMA, "num_hidden_layers": -1}), "layers must be a whole number from 1 up, got -1"),
    ],
)
def test_a_config_that_says_too_little_is_refused(tmp_path, content, words):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=words):
        model_shape(tmp_path / "config.json")


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ValueError, match="unknown model 'llama3-8b': did you mean llama-3-8b or"):
        model_shape("llama3-8b")
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        model_shape(tmp_path / "config.json")
    with pytest.raises(ValueError, match="kv_heads must divide heads, got 3 and 8"):
        ModelShape("x", 1, 64, 8, 3, 64, 10, True, 10)
    with pytest.raises(ValueError, match="style gpt2 has as many kv_heads as heads, got 4"):
        ModelShape("x", 1, 64, 8, 4, 64, 10, True, 10, "gpt2")
    with pytest.raises(ValueError, match="style must be gpt2 or llama, got 'bert'"):
        ModelShape("x", 1, 64, 8, 8, 64, 10, True, 10, "bert")
