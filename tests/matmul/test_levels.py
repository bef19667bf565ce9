from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixlab.matmul import Block, Matmul, TwoLevels, bytes_moved
from tests.reference.blocked_loops import BITS, needed, nested_loop

SIZES = st.tuples(*[st.integers(1, 20)] * 3)
FORMATS = st.tuples(*[st.sampled_from(sorted(BITS))] * 4)
PRODUCT = Matmul(8192, 8192, 8192, "bf16", "bf16", out="bf16")


@given(SIZES, FORMATS, SIZES, SIZES, st.integers(1, 4))
def test_bytes_are_those_of_the_nested_loops(sizes, formats, outer, inner, stages):
    levels = TwoLevels(Matmul(*sizes, *formats), Block(*outer), Block(*inner), stages)
    moved = [(one.a_bytes, one.b_bytes, one.c_bytes) for one in (levels.outer_traffic, levels.inner_traffic)]
    assert tuple(moved) == nested_loop(sizes, formats, outer, inner)
    assert levels.outer_bytes == stages * (needed(sizes, formats, outer) - levels.sum_bytes)


def test_one_inner_block_loads_what_the_outer_one_loads():
    levels = TwoLevels(PRODUCT, Block(128, 256, 64), Block(128, 256, 64))
    assert levels.inner_traffic == levels.outer_traffic == bytes_moved(PRODUCT, Block(128, 256, 64))


def test_smaller_inner_tiles_load_more():
    """Registers hold the sums in either case; the bytes from shared memory go by the warp's tile."""
    totals = [
        TwoLevels(PRODUCT, Block(128, 128, 32), Block(size, size, 16)).inner_traffic.a_bytes for size in (64, 32, 16)
    ]
    assert [total / totals[0] for total in totals] == [1, 2, 4]


def test_a_tile_of_an_h100_fits():
    levels = TwoLevels(PRODUCT, Block(128, 256, 64), Block(64, 256, 16), stages=4)
    assert levels.outer_bytes == 4 * (128 * 64 + 64 * 256) * 2 <= 227 * 1024
    assert levels.sum_bytes == 128 * 256 * 4 <= 256 * 1024
    assert levels.operand_bytes == (64 * 16 + 16 * 256) * 2


@pytest.mark.parametrize("bad", [0, -1, 1.5, True, None])
def test_bad_stages_are_refused(bad):
    with pytest.raises(ValueError, match="TwoLevels: stages must be a whole number from 1 up, got"):
        TwoLevels(PRODUCT, Block(1, 1, 1), Block(1, 1, 1), bad)
