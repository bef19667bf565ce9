"""Shapes of decoder-only transformers as data, and the parameter counts that follow from them."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, fields, replace
from typing import Literal, NamedTuple

from mixlab.arguments import did_you_mean, require_whole
from mixlab.shapes.designs import DESIGNS, LARGEST_SIZE, MOST_LAYERS, Design, Experts, Latent

Lean = Literal["gpt2", "llama"]
DROPOUTS = ("embedding", "attention", "residual", "experts")


class Matrix(NamedTuple):
    """A matrix of a layer.

    Attributes:
        outputs, inputs: Its sizes.
        bias: Whether it has a bias.
        copies: How many of it there are, one for each expert.
    """

    outputs: int
    inputs: int
    bias: bool = False
    copies: int = 1

    @property
    def parameters(self) -> int:
        """Parameters of all copies."""
        return self.copies * self.outputs * (self.inputs + self.bias)


@dataclass(frozen=True, repr=False)
class ModelShape:
    """The sizes of a transformer that decide its memory.

    Attributes:
        name: Name of the model.
        layers: Transformer layers.
        width: Width of the residual stream.
        heads: Attention heads of a layer; they must divide the width, unless `head_dim` or `latent` is given.
        kv_heads: Heads of keys and values; they must divide `heads`. Fewer than `heads` is grouped-query attention
            (Ainslie et al., GQA, 2023).
        ffn: Width of a plain feed-forward layer; with experts, of that in their `dense_layers`.
        vocabulary: Rows of the embedding.
        tied: Whether the output layer shares the embedding's weights.
        context: Longest sequence that the model was made for; learned positions have an embedding for each.
        style: What a layer is made of: a name of `DESIGNS`, which are transformers' model types. "gpt2": LayerNorm,
            biases, two feed-forward matrices with GELU (Radford et al., Language Models are Unsupervised Multitask
            Learners, 2019). "llama": RMSNorm, no biases, three matrices with SwiGLU (Touvron et al., Llama 2, 2023).
        qkv_bias: Whether queries, keys and values have biases although the style has none.
        output_bias: The same of the projection after attention.
        ffn_bias: The same of the matrices of the feed-forward layer.
        head_dim: Width of a head's queries, keys and values; None: the width by the heads.
        rotary_width: Width of that part of a head that rotary embeddings turn; None: all of it.
        unrotated: Layers without rotary embeddings.
        window: Length of the sliding windows that some of the layers have; None if none has.
        experts: The mixture of experts in place of the feed-forward layers, if there is one.
        latent: The narrow products of latent attention, if queries, keys and values are made by them.
        embedding_width: Width of the embedding; None: the width of the residual stream.
        dropout: Where the model's own module has a dropout that is not 0: "embedding", "attention" (its
            probabilities), "residual", or noise that multiplies the input of the "experts". Mixlab's own layers have
            none.
        own_design: What a layer is made of, if it differs from the style.

    Raises:
        ValueError: If a size is not a whole number from 1 up, does not divide another as it must, or a value is none of
            those allowed.
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
    style: str = "llama"
    qkv_bias: bool = False
    output_bias: bool = False
    ffn_bias: bool = False
    _: KW_ONLY
    head_dim: int | None = None
    rotary_width: int | None = None
    unrotated: int = 0
    window: int | None = None
    experts: Experts | None = None
    latent: Latent | None = None
    embedding_width: int | None = None
    dropout: tuple[str, ...] = ()
    own_design: Design | None = None

    def __repr__(self) -> str:
        values = [(field.name, getattr(self, field.name), field.default) for field in fields(self)]
        return f"ModelShape({', '.join(f'{name}={value!r}' for name, value, default in values if value != default)})"

    def __post_init__(self) -> None:
        title = f"ModelShape {self.name}"
        require_whole(f"{title}: layers", self.layers, 1, MOST_LAYERS)
        for field in ("width", "heads", "kv_heads", "ffn", "vocabulary", "context"):
            require_whole(f"{title}: {field}", getattr(self, field), 1, LARGEST_SIZE)
        for field in ("head_dim", "rotary_width", "window", "embedding_width"):
            if getattr(self, field) is not None:
                require_whole(f"{title}: {field}", getattr(self, field), 1, LARGEST_SIZE)
        require_whole(f"{title}: unrotated", self.unrotated, 0, LARGEST_SIZE)
        for field in ("tied", "qkv_bias", "output_bias", "ffn_bias"):
            if type(getattr(self, field)) is not bool:
                raise ValueError(f"{title}: {field} must be True or False, got {getattr(self, field)!r}")
        if not isinstance(self.style, str) or self.style not in DESIGNS:
            hint = did_you_mean(self.style, DESIGNS)
            raise ValueError(f"{title}: unknown style {self.style!r:.60}: {hint}There are {', '.join(DESIGNS)}")
        for field, kind in (("experts", Experts), ("latent", Latent), ("own_design", Design)):
            if not isinstance(getattr(self, field), kind | None):
                raise ValueError(f"{title}: {field} must be {kind.__name__} or None, got {getattr(self, field)!r:.60}")
        if not isinstance(self.dropout, tuple) or not set(self.dropout) <= set(DROPOUTS):
            raise ValueError(f"{title}: dropout must be a tuple of {', '.join(DROPOUTS)}, got {self.dropout!r:.60}")
        self._check_heads(title)
        self._check_layers(title)

    def _check_heads(self, title: str) -> None:
        if self.head_dim is None and self.latent is None and self.width % self.heads:
            raise ValueError(f"{title}: heads must divide width, got {self.heads} heads and width {self.width}")
        if self.heads % self.kv_heads:
            raise ValueError(f"{title}: kv_heads must divide heads, got {self.kv_heads} and {self.heads}")
        if self.style == "gpt2" and self.kv_heads != self.heads:
            raise ValueError(f"{title}: style gpt2 has as many kv_heads as heads, got {self.kv_heads}")
        if self.latent is not None and self.kv_heads != self.heads:
            raise ValueError(f"{title}: latent attention has as many kv_heads as heads, got {self.kv_heads}")
        if self.rotary_width is not None and self.rotary_width > self.head_width:
            raise ValueError(
                f"{title}: rotary_width must be at most a head's {self.head_width}, got {self.rotary_width}"
            )

    def _check_layers(self, title: str) -> None:
        if self.unrotated > self.layers:
            raise ValueError(f"{title}: unrotated must be at most the {self.layers} layers, got {self.unrotated}")
        if self.dense_layers > self.layers:
            raise ValueError(f"{title}: dense_layers must be at most the {self.layers} layers, got {self.dense_layers}")

    @property
    def design(self) -> Design:
        """What a layer is made of."""
        return self.own_design or DESIGNS[self.style]

    @property
    def lean(self) -> Lean | None:
        """Which of mixlab's own layers has these parameters and operations; None if only transformers' module has."""
        sizes = (self.query_width == self.width, self.rotary_width in (None, self.head_width), not self.unrotated)
        if not all(sizes) or self.experts or self.latent or self.embedding_width:
            return None
        own = replace(self.design, fused_qkv=False, fused_gate=False)
        for lean, (design, activations) in _LEAN.items():
            if own.activation in activations and replace(own, activation=design.activation) == design:
                return lean
            own = replace(own, qkv_bias=False, output_bias=False, ffn_bias=False)  # a llama may have any of them
        return None

    @property
    def head_width(self) -> int:
        """Width of the queries and keys of one attention head."""
        if self.latent:
            return self.latent.plain + self.latent.rotary
        return self.width // self.heads if self.head_dim is None else self.head_dim

    @property
    def query_width(self) -> int:
        """Width of the queries of all heads."""
        return self.heads * self.head_width

    @property
    def kv_width(self) -> int:
        """Width of the keys of all their heads, and of the values but in latent attention."""
        return self.kv_heads * self.head_width

    @property
    def value_width(self) -> int:
        """Width of what all heads attend to, before the projection after attention."""
        return self.heads * (self.latent.value if self.latent else self.head_width)

    @property
    def dense_layers(self) -> int:
        """Layers with a plain feed-forward layer."""
        return self.experts.dense_layers if self.experts else self.layers

    @property
    def sparse_layers(self) -> int:
        """Layers with experts."""
        return self.layers - self.dense_layers

    @property
    def attention_matrices(self) -> tuple[Matrix, ...]:
        """The matrices of a layer's attention, in the order of their products."""
        inner, outer = self.qkv_bias or self.design.qkv_bias, self.output_bias or self.design.output_bias
        output = Matrix(self.width, self.value_width, outer)
        if self.latent is None:
            return (*(Matrix(rows, self.width, inner) for rows in (self.query_width, *2 * (self.kv_width,))), output)
        low, shared = self.latent, self.latent.kv_rank + self.latent.rotary
        queries = [Matrix(self.query_width, self.width)]
        if low.query_rank is not None:
            queries = [Matrix(low.query_rank, self.width, inner), Matrix(self.query_width, low.query_rank)]
        expanded = self.heads * (low.plain + low.value)
        return (*queries, Matrix(shared, self.width, inner), Matrix(expanded, low.kv_rank), output)

    @property
    def ffn_matrices(self) -> tuple[Matrix, ...]:
        """The matrices of a plain feed-forward layer, in the order of their products."""
        return self._feed_forward(self.ffn, self.ffn_bias or self.design.ffn_bias)

    @property
    def expert_matrices(self) -> tuple[Matrix, ...]:
        """The matrices of a layer's experts: router, experts, and what every token passes; () without experts."""
        if (experts := self.experts) is None:
            return ()
        router = Matrix(experts.count, self.width, experts.router_bias)
        routed = self._feed_forward(experts.width, experts.bias, experts.count)
        shared = self._feed_forward(experts.shared, experts.shared_bias) if experts.shared else ()
        return (router, *routed, *shared, *[Matrix(1, self.width)] * experts.shared_gate)

    def _feed_forward(self, inner: int, bias: bool, copies: int = 1) -> tuple[Matrix, ...]:
        first = Matrix(inner, self.width, bias, copies)
        return (*[first] * (2 if self.design.gated else 1), Matrix(self.width, inner, bias, copies))

    @property
    def layer_matrices(self) -> tuple[tuple[int, int], ...]:
        """(outputs, inputs) of the matrices of a layer with a plain feed-forward, in the order of their products."""
        return tuple((one.outputs, one.inputs) for one in (*self.attention_matrices, *self.ffn_matrices))

    @property
    def layer_biases(self) -> tuple[bool, ...]:
        """Whether each of the `layer_matrices` has a bias."""
        return tuple(one.bias for one in (*self.attention_matrices, *self.ffn_matrices))

    @property
    def _around_ffn(self) -> int:
        """Parameters of a layer without its feed-forward or experts."""
        design = self.design
        heads = {None: 0, "head": 2 * self.head_width}.get(design.head_norm, self.query_width + self.kv_width)
        ranks = (self.latent.query_rank or 0) + self.latent.kv_rank if self.latent else 0  # an RMSNorm of each
        norms = design.layer_norms * design.norm_tensors * self.width + design.head_norm_tensors * heads + ranks
        sinks = self.heads if design.sinks else 0
        return sum(one.parameters for one in self.attention_matrices) + norms + sinks

    @property
    def layer_parameters(self) -> int:
        """Parameters of one layer; with experts, of one that has them."""
        corrections = self.experts.count if self.experts and self.experts.corrections else 0
        matrices = self.expert_matrices or self.ffn_matrices
        return self._around_ffn + corrections + sum(one.parameters for one in matrices)

    @property
    def dense_layer_parameters(self) -> int:
        """Parameters of one layer with a plain feed-forward."""
        return self._around_ffn + sum(one.parameters for one in self.ffn_matrices)

    @property
    def embedding_parameters(self) -> int:
        """Parameters of the embeddings, and of the output layer as far as it is not tied."""
        design, narrow = self.design, self.embedding_width or self.width
        tokens = self.vocabulary * narrow * (1 if self.tied else 2) + (self.vocabulary if design.head_bias else 0)
        positions = (self.context + design.more_positions) * self.width if design.positions == "learned" else 0
        norm = design.norm_tensors * self.width if design.embedding_norm else 0
        return tokens + positions + norm + (2 * narrow * self.width if narrow != self.width else 0)

    @property
    def parameters(self) -> int:
        """Parameters of the whole model."""
        final_norm = self.design.norm_tensors * self.width if self.design.final_norm else 0
        layers = self.sparse_layers * self.layer_parameters + self.dense_layers * self.dense_layer_parameters
        return layers + self.embedding_parameters + final_norm

    @property
    def active_parameters(self) -> int:
        """Parameters that a token passes: all but those of the experts that it is not routed to."""
        if self.experts is None:
            return self.parameters
        routed = sum(one.parameters for one in self._feed_forward(self.experts.width, self.experts.bias))
        return self.parameters - self.sparse_layers * (self.experts.count - self.experts.active) * routed


_LEAN: dict[Lean, tuple[Design, tuple[str, ...]]] = {
    "gpt2": (replace(DESIGNS["gpt2"], fused_qkv=False), ("gelu_new", "gelu_pytorch_tanh", "gelu")),
    "llama": (DESIGNS["llama"], ("silu", "swish")),
}


def require_lean(shape: ModelShape) -> None:
    """Checks that a shape has one of mixlab's own layers.

    Args:
        shape: A shape.

    Raises:
        ValueError: If it has none.
    """
    if shape.lean is None:
        raise ValueError(
            f"{shape.name}: mixlab has no layer of style {shape.style} as this shape has it, only transformers has: "
            "trace its own module, or take a shape that is made as gpt2 or llama is"
        )
