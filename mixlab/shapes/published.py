"""Shapes of published models by name, and `model_shape`, which finds one or reads a config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mixlab.arguments import did_you_mean
from mixlab.shapes.configs import shape_of_config, shape_of_fields
from mixlab.shapes.designs import Experts, Latent
from mixlab.shapes.model_shapes import ModelShape


def _gpt2(name: str, layers: int, width: int, heads: int) -> ModelShape:
    return ModelShape(name, layers, width, heads, heads, 4 * width, 50257, True, 1024, "gpt2")


def _experts(
    name: str, sizes: tuple[int, int, int, int, int, int], context: int, style: str, experts: Experts, **more: Any
) -> ModelShape:
    return ModelShape(name, *sizes, False, context, style, experts=experts, **more)


def _gpt_oss(name: str, layers: int, count: int) -> ModelShape:
    experts = Experts(count, 4, 2880, bias=True, router_bias=True)
    return _experts(name, (layers, 2880, 64, 8, 2880, 201088), 131072, "gpt_oss", experts, head_dim=64, window=128)


# Radford et al., 2019; Touvron et al., Llama 2, 2023; Grattafiori et al., The Llama 3 Herd of Models, 2024; Zhang et
# al., TinyLlama, 2024; Allal et al., SmolLM2, 2025; Jiang et al., Mistral 7B, 2023; Qwen Team, Qwen2.5 Technical
# Report, 2024, and Qwen3 Technical Report, 2025; Gemma Team, Gemma 2, 2024, and Gemma 3 Technical Report, 2025; OLMo
# Team, 2 OLMo 2 Furious, 2025; Abdin et al., Phi-4 Technical Report, 2024; Bakouch et al., SmolLM3, 2025; Jiang et al.,
# Mixtral of Experts, 2024; OpenAI, gpt-oss-120b & gpt-oss-20b Model Card, 2025; DeepSeek-AI, DeepSeek-V2, 2024, and
# DeepSeek-V3 Technical Report, 2024; and the config.json of each.
SHAPES: dict[str, ModelShape] = {
    shape.name: shape
    for shape in (
        _gpt2("gpt2", 12, 768, 12),
        _gpt2("gpt2-medium", 24, 1024, 16),
        _gpt2("gpt2-large", 36, 1280, 20),
        _gpt2("gpt2-xl", 48, 1600, 25),
        ModelShape("llama-2-7b", 32, 4096, 32, 32, 11008, 32000, False, 4096),
        ModelShape("llama-2-13b", 40, 5120, 40, 40, 13824, 32000, False, 4096),
        ModelShape("llama-2-70b", 80, 8192, 64, 8, 28672, 32000, False, 4096),
        ModelShape("llama-3-8b", 32, 4096, 32, 8, 14336, 128256, False, 8192),
        ModelShape("llama-3-70b", 80, 8192, 64, 8, 28672, 128256, False, 8192),
        ModelShape("llama-3.1-8b", 32, 4096, 32, 8, 14336, 128256, False, 131072),
        ModelShape("llama-3.1-70b", 80, 8192, 64, 8, 28672, 128256, False, 131072),
        ModelShape("llama-3.1-405b", 126, 16384, 128, 8, 53248, 128256, False, 131072),
        ModelShape("llama-3.2-1b", 16, 2048, 32, 8, 8192, 128256, True, 131072),
        ModelShape("llama-3.2-3b", 28, 3072, 24, 8, 8192, 128256, True, 131072),
        ModelShape("tinyllama-1.1b", 22, 2048, 32, 4, 5632, 32000, False, 2048),
        ModelShape("smollm2-135m", 30, 576, 9, 3, 1536, 49152, True, 8192),
        ModelShape("mistral-7b", 32, 4096, 32, 8, 14336, 32000, False, 32768, "mistral"),
        ModelShape("qwen2.5-0.5b", 24, 896, 14, 2, 4864, 151936, True, 32768, "qwen2"),
        ModelShape("qwen2.5-1.5b", 28, 1536, 12, 2, 8960, 151936, True, 32768, "qwen2"),
        ModelShape("qwen2.5-3b", 36, 2048, 16, 2, 11008, 151936, True, 32768, "qwen2"),
        ModelShape("qwen2.5-7b", 28, 3584, 28, 4, 18944, 152064, False, 131072, "qwen2"),
        ModelShape("qwen2.5-14b", 48, 5120, 40, 8, 13824, 152064, False, 131072, "qwen2"),
        ModelShape("qwen2.5-72b", 80, 8192, 64, 8, 29568, 152064, False, 131072, "qwen2"),
        ModelShape("qwen3-0.6b", 28, 1024, 16, 8, 3072, 151936, True, 40960, "qwen3", head_dim=128),
        ModelShape("qwen3-8b", 36, 4096, 32, 8, 12288, 151936, False, 40960, "qwen3", head_dim=128),
        ModelShape("qwen3-32b", 64, 5120, 64, 8, 25600, 151936, False, 40960, "qwen3", head_dim=128),
        ModelShape("gemma-2-2b", 26, 2304, 8, 4, 9216, 256000, True, 8192, "gemma2", head_dim=256, window=4096),
        ModelShape("gemma-2-9b", 42, 3584, 16, 8, 14336, 256000, True, 8192, "gemma2", head_dim=256, window=4096),
        ModelShape("gemma-3-1b", 26, 1152, 4, 1, 6912, 262144, True, 32768, "gemma3_text", head_dim=256, window=512),
        ModelShape("olmo-2-7b", 32, 4096, 32, 32, 11008, 100352, False, 4096, "olmo2"),
        ModelShape("phi-4", 40, 5120, 40, 10, 17920, 100352, False, 16384, "phi3"),
        ModelShape("smollm3-3b", 36, 2048, 16, 4, 11008, 128256, True, 65536, "smollm3", unrotated=9),
        _experts("mixtral-8x7b", (32, 4096, 32, 8, 14336, 32000), 32768, "mixtral", Experts(8, 2, 14336)),
        _experts("mixtral-8x22b", (56, 6144, 48, 8, 16384, 32768), 65536, "mixtral", Experts(8, 2, 16384)),
        _experts(
            *("qwen3-30b-a3b", (48, 2048, 32, 4, 6144, 151936), 40960, "qwen3_moe", Experts(128, 8, 768)), head_dim=128
        ),
        _gpt_oss("gpt-oss-20b", 24, 32),
        _gpt_oss("gpt-oss-120b", 36, 128),
        _experts(
            *("deepseek-v2-lite", (27, 2048, 16, 16, 10944, 102400), 163840, "deepseek_v2"),
            Experts(64, 6, 1408, shared=2 * 1408, dense_layers=1),
            latent=Latent(None, 512, 128, 64, 128),
        ),
        _experts(
            *("deepseek-v3", (61, 7168, 128, 128, 18432, 129280), 163840, "deepseek_v3"),
            Experts(256, 8, 2048, shared=2048, dense_layers=3),
            latent=Latent(1536, 512, 128, 64, 128),
        ),
    )
}


def model_shape(name: str | Path | Any) -> ModelShape:
    """Returns a shape by its name, or from a Hugging Face `config.json`.

    >>> f"{model_shape('llama-3-8b').parameters:,}"
    '8,030,261,248'

    Args:
        name: A name of `SHAPES`; or a config whose `model_type` is a name of `DESIGNS`, read as transformers 5.24 does:
            the path of a config.json, or of a folder with one, or the `config` of a model of transformers.

    Raises:
        TypeError: If it is none of these.
        ValueError: If the name is unknown (the message offers similar ones); or the config contradicts itself or has a
            field that may change the model and is not read (the message names it); or its model type is not read (the
            message has the lines that trace it).
    """
    if hasattr(name, "to_json_string"):
        return shape_of_fields(json.loads(name.to_json_string()), Path(type(name).__name__))
    if not isinstance(name, str | Path):
        raise TypeError(
            f"model_shape: name must be a name, the path of a config.json, or a config of transformers; "
            f"got {type(name).__name__}"
        )
    if isinstance(name, str) and name in SHAPES:
        return SHAPES[name]
    if str(name).endswith(".json"):
        return shape_of_config(Path(name))
    if name and _has_config(Path(name)):
        return shape_of_config(Path(name, "config.json"))
    hint = did_you_mean(str(name), SHAPES)
    raise ValueError(f"unknown model {str(name)!r}: {hint}There are {', '.join(SHAPES)}, or the path of a config.json")


def _has_config(folder: Path) -> bool:
    try:
        return (folder / "config.json").is_file()
    except (OSError, ValueError):  # no name that a file can have
        return False
