"""Mixtures of experts as Hugging Face's transformers computes them by default (grouped products), on a tape.

Every token's row is copied once for each expert that it is routed to, so the bytes do not depend on the routing.
"""

from __future__ import annotations

from collections.abc import Callable

from mixlab.memory import tape_ops as ops
from mixlab.memory.hf_parts import ACTIVATIONS, TapedRun, feed_forward, made_by
from mixlab.memory.tape import Tape, Value

_INDEX = 8  # bytes of an index


@made_by("experts")
def mixture(run: TapedRun, x: Value) -> Value:
    """Returns the feed-forward of a layer with experts."""
    tape, shape = run.tape, run.shape
    experts = shape.experts
    assert experts is not None
    everyone = _everyone(run, x) if run.writing.shared_first and experts.shared else None
    out = grouped(run, x, routed(run, x))
    if not experts.shared:
        return out
    if everyone is None:
        everyone = _everyone(run, x)
    if experts.shared_gate:
        gate = ops.of_result(tape, run.linear(x, shape.expert_matrices[-1]))
        everyone = ops.mul(tape, gate, everyone)
    return ops.add(tape, out, everyone)


def _everyone(run: TapedRun, x: Value) -> Value:
    """Returns the feed-forward that every token passes."""
    each = 3 if run.shape.design.gated else 2
    return feed_forward(run, x, run.shape.expert_matrices[1 + each : 1 + 2 * each])


def routed(run: TapedRun, x: Value) -> Value:
    """Returns the weights of the experts of each token."""
    tape, experts = run.tape, run.shape.experts
    assert experts is not None
    router = run.shape.expert_matrices[0]
    chosen = run.tokens * experts.active
    if run.writing.float_router or run.writing.router_outside:
        x = ops.to(tape, x, 4)
    if run.writing.router_outside:
        weight = tape.parameter(router.outputs * router.inputs, router.inputs)
        logits = ops.matmul_of(tape, x, weight, run.tokens * router.outputs)
    else:
        logits = run.linear(x, router)
    probabilities = ops.softmax(tape, logits)
    indices = tape.new(chosen, _INDEX)
    numel = probabilities.numel
    top = tape.new(chosen, 4)
    tape.record(top, (probabilities,), lambda g: (tape.new(numel, g.size),), (indices.storage,))
    return top


def grouped(run: TapedRun, x: Value, weights: Value) -> Value:
    """Returns what the experts make of the rows that are routed to them, weighted and summed for each token."""
    tape, shape, experts = run.tape, run.shape, run.shape.experts
    assert experts is not None
    rows, width, inner = run.tokens * experts.active, shape.width, experts.width
    order, back = tape.new(rows, _INDEX), tape.new(rows, _INDEX)
    own = x.size
    chosen = _rows(tape, x, rows * width, order)
    weights = _rows(tape, weights, rows, order)
    first = 2 * inner if shape.design.gated else inner
    biases = _biases(run, rows, first, order)
    both = _product(run, chosen, width, first, biases)
    del chosen
    inside = ACTIVATED[run.writing.gate] if shape.design.gated else _plain
    both = inside(run, both)
    biases = _biases(run, rows, width, order)
    out = _product(run, both, inner, width, biases)
    weighted = ops.mul(tape, out, weights)
    weighted = _rows(tape, weighted, rows * width, back)
    return ops.to(tape, _sum(tape, weighted, run.tokens * width), own)


def _plain(run: TapedRun, x: Value) -> Value:
    return ACTIVATIONS[run.shape.design.activation](run.tape, x)


def _gated(run: TapedRun, both: Value) -> Value:
    gate, up = ops.parts(run.tape, both, [both.numel // 2] * 2)
    return ops.mul(run.tape, _plain(run, gate), up)


def _clamped(run: TapedRun, both: Value) -> Value:
    """Returns the gate of gpt-oss: both halves are clamped, and the first has a sigmoid of its own."""
    tape = run.tape
    gate, up = ops.part(tape, both, both.numel // 2), ops.part(tape, both, both.numel // 2)
    gate = ops.of_input(tape, gate)
    up = ops.of_input(tape, up)
    glu = ops.mul(tape, gate, ops.of_result(tape, ops.scale(tape, gate)))
    return ops.mul(tape, ops.shift(tape, up), glu)


ACTIVATED: dict[str, Callable[[TapedRun, Value], Value]] = {"silu": _gated, "clamped": _clamped}


def _biases(run: TapedRun, rows: int, outputs: int, order: Value) -> Value | None:
    """Returns the biases of each row's expert."""
    tape, experts = run.tape, run.shape.experts
    if experts is None or not experts.bias:
        return None
    bias = tape.parameter(experts.count * outputs)
    numel, size = bias.numel, bias.size
    return tape.record(tape.new(rows * outputs, size), (bias,), lambda _g: (tape.new(numel, size),), (order.storage,))


def _product(run: TapedRun, x: Value, inputs: int, outputs: int, biases: Value | None) -> Value:
    """Returns the products of rows with the matrices of their experts, which no autocast casts."""
    tape, experts = run.tape, run.shape.experts
    assert experts is not None
    weight = tape.parameter(experts.count * inputs * outputs, inputs)
    x = ops.to(tape, x, weight.size)
    out = ops.matmul_of(tape, x, weight, x.numel // inputs * outputs)
    return out if biases is None else ops.add_(tape, out, biases)


def _rows(tape: Tape, x: Value, numel: int, indices: Value) -> Value:
    """Returns rows of `x` by their numbers; backward adds their gradients into zeros."""
    own, size = x.numel, x.size
    return tape.record(tape.new(numel, size), (x,), lambda _g: (tape.new(own, size),), (indices.storage,))


def _sum(tape: Tape, x: Value, numel: int) -> Value:
    """Returns sums over the experts of a token; the gradient is a view."""
    whole = x.numel
    return tape.record(tape.new(numel, x.size), (x,), lambda g: (Value(whole, g.size, g.storage, lone=False),))
