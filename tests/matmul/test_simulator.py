from __future__ import annotations

import math
import re
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixlab.matmul import (
    Block,
    FastMemory,
    Matmul,
    Move,
    blocked_matmul,
    bytes_moved,
    count_products,
    fast_memory_bytes,
    lower_bound_bytes,
    moves,
    whole_matrices,
)
from tests.reference.blocked_loops import BITS

SIZES = st.tuples(*[st.integers(1, 20)] * 3)
FORMATS = st.tuples(*[st.sampled_from(sorted(BITS))] * 4)
BLOCKS = st.tuples(*[st.integers(1, 24)] * 3)
WALKS = st.sampled_from(["rows", "snake"])
SMALL = Matmul(4, 4, 4)


@given(SIZES, FORMATS, BLOCKS, WALKS, st.sampled_from([torch.float32, torch.float64]), st.integers(0, 2**63 - 1))
def test_the_simulation_agrees_with_the_formula_to_the_byte(sizes, formats, block, walk, dtype, seed):
    product, block = Matmul(*sizes, *formats), Block(*block)
    needed = fast_memory_bytes(product, block)
    a, b = whole_matrices(product, seed=seed, dtype=dtype)
    done = blocked_matmul(a, b, product, block, fast_bytes=needed, walk=walk)
    assert done.traffic == bytes_moved(product, block, walk=walk)
    assert done.traffic.total_bytes >= lower_bound_bytes(product, needed)
    assert done.peak_bytes == needed
    assert done.products == count_products(product, block.within(product))
    exact = (a.long().numpy() @ b.long().numpy()).tolist()
    assert done.product.tolist() == exact
    assert done.product.dtype == dtype


@given(SIZES, BLOCKS, WALKS)
def test_every_term_is_multiplied_once_and_every_sum_stored_once(sizes, block, walk):
    terms, stored, tiles = Counter(), Counter(), {}
    for move in moves(Matmul(*sizes), Block(*block), walk=walk):
        places = [(row, column) for row in range(*move.rows) for column in range(*move.columns)]
        if move.kind in ("zero", "load"):
            tiles[move.matrix] = places
        elif move.kind == "multiply":
            b = {}
            for deep, column in tiles["B"]:
                b.setdefault(deep, []).append(column)
            terms.update((row, column, deep) for row, deep in tiles["A"] for column in b[deep])
        elif move.kind == "store":
            stored.update(places)
    m, n, k = sizes
    assert set(terms) == {(i, j, l) for i in range(m) for j in range(n) for l in range(k)}  # noqa: E741
    assert set(stored) == {(i, j) for i in range(m) for j in range(n)}
    assert {*terms.values(), *stored.values()} == {1}


def test_moves_are_lazy():
    first = next(moves(Matmul(2**30, 2**30, 2**30), Block(1, 1, 1)))
    assert first == Move("zero", "C", (0, 1), (0, 1), 4)


def test_sums_are_held_in_the_accumulator_and_stored_in_the_output():
    kinds = [
        (move.kind, move.moved_bytes, move.held_bytes) for move in moves(Matmul(2, 2, 2, out="bf16"), Block(2, 2, 2))
    ]
    assert kinds == [
        *(("zero", 0, 16), ("load", 16, 16), ("load", 16, 16), ("multiply", 0, 0)),
        *(("free", 0, -16), ("free", 0, -16), ("store", 8, 0), ("free", 0, -16)),
    ]


# What fast memory refuses

LOAD_A, LOAD_B = (Move("load", name, (0, 4), (0, 4), 64) for name in "AB")
ZERO = Move("zero", "C", (0, 4), (0, 4), 64)
MULTIPLY = Move("multiply", "C", (0, 4), (0, 4), 0)


@pytest.mark.parametrize(
    ("done", "move", "words"),
    [
        (
            [LOAD_A, LOAD_B],
            ZERO,
            "128 of 128 bytes are in use, and the C tile of rows 0 to 4 and columns .* needs 64",
        ),
        ([LOAD_A], LOAD_A, "comes before the last tile of A was freed"),
        ([], Move("free", "A", (0, 4), (0, 4), 64), "cannot free the A tile of rows 0 to 4 .* it is not here"),
        ([LOAD_A], Move("store", "C", (0, 4), (0, 4), 64), "cannot store the C tile"),
        ([ZERO], Move("store", "C", (0, 4), (4, 8), 64), "cannot store the C tile of rows 0 to 4 and columns 4 to 8"),
        ([ZERO, LOAD_A], MULTIPLY, "cannot multiply: an A tile or a B tile is not here"),
        ([LOAD_A, LOAD_B], MULTIPLY, "cannot multiply the C tile"),
    ],
)
def test_fast_memory_refuses(done, move, words):
    memory = FastMemory(128)
    for before in done:
        memory.take(before)
    held = memory.used_bytes
    with pytest.raises(RuntimeError, match=words):
        memory.take(move)
    assert memory.used_bytes == held


def test_a_tile_that_is_not_there_cannot_be_used():
    with pytest.raises(RuntimeError, match="no tile of B is here; load it first"):
        FastMemory(128).tile("B")
    with pytest.raises(ValueError, match="capacity_bytes must be a whole number from 1 up"):
        FastMemory(0)


# What the simulation refuses


def test_a_block_that_does_not_fit_is_refused_with_one_that_does():
    product = Matmul(100, 100, 100)
    a, b = whole_matrices(product)
    words = r"a block of 96 x 96 x 8 needs 43008 bytes of fast memory, which has 4096; the best .* is (\d+) x (\d+) x 8"
    with pytest.raises(ValueError, match=words) as error:
        blocked_matmul(a, b, product, Block(96, 96, 8), fast_bytes=4096)
    m, n = map(int, re.search(words, str(error.value)).groups())
    assert blocked_matmul(a, b, product, Block(m, n, 8), fast_bytes=4096).peak_bytes <= 4096
    with pytest.raises(ValueError, match="which has 11; no block of depth 1 fits"):
        blocked_matmul(a, b, product, Block(1, 1, 1), fast_bytes=11)


def test_what_is_too_large_is_refused_before_it_is_allocated():
    huge = Matmul(2**20, 2**20, 2**20)
    with pytest.raises(ValueError, match=r"take 12,288.0 GiB; a simulation takes at most 1 GiB"):
        whole_matrices(huge)
    row, column = torch.zeros(1, 1).expand(2**20, 4), torch.zeros(1, 1).expand(4, 2**20)
    with pytest.raises(ValueError, match="take 4,096.0 GiB"):
        blocked_matmul(row, column, Matmul(2**20, 2**20, 4), Block(2**13, 2**13, 4), fast_bytes=2**30)
    a, b = whole_matrices(Matmul(200, 200, 200))
    with pytest.raises(ValueError, match="takes 8000000 products of tiles; take at most 1000000"):
        blocked_matmul(a, b, Matmul(200, 200, 200), Block(1, 1, 1), fast_bytes=100)


@pytest.mark.parametrize(
    ("a", "b", "error", "words"),
    [
        (
            torch.ones(4, 5),
            torch.ones(4, 4),
            ValueError,
            r"a must have the shape \(4, 4\) of .*, got \(4, 5\)",
        ),
        (torch.ones(4, 4), torch.ones(4), ValueError, r"b must have the shape \(4, 4\)"),
        ([[1.0]], torch.ones(4, 4), TypeError, "a must be a tensor"),
        (
            torch.ones(4, 4).half(),
            torch.ones(4, 4).half(),
            TypeError,
            "or torch.float64, got torch.float16",
        ),
        (torch.ones(4, 4), torch.ones(4, 4).double(), TypeError, "must have one dtype"),
    ],
)
def test_bad_matrices_are_refused(a, b, error, words):
    with pytest.raises(error, match=words):
        blocked_matmul(a, b, SMALL, Block(2, 2, 2), fast_bytes=1000)


def test_bad_arguments_are_refused():
    a, b = whole_matrices(SMALL)
    with pytest.raises(ValueError, match="walk must be one of rows, snake, got 'up'"):
        moves(SMALL, Block(2, 2, 2), walk="up")
    with pytest.raises(ValueError, match="walk must be one of rows, snake"):
        blocked_matmul(a, b, SMALL, Block(2, 2, 2), fast_bytes=1000, walk="up")
    for bad in (0, -1, 1.5, True, math.nan, None):
        with pytest.raises(ValueError, match="fast_bytes must be a whole number from 1 up"):
            blocked_matmul(a, b, SMALL, Block(2, 2, 2), fast_bytes=bad)
    for bad in (-1, 1.5, True, 10**400):
        with pytest.raises(ValueError, match="seed must be a whole number from 0"):
            whole_matrices(SMALL, seed=bad)
    with pytest.raises(TypeError, match="dtype must be|must be of dtype torch.float32"):
        whole_matrices(SMALL, dtype=torch.int32)
