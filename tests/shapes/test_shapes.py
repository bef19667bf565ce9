from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from mixlab.shapes import SHAPES, Experts, Latent, ModelShape, model_shape

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
    "qwen3-0.6b": 596_049_920,
    "qwen3-8b": 8_190_735_360,
    "qwen3-32b": 32_762_123_264,
    "gemma-2-2b": 2_614_341_888,
    "gemma-2-9b": 9_241_705_984,
    "gemma-3-1b": 999_885_952,
    "olmo-2-7b": 7_298_617_344,
    "phi-4": 14_659_507_200,
    "smollm3-3b": 3_075_098_624,
    "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_630_071_296,
    "qwen3-30b-a3b": 30_532_122_624,
    "gpt-oss-20b": 20_914_757_184,
    "gpt-oss-120b": 116_829_156_672,
    "deepseek-v2-lite": 15_706_484_224,
    "deepseek-v3": 671_026_404_352,
}
# Parameters that a token passes, in billions, as published with each; gpt-oss counts no embedding among them.
ACTIVE = {
    "mixtral-8x7b": 12.9,
    "mixtral-8x22b": 39.2,
    "qwen3-30b-a3b": 3.3,
    "gpt-oss-20b": 3.6 + 201088 * 2880 / 1e9,
    "gpt-oss-120b": 5.1 + 201088 * 2880 / 1e9,
    "deepseek-v3": 37,
}


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_are_those_that_were_published(name):
    assert SHAPES[name].parameters == PUBLISHED[name]
    assert model_shape(name) is SHAPES[name]


@pytest.mark.parametrize("name", ACTIVE)
def test_parameters_that_a_token_passes_are_those_that_were_published(name):
    assert SHAPES[name].active_parameters / 1e9 == pytest.approx(ACTIVE[name], rel=0.02)


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
        (json.dumps({"model_type": "bert"}), "model_type 'bert' is not read, only bloom, cohere,"),
        (json.dumps({"model_type": "gpt2", "n_layer": 1}), "lacks n_embd"),
        (json.dumps({**LLAMA, "num_attention_heads": 3}), "heads must divide width, got 3 heads and width 4096"),
        (json.dumps({**LLAMA, "head_dim": 6.5}), "head_dim must be a whole number from 1 to 2147483647, got 6.5"),
        (json.dumps({**LLAMA, "num_hidden_layers": -1}), "layers must be a whole number from 1 to 100000, got -1"),
    ],
)
def test_a_config_that_says_too_little_is_refused(tmp_path, content, words):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=words):
        model_shape(tmp_path / "config.json")


@pytest.mark.parametrize("name", SHAPES)
def test_what_a_shape_prints_makes_it_again(name):
    printed = repr(SHAPES[name])
    assert eval(printed, {"ModelShape": ModelShape, "Experts": Experts, "Latent": Latent}) == SHAPES[name]
    assert "None" not in printed.replace("query_rank=None", "")


def test_a_shape_says_which_of_mixlabs_own_layers_it_has():
    assert [SHAPES[name].lean for name in ("gpt2", "llama-3-8b", "mistral-7b", "qwen2.5-7b")] == [
        "gpt2",
        *["llama"] * 3,
    ]
    assert [_small(style).lean for style in ("phi3", "qwen3", "opt")] == ["llama", None, None]
    assert _small("llama", head_dim=4).lean is None  # its queries are narrower than the residual stream
    assert _small("llama", experts=Experts(4, 2, 16)).lean is None


def test_a_shape_of_experts_counts_those_of_a_token_apart():
    dense = _small("llama", ffn_bias=True)
    expert = 3 * 16 * 64
    shape = replace(dense, experts=Experts(4, 2, 16, shared=32, dense_layers=1))
    assert shape.dense_layer_parameters == dense.layer_parameters
    assert shape.layer_parameters == dense.layer_parameters - (3 * 64 * 64 + 3 * 64) + 4 * 64 + 4 * expert + 2 * expert
    assert shape.parameters - shape.active_parameters == 2 * expert  # of one layer, the other is dense
    assert dense.active_parameters == dense.parameters


def _small(style: str, **more: Any) -> ModelShape:
    return replace(ModelShape("small", 2, 64, 8, 8, 64, 10, True, 10, style), **more)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"head_dim": 0}, "head_dim must be a whole number from 1 to 2147483647, got 0"),
        ({"rotary_width": 9}, "rotary_width must be at most a head's 8, got 9"),
        ({"unrotated": 3}, "unrotated must be at most the 2 layers, got 3"),
        ({"unrotated": True}, "unrotated must be a whole number from 0 to 2147483647, got True"),
        ({"window": -1}, "window must be a whole number from 1 to 2147483647, got -1"),
        ({"experts": Experts(2, 1, 8, dense_layers=3)}, "dense_layers must be at most the 2 layers, got 3"),
        ({"experts": 8}, "experts must be Experts or None, got 8"),
        ({"latent": Latent(None, 8, 4, 4, 8), "kv_heads": 4}, "latent attention has as many kv_heads as heads, got 4"),
        ({"dropout": ("hidden",)}, "dropout must be a tuple of embedding, attention, residual"),
        ({"dropout": "residual"}, "dropout must be a tuple of embedding, attention, residual"),
        ({"own_design": "gpt2"}, "own_design must be Design or None, got 'gpt2'"),
    ],
)
def test_a_shape_that_contradicts_itself_is_refused(more, words):
    with pytest.raises(ValueError, match=f"ModelShape small: {words}"):
        _small("llama", **more)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Experts(8, 9, 16), "Experts: active must be at most the 8 experts of a layer, got 9"),
        (lambda: Experts(8, 0, 16), "Experts: active must be a whole number from 1 to 2147483647, got 0"),
        (lambda: Experts(8, 2, 16, shared=1.5), "Experts: shared must be a whole number from 0 to 2147483647, got 1.5"),
        (lambda: Experts(8, 2, 16, bias=1), "Experts: bias must be True or False, got 1"),
        (lambda: Latent(0, 8, 4, 4, 8), "Latent: query_rank must be a whole number from 1 to 2147483647, got 0"),
        (lambda: Latent(None, 8, 4, None, 8), "Latent: rotary must be a whole number from 1 to 2147483647, got None"),
    ],
)
def test_parts_of_a_shape_are_checked(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_folder_and_a_config_object_are_read_as_the_file_is(tmp_path):
    fields = {"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2}

    class LlamaConfig:
        def to_json_string(self) -> str:
            return json.dumps(fields)

    (tmp_path / "config.json").write_text(json.dumps(fields))
    shape = model_shape(tmp_path / "config.json")
    assert model_shape(tmp_path) == model_shape(str(tmp_path)) == shape
    assert model_shape(LlamaConfig()) == replace(shape, name="LlamaConfig")


@pytest.mark.parametrize("name", [None, 7, {"model_type": "llama"}, nn.Linear(2, 2)])
def test_what_is_no_name_is_refused_by_its_type(name):
    with pytest.raises(
        TypeError, match=f"name must be a name, the path of a config.json, .*; got {type(name).__name__}"
    ):
        model_shape(name)


def test_mistakes_are_named(tmp_path):
    for strange in ("llama\0", "x" * 5000, ""):
        with pytest.raises(ValueError, match="unknown model"):
            model_shape(strange)
    with pytest.raises(ValueError, match="unknown model 'llama3-8b': did you mean llama-3-8b or"):
        model_shape("llama3-8b")
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        model_shape(tmp_path / "config.json")
    with pytest.raises(ValueError, match="kv_heads must divide heads, got 3 and 8"):
        ModelShape("x", 1, 64, 8, 3, 64, 10, True, 10)
    with pytest.raises(ValueError, match="style gpt2 has as many kv_heads as heads, got 4"):
        ModelShape("x", 1, 64, 8, 4, 64, 10, True, 10, "gpt2")
    with pytest.raises(
        ValueError, match="unknown style 'gpt3': did you mean gptj or gpt2 or opt. There are bloom, cohere,"
    ):
        ModelShape("x", 1, 64, 8, 8, 64, 10, True, 10, "gpt3")
