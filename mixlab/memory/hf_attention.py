"""Attention as Hugging Face's transformers writes it, on a tape."""

from __future__ import annotations

from collections.abc import Callable

from mixlab.memory import tape_ops as ops
from mixlab.memory.hf_parts import NORMS, TapedRun, made_by, rms_norm
from mixlab.memory.tape import Tape, Value
from mixlab.shapes import Matrix

Tables = tuple[Value, Value] | None
Heads = tuple[Value, Value, Value]


@made_by("attention")
def attend(run: TapedRun, x: Value, tables: Tables, rotates: bool) -> Value:
    """Returns attention and the projection after it."""
    heads = _latent(run, x, tables) if run.shape.latent else _projected(run, x, tables if rotates else None)
    attended = CORES[run.writing.core](run, heads)
    del heads
    return run.dropout(run.linear(attended, run.shape.attention_matrices[-1]), "residual")


def _projected(run: TapedRun, x: Value, tables: Tables) -> Heads:
    tape, shape = run.tape, run.shape
    matrices = shape.attention_matrices[:3]
    if shape.design.fused_qkv:
        widths = [matrix.outputs for matrix in matrices]
        fused = run.linear(x, matrices[0]._replace(outputs=sum(widths)))
        q, k, v = _split(run, fused, [width * run.tokens for width in widths])
        del fused
    else:
        q, k, v = (run.linear(x, matrix) for matrix in matrices)
    if run.writing.core == "falcon" and 1 < shape.kv_heads < shape.heads:  # its new decoder
        times = shape.heads // shape.kv_heads
        q, k, v = ops.copy(tape, q), ops.repeat(tape, k, times), ops.repeat(tape, v, times)
    if "query" in run.writing.scaled:
        q = ops.scale(tape, q)
    if shape.design.head_norm:
        q, k = _head_norm(run, q), _head_norm(run, k)
    if tables is not None:
        q, k = rotated(run, q, k, tables)
    return (q, *cached(run, k, v))


def _split(run: TapedRun, fused: Value, numels: list[int]) -> list[Value]:
    if run.writing.core in ("bloom", "falcon") or run.shape.style == "phi3":  # by slices
        return [ops.part(run.tape, fused, numel) for numel in numels]
    return ops.parts(run.tape, fused, numels)


@made_by("norms")
def _head_norm(run: TapedRun, x: Value) -> Value:
    design = run.shape.design
    width = run.shape.head_width if design.head_norm != "whole" else x.numel // run.tokens
    return NORMS[design.norm](run, x, width, design.head_norm_tensors)


def cached(run: TapedRun, k: Value, v: Value) -> tuple[Value, Value]:
    """Returns keys and values after the cache, which the model's outputs hold until the loss is returned."""
    if not run.caches:
        return k, v
    k, v = ops.copy(run.tape, k), ops.copy(run.tape, v)
    run.tape.outputs += [k, v]
    return k, v


def rotated(run: TapedRun, q: Value, k: Value, tables: tuple[Value, Value]) -> tuple[Value, Value]:
    """Returns queries and keys with rotary embeddings."""
    tape, share = run.tape, run.shape.rotary_width
    rotate = ROTARY[run.writing.rotary]
    if run.writing.own_tables:
        tables = tape.new(tables[0].numel, tables[0].size), tape.new(tables[1].numel, tables[1].size)
    if share is None or share == run.shape.head_width:
        return rotate(tape, q, tables), rotate(tape, k, tables)

    def partly(x: Value) -> Value:
        turned = x.numel * share // run.shape.head_width
        first, rest = ops.part(tape, x, turned), ops.part(tape, x, x.numel - turned)
        return ops.join(tape, [rotate(tape, first, tables), rest])

    return partly(q), partly(k)


def _swapped(tape: Tape, x: Value) -> Value:
    first, second = ops.part(tape, x, x.numel // 2), ops.part(tape, x, x.numel // 2)
    return ops.join(tape, [ops.scale(tape, second), first])


def _half(tape: Tape, x: Value, tables: tuple[Value, Value]) -> Value:
    return ops.add(tape, ops.mul(tape, x, tables[0]), ops.mul(tape, _swapped(tape, x), tables[1]))


def _back(tape: Tape, x: Value, tables: tuple[Value, Value]) -> Value:
    return ops.to(tape, _half(tape, x, tables), x.size)


def _float(tape: Tape, x: Value, tables: tuple[Value, Value]) -> Value:
    return ops.to(tape, _half(tape, ops.to(tape, x, 4), tables), x.size)


def _wide(tape: Tape, x: Value, tables: tuple[Value, Value]) -> Value:
    first = ops.mul(tape, ops.to(tape, x, 4), tables[0])
    second = ops.mul(tape, ops.to(tape, _swapped(tape, x), 4), tables[1])
    return ops.to(tape, ops.add(tape, first, second), x.size)


def _chunks(tape: Tape, x: Value, tables: tuple[Value, Value]) -> Value:
    first, second = ops.parts(tape, x, [x.numel // 2] * 2)
    return _turned(tape, first, second, tables)


def _pairs(tape: Tape, x: Value, tables: tuple[Value, Value]) -> Value:
    first, second = ops.part(tape, x, x.numel // 2), ops.part(tape, x, x.numel // 2)
    return _turned(tape, first, second, tables)


def _turned(tape: Tape, first: Value, second: Value, tables: tuple[Value, Value]) -> Value:
    cos, sin = tables
    one = ops.add(tape, ops.mul(tape, first, cos), ops.mul(tape, second, sin))
    two = ops.add(tape, ops.mul(tape, second, cos), ops.mul(tape, first, sin))
    return ops.join(tape, [one, two])


def _complex(tape: Tape, x: Value, tables: tuple[Value, Value]) -> Value:
    return ops.to(tape, ops.mul(tape, ops.to(tape, x, 4), tables[0]), x.size)


ROTARY: dict[str, Callable[[Tape, Value, tuple[Value, Value]], Value]] = {
    "half": _half,
    "back": _back,
    "float": _float,
    "wide": _wide,
    "chunks": _chunks,
    "pairs": _pairs,
    "complex": _complex,
}


def _latent(run: TapedRun, x: Value, tables: Tables) -> Heads:
    tape, shape, tokens = run.tape, run.shape, run.tokens
    low = shape.latent
    assert low is not None
    assert tables is not None
    *queries, down, up, _ = shape.attention_matrices
    q = run.linear(x, queries[0])
    if low.query_rank is not None:
        q = run.linear(rms_norm(run, q, low.query_rank), queries[1])
    plain, turned = ops.parts(tape, q, [tokens * shape.heads * low.plain, tokens * shape.heads * low.rotary])
    del q
    compressed = run.linear(x, down)
    narrow, shared = ops.parts(tape, compressed, [tokens * low.kv_rank, tokens * low.rotary])
    del compressed
    narrow = rms_norm(run, narrow, low.kv_rank)
    rotate = ROTARY[run.writing.rotary]
    turned, shared = rotate(tape, turned, tables), rotate(tape, shared, tables)
    narrow, shared = cached(run, narrow, shared)
    q = ops.join(tape, [plain, turned])
    return (q, *_expanded(run, narrow, shared, up))


def _expanded(run: TapedRun, narrow: Value, shared: Value, up: Matrix) -> tuple[Value, Value]:
    """Returns keys and values of all heads from their narrow product and the rotated part that heads share."""
    tape, heads, low = run.tape, run.tokens * run.shape.heads, run.shape.latent
    assert low is not None
    both = run.linear(narrow, up)
    plain, v = ops.parts(tape, both, [heads * low.plain, heads * low.value])
    k = ops.join(tape, [plain, ops.spread(tape, shared, heads * low.rotary)])
    return k, v


def interface(run: TapedRun, heads: Heads) -> Value:
    """Returns attention by SDPA, or by separate operations."""
    return eager(run, heads) if run.eager else fused(run, heads)


def fused(run: TapedRun, heads: Heads) -> Value:
    """Returns attention by the kernel that CUDA takes: see `mixlab.memory.fused_attention`."""
    tape, shape = run.tape, run.shape
    q, k, v = heads
    times = q.numel // k.numel
    alike = shape.head_width <= _WIDEST_HEAD and shape.value_width == shape.query_width
    if times > 1 and not alike:  # else SDPA itself shares keys and values
        k, v, times = ops.repeat(tape, k, times), ops.repeat(tape, v, times), 1
    q, k, v = (ops.operand(tape, x) for x in (q, k, v))
    mask = _numbers(run, run.masks[0], q.size) if run.writing.masks else None
    flash = alike and q.size == 2 and mask is None
    if times > 1 and not flash:
        return _unfused(run, (q, k, v))
    sizes = run.batch, shape.heads, run.seq, shape.head_width
    return ops.fused_attention(tape, q, k, v, sizes, run.tokens * shape.value_width, flash=flash, mask=mask)


_WIDEST_HEAD = 256


def _numbers(run: TapedRun, mask: Value, size: int) -> Value:
    """Returns a mask in numbers of `size` bytes, as SDPA makes it of one of truths, and autocast of others."""
    return run.tape.new(mask.numel, size) if mask.size == 1 else ops.operand(run.tape, mask)


def _unfused(run: TapedRun, heads: Heads) -> Value:
    """Returns what SDPA falls back to if no kernel takes such heads: ordinary ops in float32 that keep all scores."""
    tape, own = run.tape, heads[0].size
    q, k, v = (ops.to(tape, x, 4) for x in heads)
    times = run.shape.heads // run.shape.kv_heads
    q = ops.scale(tape, q)
    if not run.writing.masks:
        k, v, times = ops.repeat(tape, k, times), ops.repeat(tape, v, times), 1
    weights = ops.matmul_of(tape, strided(run, q), ops.repeat(tape, ops.scale(tape, k), times), run.scores)
    if run.writing.masks:
        weights = ops.shift(tape, weights)
    weights = run.dropout(ops.softmax(tape, weights), "attention")
    out = ops.matmul_of(tape, weights, ops.repeat(tape, v, times), run.tokens * run.shape.value_width)
    del q, k, v, weights  # what the op itself holds, though its caller holds its operands
    return ops.copy(tape, ops.to(tape, out, own))


def eager(run: TapedRun, heads: Heads) -> Value:
    """Returns attention with all scores in memory."""
    tape, shape = run.tape, run.shape
    q, k, v = heads
    times = shape.heads // shape.kv_heads
    k, v = ops.repeat(tape, k, times), ops.repeat(tape, v, times)
    weights = ops.scale(tape, scores(run, q, k))
    if shape.design.attention_softcap:
        weights = ops.scale(tape, weights)
        weights = ops.of_result(tape, weights)
        weights = ops.scale(tape, weights)
    weights = masked(run, weights)
    wide = tape.formats.autocast or not run.writing.narrow_softmax
    weights = ops.to(
        tape, ops.softmax(tape, weights, 4 if wide else weights.size), v.size if run.writing.wide_scores else q.size
    )
    weights = run.dropout(weights, "attention")
    return mixed(run, weights, v)


def scores(run: TapedRun, q: Value, k: Value) -> Value:
    """Returns the products of queries with keys."""
    tape = run.tape
    if run.writing.wide_scores:
        q, k = ops.to(tape, q, 4), ops.to(tape, k, 4)
    return ops.matmul_of(tape, strided(run, ops.operand(tape, q)), in_order(run, ops.operand(tape, k)), run.scores)


def masked(run: TapedRun, weights: Value) -> Value:
    """Returns scores with the mask added, in the wider format of the two."""
    return ops.shift(run.tape, weights, run.masks[0].size)


def mixed(run: TapedRun, weights: Value, v: Value) -> Value:
    """Returns the products of the softmax with values, in the order of tokens."""
    tape = run.tape
    out = ops.matmul_of(
        tape, ops.operand(tape, weights), in_order(run, ops.operand(tape, v)), run.tokens * run.shape.value_width
    )
    return ops.copy(tape, out)


def strided(run: TapedRun, x: Value) -> Value:
    """Returns queries as a product of matrices takes them: rows of several sequences are copied."""
    return ops.copy(run.tape, x) if run.batch > 1 else x


def in_order(run: TapedRun, x: Value) -> Value:
    """Returns keys or values as a product takes them; those from a cache, or repeated, are in order already."""
    in_order = run.caches or run.shape.heads > run.shape.kv_heads
    return x if in_order else strided(run, x)


def _neo(run: TapedRun, heads: Heads) -> Value:
    tape = run.tape
    q, k, v = heads
    q, k = ops.to(tape, q, 4), ops.to(tape, k, 4)
    weights = ops.scale(tape, scores(run, q, k))  # the causal mask
    weights = ops.softmax(tape, ops.shift(tape, weights))
    weights = run.dropout(ops.to(tape, weights, v.size), "attention")
    return mixed(run, weights, v)


def _bloom(run: TapedRun, heads: Heads) -> Value:
    tape = run.tape
    q, k, v = heads
    weights = ops.shift(tape, scores(run, q, k))
    weights = ops.to(tape, ops.softmax(tape, weights), q.size)
    weights = run.dropout(weights, "attention")
    return mixed(run, weights, v)


def _mpt(run: TapedRun, heads: Heads) -> Value:
    tape = run.tape
    q, k, v = heads
    weights = ops.scale(tape, scores(run, q, k))
    weights = ops.shift(tape, weights)
    weights = ops.scale(tape, weights)  # masked_fill
    weights = ops.to(tape, ops.softmax(tape, ops.to(tape, weights, 4)), v.size)
    weights = run.dropout(weights, "attention")
    return mixed(run, weights, v)


def _falcon(run: TapedRun, heads: Heads) -> Value:
    if not run.eager:
        return fused(run, heads)
    tape = run.tape
    q, k, v = heads
    times = q.numel // k.numel  # a product with fewer heads copies them
    k, v = ops.repeat(tape, k, times), ops.repeat(tape, v, times)
    if run.shape.design.positions != "alibi":
        weights = ops.softmax(tape, masked(run, ops.scale_(tape, scores(run, q, k))), tape.formats.weight)
        return mixed(run, weights, v)
    found = scores(run, q, k)
    wide = ops.to(tape, found, 4)
    logits = ops.scale_(tape, ops.shift(tape, wide))
    hidden = masked(run, logits)
    weights = ops.softmax(tape, ops.to(tape, hidden, tape.formats.weight), tape.formats.weight)
    del hidden
    return mixed(run, run.dropout(weights, "attention"), v)


def _sinks(run: TapedRun, heads: Heads) -> Value:
    tape = run.tape
    q, k, v = heads
    times = run.shape.heads // run.shape.kv_heads
    k, v = ops.repeat(tape, k, times), ops.repeat(tape, v, times)
    weights = ops.shift(tape, ops.scale(tape, scores(run, q, k)))
    column = run.scores // run.seq
    sinks = ops.spread(tape, ops.offset(tape, tape.parameter(run.shape.heads), tape.formats.weight), column)
    combined = ops.shift(tape, ops.join(tape, [weights, sinks]))
    probabilities = ops.softmax(tape, combined, combined.size)
    weights = ops.to(tape, ops.part(tape, probabilities, run.scores), v.size)
    return mixed(run, weights, v)


CORES: dict[str, Callable[[TapedRun, Heads], Value]] = {
    "interface": interface,
    "neo": _neo,
    "bloom": _bloom,
    "mpt": _mpt,
    "falcon": _falcon,
    "sinks": _sinks,
}
