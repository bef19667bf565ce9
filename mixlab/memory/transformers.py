"""Transformers of any shape in plain torch: traced on "meta" at full size, or trained at a small one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mixlab.memory.choices import AttentionKind, Checkpointing
from mixlab.shapes import ModelShape
from mixlab.shapes.model_shapes import require_lean


def transformer(
    shape: ModelShape, *, attention: AttentionKind = "fused", checkpointing: Checkpointing = "none"
) -> Transformer:
    """Returns a decoder-only transformer with exactly as many parameters as its shape says.

    Under `torch.device("meta")` it needs no memory.

    >>> from mixlab.shapes import SHAPES
    >>> with torch.device("meta"):
    ...     model = transformer(SHAPES["llama-3-8b"], checkpointing="full")
    >>> sum(parameter.numel() for parameter in model.parameters()) == SHAPES["llama-3-8b"].parameters
    True

    Args:
        shape: Layers, widths and heads.
        attention: "fused": `scaled_dot_product_attention`, which keeps none of the (B, heads, T, T) scores.
            "materialised": the scores, their softmax and its product with the values as separate ops.
        checkpointing: Which activations backward recomputes instead of keeping them. "none"; "full": everything in
            a layer but its input; "selective": scores, softmax and their product with the values (Korthikanti et al.,
            Reducing Activation Recomputation in Large Transformer Models, 2022).

    Raises:
        TypeError: If `shape` is not a ModelShape.
        ValueError: If `attention` or `checkpointing` is unknown, or the shape has a layer that only
            transformers' module of its style has.
    """
    if not isinstance(shape, ModelShape):
        raise TypeError(f"transformer: shape must be a ModelShape, got {shape!r:.60}; model_shape(name) returns one")
    require_lean(shape)
    for name, value, kinds in (
        ("attention", attention, get_args(AttentionKind)),
        ("checkpointing", checkpointing, get_args(Checkpointing)),
    ):
        if value not in kinds:
            raise ValueError(f"transformer: {name} must be one of {', '.join(kinds)}, got {value!r}")
    return Transformer(shape, attention, checkpointing)


class Transformer(nn.Module):
    """A decoder-only transformer; `transformer` makes one.

    Args:
        shape, attention, checkpointing: As for `transformer`.
    """

    def __init__(self, shape: ModelShape, attention: AttentionKind, checkpointing: Checkpointing) -> None:
        super().__init__()
        self.shape = shape
        self.attention = attention
        self.checkpointing = checkpointing
        self.token = nn.Embedding(shape.vocabulary, shape.width)
        nn.init.normal_(self.token.weight, std=0.02)  # as in GPT-2; otherwise a tied head would begin with huge logits
        if shape.lean == "gpt2":
            self.position = nn.Embedding(shape.context, shape.width)
            nn.init.normal_(self.position.weight, std=0.02)
        self.layers = nn.ModuleList(Layer(shape, attention, checkpointing) for _ in range(shape.layers))
        self.norm = _norm(shape)
        self.head = nn.Linear(shape.width, shape.vocabulary, bias=False)
        if shape.tied:
            self.head.weight = self.token.weight

    def forward(self, tokens: Tensor) -> Tensor:  # (B, T) -> (B, T, vocabulary)
        length = tokens.shape[1]
        if length > self.shape.context:
            raise ValueError(f"{self.shape.name}: at most {self.shape.context} tokens a row, got {length}")
        x = self.token(tokens)
        positions = torch.arange(length, device=tokens.device)
        rotary, mask = None, None
        if self.shape.lean == "gpt2":
            x = x + self.position(positions)
        else:
            rotary = rotary_tables(positions, self.shape.head_width, x.dtype)
        if self.attention == "materialised":
            mask = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        for layer in self.layers:
            x = _recomputed(layer, x, rotary, mask) if self.checkpointing == "full" else layer(x, rotary, mask)
        return cast(Tensor, self.head(self.norm(x)))


class Layer(nn.Module):
    """Causal self-attention and a feed-forward network, each with a norm before it and a residual around it."""

    def __init__(self, shape: ModelShape, attention: AttentionKind, checkpointing: Checkpointing) -> None:
        super().__init__()
        self.norm_1 = _norm(shape)
        self.attention = Attention(shape, attention, checkpointing)
        self.norm_2 = _norm(shape)
        self.feed_forward = _FEED_FORWARD[str(shape.lean)](shape)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None, mask: Tensor | None) -> Tensor:  # (B, T, D)
        x = x + self.attention(self.norm_1(x), rotary, mask)
        return x + cast(Tensor, self.feed_forward(self.norm_2(x)))


class Attention(nn.Module):
    """Causal self-attention with one product each for queries, keys and values; heads that share keys get copies."""

    def __init__(self, shape: ModelShape, attention: AttentionKind, checkpointing: Checkpointing) -> None:
        super().__init__()
        self.head_width = shape.head_width
        self.repeats = shape.heads // shape.kv_heads
        self.core = attend_fused if attention == "fused" else attend_materialised
        self.selective = checkpointing == "selective"
        query, key, value, project = shape.layer_biases[:4]
        self.query = nn.Linear(shape.width, shape.width, bias=query)
        self.key = nn.Linear(shape.width, shape.kv_width, bias=key)
        self.value = nn.Linear(shape.width, shape.kv_width, bias=value)
        self.project = nn.Linear(shape.width, shape.width, bias=project)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None, mask: Tensor | None) -> Tensor:  # (B, T, D)
        q, k, v = self._heads(self.query(x)), self._heads(self.key(x)), self._heads(self.value(x))  # (B, heads, T, d)
        if rotary is not None:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        if self.repeats > 1:
            k, v = (tensor.repeat_interleave(self.repeats, dim=1) for tensor in (k, v))
        attended = _recomputed(self.core, q, k, v, mask) if self.selective else self.core(q, k, v, mask)
        return cast(Tensor, self.project(attended.transpose(1, 2).flatten(2)))

    def _heads(self, x: Tensor) -> Tensor:  # (B, T, heads * d) -> (B, heads, T, d)
        return x.view(*x.shape[:2], -1, self.head_width).transpose(1, 2)


def attend_fused(q: Tensor, k: Tensor, v: Tensor, _mask: Tensor | None) -> Tensor:
    """Returns causal attention by one op, (B, heads, T, d) like its operands."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def attend_materialised(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Returns the same via explicit scores; `mask` (T, T) is true at positions that a query must not see."""
    assert mask is not None
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # (B, heads, T, T)
    weights: Tensor = scores.masked_fill_(mask, -torch.inf).softmax(-1)
    return weights @ v


def rotary_tables(positions: Tensor, head_width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Returns the cosines and sines (T, d) of rotary embeddings (Su et al., RoFormer, 2021)."""
    exponents = torch.arange(0, head_width, 2, device=positions.device) / head_width
    angles = positions[:, None] * 10000.0**-exponents  # (T, d / 2)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Returns queries or keys (B, heads, T, d) rotated by their positions; the halves of a head form the pairs."""
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat((-second, first), dim=-1) * sines


class GELUFeedForward(nn.Module):
    """Two products with GELU between them."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.expand = nn.Linear(shape.width, shape.ffn)
        self.contract = nn.Linear(shape.ffn, shape.width)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, D)
        return cast(Tensor, self.contract(F.gelu(self.expand(x), approximate="tanh")))


class SwiGLUFeedForward(nn.Module):
    """Three products; SiLU of the first gates the second (Shazeer, GLU Variants Improve Transformer, 2020)."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.gate = nn.Linear(shape.width, shape.ffn, bias=shape.ffn_bias)
        self.up = nn.Linear(shape.width, shape.ffn, bias=shape.ffn_bias)
        self.down = nn.Linear(shape.ffn, shape.width, bias=shape.ffn_bias)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, D)
        return cast(Tensor, self.down(F.silu(self.gate(x)) * self.up(x)))


_FEED_FORWARD: dict[str, Any] = {"gpt2": GELUFeedForward, "llama": SwiGLUFeedForward}


def _norm(shape: ModelShape) -> nn.Module:
    return nn.LayerNorm(shape.width) if shape.lean == "gpt2" else nn.RMSNorm(shape.width, eps=1e-5)


def _recomputed(function: Callable[..., Tensor], *args: Any) -> Tensor:
    # Without dropout there is no random state to keep.
    return cast(Tensor, checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False))
