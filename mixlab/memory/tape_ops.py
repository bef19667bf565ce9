"""Ops on a tape: what each allocates in forward, saves for backward and allocates there, as on CUDA.

Sizes follow PyTorch's sources (tools/autograd/derivatives.yaml, FunctionsManual.cpp and the kernels). Shapes are left
out: tensors are counts of elements, so views cost nothing and broadcast operands are those with fewer elements.
"""

from __future__ import annotations

from collections.abc import Sequence

from mixlab.memory.tape import Parameter, Tape, Value

Operand = Value | Parameter


def part(tape: Tape, x: Value, numel: int) -> Value:
    """Returns a view of `numel` of the elements, whose gradient is as large as `x`."""
    whole = x.numel
    return tape.record(Value(numel, x.size, x.storage), (x,), lambda g: (tape.new(whole, g.size),))


def parts(tape: Tape, x: Value, numels: Sequence[int]) -> list[Value]:
    """Returns the pieces of a split, whose gradients backward puts together in one tensor."""
    whole, held = x.numel, list[Value]()

    def together(g: Value) -> tuple[Value]:
        result = tape.new(whole, g.size)
        held.clear()
        return (result,)

    def hold(g: Value) -> tuple[Value]:
        held.append(g)
        return (Value(0, g.size, g.storage, lone=False),)

    joined = tape.record(Value(whole, x.size, x.storage), (x,), together)
    return [tape.record(Value(numel, x.size, x.storage), (joined,), hold) for numel in numels]


def copy(tape: Tape, x: Value) -> Value:
    """Returns a copy in another order of memory (`contiguous`, `reshape`, `cat` with nothing)."""
    return tape.record(tape.new(x.numel, x.size), (x,), lambda g: (Value(g.numel, g.size, g.storage, lone=False),))


def repeat(tape: Tape, x: Value, times: int) -> Value:
    """Returns copies of the heads of keys or values, whose gradients backward sums."""
    if times == 1:
        return x
    numel, size = x.numel, x.size
    return tape.record(tape.new(times * numel, size), (x,), lambda _g: (tape.new(numel, size),))


def to(tape: Tape, x: Value, size: int) -> Value:
    """Returns `x` in numbers of `size` bytes."""
    if x.size == size:
        return x
    numel, own = x.numel, x.size
    return tape.record(tape.new(numel, size), (x,), lambda _g: (tape.new(numel, own),))


def operand(tape: Tape, x: Value) -> Value:
    """Returns `x` as an operand of a product."""
    return to(tape, x, tape.formats.compute) if tape.formats.autocast and x.size == 4 else x


def add(tape: Tape, x: Value, y: Operand) -> Value:
    """Returns x + y."""
    first, second = x.numel, y.numel

    def run(g: Value) -> tuple[Value, Value]:
        return _summed(tape, g, first), _summed(tape, g, second)

    return tape.record(tape.new(max(first, second), max(x.size, y.size)), (x, y), run)


def add_(tape: Tape, x: Value, y: Value) -> Value:
    """Returns x + y, written over `x`."""
    return tape.record(Value(x.numel, x.size, x.storage), (x, y), lambda g: (g, g))


def mul(tape: Tape, x: Value, y: Operand) -> Value:
    """Returns x * y; each operand is saved for the other's gradient."""
    first, second = x.node is not None, isinstance(y, Parameter) or y.node is not None
    numels, size = (x.numel, y.numel), max(x.size, y.size)
    saved = x.storage if second else None, y.storage if first and isinstance(y, Value) else None

    def run(g: Value) -> list[Value | None]:
        wanted = zip((first, second), numels, strict=True)
        return [_summed(tape, tape.new(g.numel, size), numel) if one else None for one, numel in wanted]

    return tape.record(tape.new(max(numels), size), (x, y), run, saved)


def _summed(tape: Tape, g: Value, numel: int) -> Value:
    """Returns a gradient summed to the elements of a broadcast operand."""
    return g if g.numel == numel else tape.new(numel, g.size)


def shift(tape: Tape, x: Value, size: int = 0) -> Value:
    """Returns the sum of `x` and a number, or a mask of `size` bytes each; its gradient is the same tensor."""
    return tape.record(tape.new(x.numel, max(x.size, size)), (x,), lambda g: (g,))


def scale_(tape: Tape, x: Value) -> Value:
    """Returns `x` multiplied in place."""
    numel, size = x.numel, x.size
    return tape.record(Value(numel, size, x.storage), (x,), lambda _g: (tape.new(numel, size),))


def scale(tape: Tape, x: Value) -> Value:
    """Returns an op that saves nothing and whose gradient is a new tensor, such as a product with a number."""
    return _elementwise(tape, x, None, 0)


def of_input(tape: Tape, x: Value, *, temporaries: int = 0) -> Value:
    """Returns an elementwise function whose gradient is computed from its input (SiLU, GELU)."""
    return _elementwise(tape, x, x, temporaries)


def of_result(tape: Tape, x: Value, *, temporaries: int = 0) -> Value:
    """Returns an elementwise function whose gradient is computed from its result (tanh, sigmoid, ReLU)."""
    result = tape.new(x.numel, x.size)
    return _elementwise(tape, x, result, temporaries, result)


def raised(tape: Tape, x: Value) -> Value:
    """Returns a power of `x`, of float32 under autocast; its gradient goes through two more tensors."""
    return of_input(tape, to(tape, x, 4) if tape.formats.autocast else x, temporaries=2)


def _elementwise(tape: Tape, x: Value, saved: Value | None, temporaries: int, result: Value | None = None) -> Value:
    numel, size = x.numel, x.size

    def run(_g: Value) -> tuple[Value]:
        made = [tape.new(numel, size) for _ in range(temporaries + 1)]
        return (made[-1],)

    kept = () if saved is None else (saved.storage,)
    return tape.record(tape.new(numel, size) if result is None else result, (x,), run, kept)


def mean(tape: Tape, x: Value, rows: int) -> Value:
    """Returns the means of rows, whose gradient is a tensor as large as `x`."""
    numel, size = x.numel, x.size
    return tape.record(tape.new(rows, size), (x,), lambda _g: (tape.new(numel, size),))


def join(tape: Tape, pieces: Sequence[Value]) -> Value:
    """Returns the concatenation of pieces, whose gradients are views."""
    numels, size = [piece.numel for piece in pieces], max(piece.size for piece in pieces)
    return tape.record(
        tape.new(sum(numels), size), pieces, lambda g: [Value(n, g.size, g.storage, lone=False) for n in numels]
    )


def softmax(tape: Tape, x: Value, size: int = 4) -> Value:
    """Returns a softmax or log-softmax in numbers of `size` bytes; CUDA needs no float32 copy of 16-bit operands."""
    result, numel, own = tape.new(x.numel, size), x.numel, x.size
    return tape.record(result, (x,), lambda _g: (tape.new(numel, own),), (result.storage,))


def dropout(tape: Tape, x: Value, active: bool) -> Value:
    """Returns `x` after dropout, which saves a mask of a byte each."""
    if not active:
        return x
    numel, size = x.numel, x.size
    result, mask = tape.new(numel, size), tape.new(numel, 1)
    return tape.record(result, (x,), lambda _g: (tape.new(numel, size),), (mask.storage,))


def layer_norm(tape: Tape, x: Value, weights: Sequence[Operand], rows: int, *, cast: bool = True) -> Value:
    """Returns torch's LayerNorm, which saves its input and two float32 statistics of a row."""
    if tape.formats.autocast and cast:
        x = to(tape, x, 4)
    numel, size = x.numel, x.size
    statistics = [tape.new(rows, 4).storage for _ in range(2)]

    def run(_g: Value) -> list[Value]:
        return [tape.new(numel, size), *(tape.new(weight.numel, size) for weight in weights)]

    return tape.record(tape.new(numel, size), (x, *weights), run, (x.storage, *statistics))


def linear(tape: Tape, x: Value, weight: Parameter, bias: Parameter | None = None) -> Value:
    """Returns the product of `x` with a matrix, each cast under autocast."""
    x, w = operand(tape, x), tape.operand(weight)
    out = weight.numel // weight.columns * (x.numel // weight.columns)
    return matmul_of(tape, x, w, out, None if bias is None else tape.operand(bias))


def matmul_of(tape: Tape, x: Value, w: Operand, out: int, bias: Operand | None = None) -> Value:
    """Returns a product of `out` elements, which saves both operands."""
    size = x.size
    first, second = x.node is not None, isinstance(w, Parameter) or w.node is not None
    numels = x.numel, w.numel, *(() if bias is None else (bias.numel,))

    def run(_g: Value) -> list[Value | None]:
        wanted = zip((first, second, True), numels, strict=False)
        found = [tape.new(numel, size) if one else None for one, numel in wanted]
        if found[1] is not None:
            found[1].lone = False  # a transposed view
        return found

    inputs = (x, w) if bias is None else (x, w, bias)
    return tape.record(
        tape.new(out, size),
        inputs,
        run,
        (x.storage if second else None, w.storage if isinstance(w, Value) and first else None),
    )


def embedding(tape: Tape, weight: Parameter, tokens: int) -> Value:
    """Returns rows of an embedding for tokens."""
    numel, size = weight.numel, weight.size
    return tape.record(tape.new(tokens * weight.columns, size), (weight,), lambda _g: (tape.new(numel, size),))


def offset(tape: Tape, weight: Parameter, size: int) -> Value:
    """Returns 1 + weight, in numbers of `size` bytes."""
    return tape.record(tape.new(weight.numel, size), (weight,), lambda g: (g,))


def spread(tape: Tape, x: Value, numel: int) -> Value:
    """Returns a view of `x` repeated to `numel` elements, whose gradients backward sums."""
    own = x.numel
    return tape.record(Value(numel, x.size, x.storage), (x,), lambda g: (tape.new(own, g.size),))


def fused_attention(
    tape: Tape,
    q: Value,
    k: Value,
    v: Value,
    sizes: tuple[int, int, int, int],
    out: int,
    *,
    flash: bool,
    mask: Value | None = None,
) -> Value:
    """Returns causal attention by one of CUDA's fused kernels.

    Args:
        tape: The tape.
        q, k, v: Queries, keys and values.
        sizes: Rows, heads, tokens of a row and the width of a head.
        out: Elements of the result.
        flash: Whether the kernel is FlashAttention, not the memory-efficient one.
        mask: The mask that the memory-efficient kernel is given.
    """
    rows, heads, length, width = sizes
    numels, size = (q.numel, k.numel, v.numel), q.size
    result = tape.new(out, size)
    sums = tape.new(rows * heads * (length if flash else _rounded(length, 32)), 4)

    def run(_g: Value) -> list[Value]:
        gradients = [tape.new(numel, size) for numel in numels]
        scratch = [tape.new(rows * heads * _rounded(length, 128), 4)]
        if flash:
            wide = _rounded(width, 32 if width <= 128 else 64)
            scratch.append(tape.new(rows * _rounded(length, 128) * heads * wide, 4))
            if numels[1] < numels[0]:
                scratch += [tape.new(numel * numels[0] // numels[1], size) for numel in numels[1:]]
        return gradients

    kept = (q, k, v, result, sums, *([mask] if mask is not None else []))
    return tape.record(result, (q, k, v), run, [x.storage for x in kept])


def _rounded(number: int, to: int) -> int:
    return -(-number // to) * to
