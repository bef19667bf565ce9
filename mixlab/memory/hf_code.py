"""How Hugging Face's transformers writes the parts of a model type, as far as memory depends on it, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Rotary = Literal["half", "back", "float", "wide", "chunks", "complex", "pairs"]
Core = Literal["interface", "neo", "bloom", "mpt", "falcon", "sinks"]


@dataclass(frozen=True)
class Code:
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
        clamps: Whether queries, keys and values are clamped into new tensors.
        only_eager: Whether there is no attention but the eager one.
        narrow_softmax: Whether the eager softmax is in the format of the scores, not in float32.
        float_router: Whether the router computes in float32.
    """

    wide_rms_weight: bool = False
    rotary: Rotary = "half"
    own_tables: bool = False
    core: Core = "interface"
    scaled: frozenset[str] = frozenset()
    clamps: bool = False
    narrow_softmax: bool = False
    only_eager: bool = False
    float_router: bool = False


_EMBEDDING = frozenset({"embedding"})
_GRANITE = frozenset({"embedding", "residual", "logits"})

CODES: dict[str, Code] = {
    "bloom": Code(core="bloom", only_eager=True),
    "cohere": Code(rotary="float", scaled=frozenset({"logits"})),
    "cohere2": Code(rotary="float", scaled=frozenset({"logits"})),
    "deepseek_v2": Code(rotary="complex", float_router=True),
    "deepseek_v3": Code(rotary="pairs", float_router=True),
    "ernie4_5": Code(rotary="wide", own_tables=True),
    "ernie4_5_moe": Code(rotary="wide", own_tables=True),
    "falcon": Code(core="falcon"),
    "gemma": Code(scaled=_EMBEDDING),
    "gemma2": Code(scaled=_EMBEDDING, only_eager=True),
    "gemma3_text": Code(scaled=_EMBEDDING),
    "glm": Code(own_tables=True),
    "glm4": Code(own_tables=True),
    "gpt_neo": Code(core="neo", only_eager=True),
    "gpt_oss": Code(wide_rms_weight=True, rotary="chunks", core="sinks", only_eager=True),
    "gpt2": Code(narrow_softmax=True),
    "gptj": Code(own_tables=True),
    "granite": Code(scaled=_GRANITE),
    "granitemoe": Code(scaled=_GRANITE),
    "mpt": Code(core="mpt", only_eager=True),
    "olmo": Code(rotary="back"),
    "olmo2": Code(wide_rms_weight=True, rotary="back"),
    "olmo3": Code(wide_rms_weight=True, rotary="back"),
    "opt": Code(scaled=frozenset({"query"})),
}


def code_of(style: str) -> Code:
    """Returns how transformers writes a model type."""
    return CODES.get(style, Code())
