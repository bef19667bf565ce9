"""Shapes of decoder-only transformers as data, and the parameter counts that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mixlab.arguments import did_you_mean, require_whole
from mixlab.memory.configs import shape_of_config

Style = Literal["gpt2", "llama"]
AttentionKind = Literal["fused", "materialised"]
Checkpointing = Literal["none", "selective", "full"]


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a transformer that decide its memory.

    Attributes:
        name: Name of the model.
        layers: Transformer layers.
        width: Width of the residual stream.
        heads: Attention heads of a layer; they must divide the width.
        kv_heads: Heads of keys and values; they must divide `heads`. Fewer than `heads` is grouped-query attention
            (Ainslie et al., GQA, 2023).
        ffn: Width of the feed-forward layer.
        vocabulary: Rows of the embedding.
        tied: Whether the output layer shares the embedding's weights.
        context: Longest sequence that the model was made for; "gpt2" has an embedding for each position.
        style: "gpt2": LayerNorm, biases, two feed-forward matrices with GELU (Radford et al., Language Models are
            Unsupervised Multitask Learners, 2019). "llama": RMSNorm, no biases, three matrices with SwiGLU (Touvron et
            al., Llama 2, 2023).
        qkv_bias: Whether a "llama" has biases at queries, keys and values, as Qwen has.
        output_bias: Whether a "llama" has a bias at the projection after attention.
        ffn_bias: Whether a "llama" has biases at the three matrices of the feed-forward layer.

    Raises:
        ValueError: If a size is not a whole number from 1 up, or does not divide another as it must.
    """

    name: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    ffn: int
    vocabulary: int
    tied: bool
    context: int
    style: Style = "llama"
    qkv_bias: bool = False
    output_bias: bool = False
    ffn_bias: bool = False

    def __post_init__(self) -> None:
        for field in ("layers", "width", "heads", "kv_heads", "ffn", "vocabulary", "context"):
            require_whole(f"ModelShape {self.name}: {field}", getattr(self, field), 1)
        if self.style not in ("gpt2", "llama"):
            raise ValueError(f"ModelShape {self.name}: style must be gpt2 or llama, got {self.style!r}")
        for field in ("tied", "qkv_bias", "output_bias", "ffn_bias"):
            if type(getattr(self, field)) is not bool:
                raise ValueError(f"ModelShape {self.name}: {field} must be True or False, got {getattr(self, field)!r}")
        if self.width % self.heads:
            raise ValueError(
                f"ModelShape {self.name}: heads must divide width, got {self.heads} heads and width {self.width}"
            )
        if self.heads % self.kv_heads:
            raise ValueError(
                f"ModelShape {self.name}: kv_heads must divide heads, got {self.kv_heads} and {self.heads}"
            )
        if self.style == "gpt2" and self.kv_heads != self.heads:
            raise ValueError(f"ModelShape {self.name}: style gpt2 has as many kv_heads as heads, got {self.kv_heads}")

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads

    @property
    def kv_width(self) -> int:
        """Width of the keys, and of the values."""
        return self.kv_heads * self.head_width

    @property
    def layer_matrices(self) -> tuple[tuple[int, int], ...]:
        """(outputs, inputs) of a layer's matrices, in the order of their products."""
        w, kv = self.width, self.kv_width
        attention = [(w, w), (kv, w), (kv, w), (w, w)]
        feed_forward = [(self.ffn, w)] * (2 if self.style == "llama" else 1) + [(w, self.ffn)]
        return (*attention, *feed_forward)

    @property
    def layer_biases(self) -> tuple[bool, ...]:
        """Whether each of the `layer_matrices` has a bias."""
        if self.style == "gpt2":
            return (True,) * 6
        return (*(self.qkv_bias,) * 3, self.output_bias, *(self.ffn_bias,) * 3)

    @property
    def layer_parameters(self) -> int:
        """Parameters of one layer."""
        matrices = sum(rows * columns for rows, columns in self.layer_matrices)
        biases = sum(rows for (rows, _), bias in zip(self.layer_matrices, self.layer_biases, strict=True) if bias)
        norms = (4 if self.style == "gpt2" else 2) * self.width  # two LayerNorms or RMSNorms
        return matrices + biases + norms

    @property
    def embedding_parameters(self) -> int:
        """Parameters of the embeddings, and of the output layer if it is not tied."""
        tokens = self.vocabulary * self.width * (1 if self.tied else 2)
        return tokens + (self.context * self.width if self.style == "gpt2" else 0)

    @property
    def parameters(self) -> int:
        """Parameters of the whole model."""
        final_norm = (2 if self.style == "gpt2" else 1) * self.width
        return self.layers * self.layer_parameters + self.embedding_parameters + final_norm


def _gpt2(name: str, layers: int, width: int, heads: int) -> ModelShape:
    return ModelShape(name, layers, width, heads, heads, 4 * width, 50257, True, 1024, "gpt2")


# Radford et al., 2019; Touvron et al., Llama 2, 2023; Grattafiori et al., The Llama 3 Herd of Models, 2024; Zhang et
# al., TinyLlama, 2024; Allal et al., SmolLM2, 2025; Jiang et al., Mistral 7B, 2023; Qwen Team, Qwen2.5 Technical
# Report, 2024; and the config.json of each.
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
        ModelShape("mistral-7b", 32, 4096, 32, 8, 14336, 32000, False, 32768),
        ModelShape("qwen2.5-0.5b", 24, 896, 14, 2, 4864, 151936, True, 32768, qkv_bias=True),
        ModelShape("qwen2.5-1.5b", 28, 1536, 12, 2, 8960, 151936, True, 32768, qkv_bias=True),
        ModelShape("qwen2.5-3b", 36, 2048, 16, 2, 11008, 151936, True, 32768, qkv_bias=True),
        ModelShape("qwen2.5-7b", 28, 3584, 28, 4, 18944, 152064, False, 131072, qkv_bias=True),
        ModelShape("qwen2.5-14b", 48, 5120, 40, 8, 13824, 152064, False, 131072, qkv_bias=True),
        ModelShape("qwen2.5-72b", 80, 8192, 64, 8, 29568, 152064, False, 131072, qkv_bias=True),
    )
}


def model_shape(name: str | Path) -> ModelShape:
    """Returns a shape by its name, or from a Hugging Face `config.json`.

    >>> f"{model_shape('llama-3-8b').parameters:,}"
    '8,030,261,248'

    Args:
        name: A name of `SHAPES`, or the path of a config.json of GPT-2, Llama, Mistral or Qwen2 architecture. GPT-2's
            dropout is left out.

    Raises:
        ValueError: If the name is unknown (the message offers similar ones), or the file describes no such model (the
            message names the field).
    """
    if isinstance(name, str) and name in SHAPES:
        return SHAPES[name]
    if str(name).endswith(".json"):
        return ModelShape(**shape_of_config(Path(name)))
    hint = did_you_mean(name, SHAPES)
    raise ValueError(f"unknown model {str(name)!r}: {hint}There are {', '.join(SHAPES)}, or the path of a config.json")
