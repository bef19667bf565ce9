"""Parts of language models as Hugging Face's transformers writes them, on a tape: norms, activations, feed-forward.

Each follows the code of transformers 5.24 line by line, since separate operations keep more than a fused one: an
RMSNorm keeps two float32 copies, "gelu_new" five tensors as large as its input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

from mixlab.memory import tape_ops as ops
from mixlab.memory.hf_writings import Writing
from mixlab.memory.tape import Tape, Value
from mixlab.shapes import Matrix, ModelShape


def made_by(part: str) -> Callable[[Callable[..., Value]], Callable[..., Value]]:
    """Returns a decorator for a part of a model: what it makes on the tape goes by the part's name."""

    def decorated(function: Callable[..., Value]) -> Callable[..., Value]:
        @wraps(function)
        def named(owner: Any, *args: Any) -> Value:
            tape: Tape = owner.tape
            before, tape.maker = tape.maker, part
            try:
                return function(owner, *args)
            finally:
                tape.maker = before

        return named

    return decorated


@dataclass(frozen=True)
class TapedRun:
    """A run of a model on a tape.

    Args:
        tape: The tape.
        shape: The model.
        writing: How transformers writes it.
        batch, seq: Rows, and tokens of each.
        eager: Whether attention is the eager one, not SDPA.
        caches: Whether keys and values go through a cache, as in training without checkpoints.
        masks: The masks of attention, as long as the model holds them.
    """

    tape: Tape
    shape: ModelShape
    writing: Writing
    batch: int
    seq: int
    eager: bool
    caches: bool
    masks: list[Value] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return self.batch * self.seq

    @property
    def scores(self) -> int:
        """Elements of a layer's attention scores."""
        return self.batch * self.shape.heads * self.seq**2

    def dropout(self, x: Value, where: str) -> Value:
        return ops.dropout(self.tape, x, where in self.shape.dropout)

    def linear(self, x: Value, matrix: Matrix) -> Value:
        weight = self.tape.parameter(matrix.outputs * matrix.inputs, matrix.inputs)
        bias = self.tape.parameter(matrix.outputs) if matrix.bias else None
        if bias is not None and self.writing.adds_biases:
            return ops.add(self.tape, ops.linear(self.tape, x, weight), bias)
        return ops.linear(self.tape, x, weight, bias)

    @made_by("norms")
    def norm(self, x: Value, width: int) -> Value:
        """Returns the model's norm of rows of `width`."""
        return NORMS[self.shape.design.norm](self, x, width, self.shape.design.norm_tensors)


def _rsqrt(tape: Tape, variance: Value) -> Value:
    return ops.of_result(tape, ops.shift(tape, variance))


@made_by("norms")
def rms_norm(run: TapedRun, x: Value, width: int, _tensors: int = 1) -> Value:
    tape, own, rows = run.tape, x.size, x.numel // width
    x = ops.to(tape, x, 4)
    variance = ops.mean(tape, ops.raised(tape, x), rows)
    x = ops.mul(tape, x, _rsqrt(tape, variance))
    weight = tape.parameter(width)
    if run.writing.wide_rms_weight:
        return ops.to(tape, ops.mul(tape, x, weight), own)
    return ops.mul(tape, ops.to(tape, x, own), weight)


def _gemma(run: TapedRun, x: Value, width: int, _tensors: int) -> Value:
    tape, rows = run.tape, x.numel // width
    wide = ops.to(tape, x, 4)
    normed = ops.mul(tape, wide, _rsqrt(tape, ops.mean(tape, ops.raised(tape, wide), rows)))
    del wide
    return ops.to(tape, ops.mul(tape, normed, ops.offset(tape, tape.parameter(width), 4)), x.size)


def _cohere(run: TapedRun, x: Value, width: int, _tensors: int) -> Value:
    tape, own, rows = run.tape, x.size, x.numel // width
    x = ops.to(tape, x, 4)
    mean = ops.mean(tape, x, rows)
    variance = ops.mean(tape, ops.raised(tape, ops.add(tape, x, mean)), rows)
    x = ops.mul(tape, ops.add(tape, x, mean), _rsqrt(tape, variance))
    return ops.to(tape, ops.mul(tape, x, tape.parameter(width)), own)


def _layer(run: TapedRun, x: Value, width: int, tensors: int) -> Value:
    return ops.layer_norm(run.tape, x, [run.tape.parameter(width) for _ in range(tensors)], x.numel // width)


def _olmo(run: TapedRun, x: Value, width: int, _tensors: int) -> Value:
    return ops.to(run.tape, ops.layer_norm(run.tape, ops.to(run.tape, x, 4), (), x.numel // width), x.size)


def _nemotron(run: TapedRun, x: Value, width: int, _tensors: int) -> Value:
    tape = run.tape
    weights: list[ops.Operand] = [ops.offset(tape, tape.parameter(width), x.size), tape.parameter(width)]
    return ops.layer_norm(tape, ops.operand(tape, x), weights, x.numel // width, cast=False)


NORMS: dict[str, Callable[[TapedRun, Value, int, int], Value]] = {
    "rms": rms_norm,
    "gemma": _gemma,
    "cohere": _cohere,
    "layer": _layer,
    "olmo": _olmo,
    "nemotron": _nemotron,
}


def _gelu_new(tape: Tape, x: Value) -> Value:
    half = ops.scale(tape, x)
    return ops.mul(tape, half, ops.shift(tape, ops.of_result(tape, ops.scale(tape, ops.add(tape, x, _cubed(tape, x))))))


def _cubed(tape: Tape, x: Value) -> Value:
    return ops.scale(tape, ops.raised(tape, x))


def _gelu_fast(tape: Tape, x: Value) -> Value:
    half, slope = ops.scale(tape, x), ops.scale(tape, x)
    inner = ops.mul(tape, slope, ops.shift(tape, ops.mul(tape, ops.scale(tape, x), x)))
    return ops.mul(tape, half, ops.shift(tape, ops.of_result(tape, inner)))


def _quick_gelu(tape: Tape, x: Value) -> Value:
    return ops.mul(tape, x, ops.of_result(tape, ops.scale(tape, x)))


def _relu2(tape: Tape, x: Value) -> Value:
    return ops.raised(tape, ops.of_result(tape, x))


def _bloom_gelu(tape: Tape, x: Value) -> Value:
    inside = [tape.new(x.numel, x.size) for _ in range(4)]
    inside.clear()
    return ops.of_input(tape, x, temporaries=4)


def _gelu_python(tape: Tape, x: Value) -> Value:
    half = ops.scale(tape, x)
    return ops.mul(tape, half, ops.shift(tape, _erf(tape, ops.scale(tape, x))))


def _laplace(tape: Tape, x: Value) -> Value:
    return ops.scale(tape, ops.shift(tape, _erf(tape, ops.scale(tape, ops.shift(tape, x)))))


def _erf(tape: Tape, x: Value) -> Value:
    return ops.of_input(tape, x, temporaries=3)


def _clipped_gelu(tape: Tape, x: Value) -> Value:
    return ops.of_input(tape, ops.of_input(tape, x))


def _linear(_tape: Tape, x: Value) -> Value:
    return x


ACTIVATIONS: dict[str, Callable[[Tape, Value], Value]] = {
    **dict.fromkeys(("gelu", "gelu_pytorch_tanh", "hardswish", "leaky_relu", "mish"), ops.of_input),
    **dict.fromkeys(("relu6", "silu", "swish"), ops.of_input),
    **dict.fromkeys(("relu", "sigmoid", "tanh"), ops.of_result),
    **dict.fromkeys(("gelu_accurate", "gelu_new", "gelu_python_tanh"), _gelu_new),
    "bloom_gelu": _bloom_gelu,
    "gelu_10": _clipped_gelu,
    "gelu_fast": _gelu_fast,
    "gelu_python": _gelu_python,
    "laplace": _laplace,
    "linear": _linear,
    "quick_gelu": _quick_gelu,
    "relu2": _relu2,
}


@made_by("feed-forward")
def feed_forward(run: TapedRun, x: Value, matrices: tuple[Matrix, ...]) -> Value:
    """Returns a feed-forward layer, gated by a third matrix or not."""
    tape, design = run.tape, run.shape.design
    activation = ACTIVATIONS[design.activation]
    if not design.gated:
        first, last = matrices
        x = run.linear(x, first)
        x = activation(tape, x)
        return run.linear(x, last)
    gate, up, down = matrices
    if design.fused_gate:
        both = run.linear(x, gate._replace(outputs=gate.outputs + up.outputs))
        gated, value = ops.parts(tape, both, [both.numel // 2] * 2)
        del both
        return run.linear(ops.mul(tape, value, activation(tape, gated)), down)
    return run.linear(ops.mul(tape, activation(tape, run.linear(x, gate)), run.linear(x, up)), down)
