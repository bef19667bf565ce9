from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixlab.matmul import Block, Matmul, Traffic, bytes_moved, fast_memory_bytes
from tests.reference.blocked_loops import BITS, loop, needed

SIZES = st.tuples(*[st.integers(1, 24)] * 3)
FORMATS = st.tuples(*[st.sampled_from(sorted(BITS))] * 4)


@given(SIZES, FORMATS, st.tuples(*[st.integers(1, 28)] * 3))
def test_bytes_are_those_of_the_loop(sizes, formats, block):
    product = Matmul(*sizes, *formats)
    for walk in ("rows", "snake"):
        moved = bytes_moved(product, Block(*block), walk=walk)
        assert (moved.a_bytes, moved.b_bytes, moved.c_bytes) == loop(sizes, formats, block, snake=walk == "snake")
    assert fast_memory_bytes(product, Block(*block)) == needed(sizes, formats, block)


@given(SIZES, FORMATS)
def test_one_block_moves_each_matrix_once(sizes, formats):
    product = Matmul(*sizes, *formats)
    assert bytes_moved(product, Block(*sizes)).total_bytes == product.compulsory_bytes


def test_a_whole_row_of_slices_is_kept_by_the_snake():
    product, block = Matmul(64, 64, 16), Block(16, 16, 16)
    assert bytes_moved(product, block, walk="rows") == Traffic(4 * 4096, 4 * 4096, 16384)
    assert bytes_moved(product, block, walk="snake") == Traffic(4096, 4 * 4096 - 3 * 1024, 16384)


@pytest.mark.parametrize("bad", [0, -1, True, 1.5, None, "8"])
@pytest.mark.parametrize("name", ["m", "n", "k"])
def test_a_bad_block_is_refused(name, bad):
    with pytest.raises(ValueError, match=f"Block: {name} must be a whole number from 1 up, got"):
        Block(**{"m": 2, "n": 2, "k": 2, name: bad})


def test_a_bad_walk_is_refused():
    with pytest.raises(ValueError, match="walk must be one of rows, snake, got 'columns'"):
        bytes_moved(Matmul(2, 2, 2), Block(1, 1, 1), walk="columns")
