"""How Hugging Face's transformers writes the parts of a model type, as far as memory depends on it, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Rotary = Literal["half", "back", "float", "wide", "chunks", "complex", "pairs"]
Core = Literal["interface", "neo", "bloom", "mpt", "falcon", "sinks"]


@dataclass(frozen=True)
class Writing:
    """The ways in which code of the same design differs.

    Attributes:
        wide_rms_weight: Whether an RMSNorm applies its weight before the cast back from float32.
        rotary: How queries and keys are rotated. "half": x cos + half(x) sin, in the format that comes out. "back":
            the result is cast back. "float": x is float32 first, and cast back. "wide": the tables are float32, each
            product takes a float32 x, and the result is cast back. "chunks": half by half. "complex": as complex
            numbers. "pairs": every other number of latent attention's narrow part.
        own_tables: Whether each layer makes the rotary tables anew.
        core: The code of attention's core. "interface": SDPA or the eager one of all models.
        scaled: What is multiplied by a number of the config: "embedding", "residual", "logits", "query".
        masks: Whether SDPA is given a mask, though all that it hides comes later.
        holds_parts: Whether a layer's variables hold the norms and the result of attention until it returns.
        adds_biases: Whether biases are added after products, not by them.
        gate: How experts gate. "silu": by the model's activation. "clamped": as gpt-oss does.
        wide_scores: Whether queries and keys are float32 for the eager scores.
        only_eager: Whether there is no attention but the eager one.
        narrow_softmax: Whether the eager softmax is in the format of the scores, not in float32.
        float_router: Whether the router computes in float32.
        router_outside: Whether autocast is off in the router.
        shared_first: Whether the layer that all tokens pass comes before the experts.
    """

    wide_rms_weight: bool = False
    rotary: Rotary = "half"
    own_tables: bool = False
    core: Core = "interface"
    scaled: frozenset[str] = frozenset()
    adds_biases: bool = False
    masks: bool = False
    holds_parts: bool = False
    narrow_softmax: bool = False
    gate: Literal["silu", "clamped"] = "silu"
    wide_scores: bool = False
    only_eager: bool = False
    float_router: bool = False
    router_outside: bool = False
    shared_first: bool = False


_EMBEDDING = frozenset({"embedding"})
_GRANITE = frozenset({"embedding", "residual", "logits"})

WRITINGS: dict[str, Writing] = {
    "bloom": Writing(core="bloom", only_eager=True),
    "cohere": Writing(rotary="float", scaled=frozenset({"logits"})),
    "cohere2": Writing(rotary="float", scaled=frozenset({"logits"})),
    "deepseek_v2": Writing(rotary="complex", float_router=True),
    "deepseek_v3": Writing(rotary="pairs", float_router=True),
    "ernie4_5": Writing(rotary="wide", own_tables=True),
    "ernie4_5_moe": Writing(rotary="wide", own_tables=True, router_outside=True, shared_first=True),
    "falcon": Writing(core="falcon", adds_biases=True, masks=True, holds_parts=True),
    "gemma": Writing(scaled=_EMBEDDING),
    "gemma2": Writing(scaled=_EMBEDDING, only_eager=True),
    "gemma3_text": Writing(scaled=_EMBEDDING),
    "glm": Writing(own_tables=True),
    "glm4": Writing(own_tables=True),
    "gpt_neo": Writing(core="neo", only_eager=True),
    "gpt_oss": Writing(wide_rms_weight=True, rotary="chunks", core="sinks", gate="clamped", only_eager=True),
    "glm4_moe": Writing(float_router=True),
    "gpt2": Writing(narrow_softmax=True),
    "gptj": Writing(own_tables=True, wide_scores=True, narrow_softmax=True),
    "granite": Writing(scaled=_GRANITE),
    "granitemoe": Writing(scaled=_GRANITE),
    "mpt": Writing(core="mpt", only_eager=True),
    "olmo": Writing(rotary="back"),
    "olmo2": Writing(wide_rms_weight=True, rotary="back"),
    "olmo3": Writing(wide_rms_weight=True, rotary="back"),
    "qwen2_moe": Writing(shared_first=True),
    "opt": Writing(scaled=frozenset({"query"})),
}


def writing_of(style: str) -> Writing:
    """Returns how transformers writes a model type."""
    return WRITINGS.get(style, Writing())
