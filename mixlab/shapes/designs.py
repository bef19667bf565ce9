"""What the layers of today's language models are made of, as data: one row for each model type of transformers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from mixlab.arguments import require_whole

NormKind = Literal["layer", "rms", "gemma", "cohere", "nemotron", "olmo"]
NormPlaces = Literal["before", "after", "around", "shared", "residual"]
HeadNorm = Literal["head", "heads", "whole"]
Positions = Literal["learned", "rotary", "alibi"]
LARGEST_SIZE = 2**31 - 1
MOST_LAYERS = 100_000
ACTIVATIONS = (  # transformers' names of those without parameters
    *("bloom_gelu", "gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python", "gelu_python_tanh"),
    *("gelu_pytorch_tanh", "hardswish", "laplace", "leaky_relu", "linear", "mish", "quick_gelu", "relu", "relu2"),
    *("relu6", "sigmoid", "silu", "swish", "tanh"),
)


@dataclass(frozen=True)
class Design:
    """What a layer is made of, whatever its sizes.

    Attributes:
        norm: "layer": LayerNorm. "rms": RMSNorm. "gemma": RMSNorm in fp32 whose weights are offsets from 1. "cohere":
            LayerNorm in fp32 by separate operations. "nemotron": LayerNorm whose weights are offsets from 1. "olmo":
            LayerNorm in fp32.
        norm_tensors: Parameter tensors of a norm: a weight and a bias, a weight, or none.
        norms: Where a layer's norms stand. "before": one before attention and one before the feed-forward. "after":
            one after each. "around": one before and one after each. "shared": a single one before both. "residual":
            one after each residual sum.
        parallel: Whether attention and feed-forward both start from the layer's input.
        head_norm: Norm of queries and keys. "head": one weight for the width of a head. "heads": each head has its
            own. "whole": all heads are normed together.
        head_norm_tensors: Parameter tensors of each such norm.
        qkv_bias, output_bias, ffn_bias: Whether the projections to queries, keys and values, the one after attention,
            and those of the feed-forward layers have biases.
        activation: Activation, by transformers' name.
        gated: Whether a third matrix gates the feed-forward.
        positions: "learned": an embedding for each position. "rotary". "alibi": distances are added to the scores.
        more_positions: Rows of the embedding of positions beyond the context.
        fused_qkv: Whether queries, keys and values are one product.
        fused_gate: Whether the two first products of a gated feed-forward are one.
        sinks: Whether attention has a learned sink for each head.
        attention_softcap, logit_softcap: Whether a tanh bounds the scores, or the logits.
        embedding_norm: Whether a norm follows the embedding.
        final_norm: Whether a norm precedes the output layer.
        head_bias: Whether the output layer has a bias.

    Raises:
        ValueError: If a value is none of those allowed.
    """

    norm: NormKind = "rms"
    norm_tensors: int = 1
    norms: NormPlaces = "before"
    parallel: bool = False
    head_norm: HeadNorm | None = None
    head_norm_tensors: int = 1
    qkv_bias: bool = False
    output_bias: bool = False
    ffn_bias: bool = False
    activation: str = "silu"
    gated: bool = True
    positions: Positions = "rotary"
    more_positions: int = 0
    fused_qkv: bool = False
    fused_gate: bool = False
    sinks: bool = False
    attention_softcap: bool = False
    logit_softcap: bool = False
    embedding_norm: bool = False
    final_norm: bool = True
    head_bias: bool = False

    def __post_init__(self) -> None:
        for name, allowed in _DESIGN_VALUES.items():
            _require_one_of(f"Design: {name}", getattr(self, name), allowed)
        require_whole("Design: more_positions", self.more_positions, 0, LARGEST_SIZE)

    @property
    def layer_norms(self) -> int:
        """Norms of a layer, without those of queries and keys."""
        return {"shared": 1, "around": 4}.get(self.norms, 2)


_TRUTHS = (
    *("parallel", "qkv_bias", "output_bias", "ffn_bias", "gated", "fused_qkv", "fused_gate", "sinks"),
    *("attention_softcap", "logit_softcap", "embedding_norm", "final_norm", "head_bias"),
)
_DESIGN_VALUES: dict[str, tuple[Any, ...]] = {
    "norm": get_args(NormKind),
    "norm_tensors": (0, 1, 2),
    "norms": get_args(NormPlaces),
    "head_norm": (None, *get_args(HeadNorm)),
    "head_norm_tensors": (0, 1, 2),
    "activation": ACTIVATIONS,
    "positions": get_args(Positions),
    **dict.fromkeys(_TRUTHS, (True, False)),
}


def _require_one_of(what: str, value: object, allowed: tuple[Any, ...]) -> None:
    if not any(type(value) is type(one) and value == one for one in allowed):
        words = "True or False" if allowed == (True, False) else f"one of {', '.join(map(str, allowed))}"
        raise ValueError(f"{what} must be {words}, got {value!r:.60}")


@dataclass(frozen=True)
class Experts:
    """The mixture of experts in place of a feed-forward layer.

    Attributes:
        count: Experts of a layer.
        active: Experts that a token is routed to.
        width: Width of an expert.
        shared: Width of the feed-forward layer that every token passes beside its experts; 0 if there is none.
        shared_gate: Whether a learned gate weighs that layer.
        shared_bias: Whether the matrices of that layer have biases.
        bias: Whether the matrices of experts have biases.
        router_bias: Whether the router has a bias.
        corrections: Whether each expert's score has a correction that is a parameter, though no gradient trains it.
        dense_layers: Layers with a plain feed-forward layer in place of experts.

    Raises:
        ValueError: If a size is not a whole number in its range, or a token would need more experts than there are.
    """

    count: int
    active: int
    width: int
    shared: int = 0
    shared_gate: bool = False
    shared_bias: bool = False
    bias: bool = False
    router_bias: bool = False
    corrections: bool = False
    dense_layers: int = 0

    def __post_init__(self) -> None:
        for name, least in (("count", 1), ("active", 1), ("width", 1), ("shared", 0), ("dense_layers", 0)):
            require_whole(f"Experts: {name}", getattr(self, name), least, LARGEST_SIZE)
        for name in ("shared_gate", "shared_bias", "bias", "router_bias", "corrections"):
            _require_one_of(f"Experts: {name}", getattr(self, name), (True, False))
        if self.active > self.count:
            raise ValueError(f"Experts: active must be at most the {self.count} experts of a layer, got {self.active}")


@dataclass(frozen=True)
class Latent:
    """Multi-head latent attention: keys and values, and perhaps queries, pass a narrow product (DeepSeek-V2, 2024).

    Attributes:
        query_rank: Width of the queries' narrow product; None if queries have none.
        kv_rank: Width of that of keys and values.
        plain: Width of a head's queries and keys without positions.
        rotary: Width of a head's queries and keys with rotary positions; all heads share these keys.
        value: Width of a head's values.

    Raises:
        ValueError: If a size is not a whole number from 1 up.
    """

    query_rank: int | None
    kv_rank: int
    plain: int
    rotary: int
    value: int

    def __post_init__(self) -> None:
        for name in ("query_rank", "kv_rank", "plain", "rotary", "value"):
            if name != "query_rank" or self.query_rank is not None:
                require_whole(f"Latent: {name}", getattr(self, name), 1, LARGEST_SIZE)


_GPT = Design("layer", 2, activation="gelu_new", gated=False, qkv_bias=True, output_bias=True, ffn_bias=True)
_LLAMA = Design()
_GEMMA = Design("gemma", activation="gelu_pytorch_tanh")

# By the model_type of transformers 5.24, as its module of each type is built from a config that changes nothing.
DESIGNS: dict[str, Design] = {
    "bloom": replace(_GPT, positions="alibi", fused_qkv=True, embedding_norm=True, activation="bloom_gelu"),
    "cohere": Design("cohere", norms="shared", parallel=True),
    "cohere2": Design("cohere", norms="shared", parallel=True),
    "deepseek_v2": _LLAMA,
    "deepseek_v3": _LLAMA,
    "ernie4_5": _LLAMA,
    "ernie4_5_moe": _LLAMA,
    "falcon": Design("layer", 2, "shared", True, activation="gelu", gated=False, fused_qkv=True),
    "gemma": _GEMMA,
    "gemma2": replace(_GEMMA, norms="around", attention_softcap=True, logit_softcap=True),
    "gemma3_text": replace(_GEMMA, norms="around", head_norm="head"),
    "glm": replace(_LLAMA, fused_gate=True),
    "glm4": replace(_LLAMA, norms="around", fused_gate=True),
    "glm4_moe": _LLAMA,
    "gpt2": replace(_GPT, positions="learned", fused_qkv=True),
    "gpt_bigcode": replace(_GPT, positions="learned", fused_qkv=True, activation="gelu_pytorch_tanh"),
    "gpt_neo": replace(_GPT, positions="learned", qkv_bias=False),
    "gpt_neox": replace(_GPT, parallel=True, fused_qkv=True, activation="gelu"),
    "gpt_oss": Design(qkv_bias=True, output_bias=True, sinks=True),
    "gptj": replace(_GPT, norms="shared", parallel=True, qkv_bias=False, output_bias=False, head_bias=True),
    "granite": _LLAMA,
    "granitemoe": _LLAMA,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "mixtral": _LLAMA,
    "mpt": Design("layer", 1, activation="gelu", gated=False, positions="alibi", fused_qkv=True),
    "nemotron": Design("nemotron", 2, activation="relu2", gated=False),
    "olmo": Design("olmo", 0),
    "olmo2": Design(norms="after", head_norm="whole"),
    "olmo3": Design(norms="after", head_norm="whole"),
    "olmoe": Design(head_norm="whole"),
    "opt": replace(_GPT, positions="learned", more_positions=2, activation="relu"),
    "phi": replace(_GPT, norms="shared", parallel=True, head_bias=True),
    "phi3": replace(_LLAMA, fused_qkv=True, fused_gate=True),
    "phimoe": Design("layer", 2),
    "qwen2": replace(_LLAMA, qkv_bias=True),
    "qwen2_moe": replace(_LLAMA, qkv_bias=True),
    "qwen3": Design(head_norm="head"),
    "qwen3_moe": Design(head_norm="head"),
    "smollm3": _LLAMA,
    "stablelm": Design("layer", 2),
    "starcoder2": replace(_GPT, activation="gelu_pytorch_tanh"),
}
