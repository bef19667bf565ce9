from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixlab.matmul import Block, Matmul, best_block, bytes_moved, fast_memory_bytes, traffic_ratio
from tests.reference.blocked_loops import BITS, fewest_bytes

LARGE = Matmul(4096, 4096, 4096)
ALL_BF16 = replace(LARGE, **dict.fromkeys(("a", "b", "accumulator", "out"), "bf16"))
FP32_SUMS = replace(ALL_BF16, accumulator="fp32")


@given(
    st.tuples(*[st.integers(1, 14)] * 3),
    st.tuples(*[st.sampled_from(sorted(BITS))] * 4),
    st.integers(1, 1500),
    st.sampled_from([1, 2, 5, 20, None]),
)
def test_no_block_that_fits_moves_fewer_bytes(sizes, formats, fast_bytes, depth):
    product = Matmul(*sizes, *formats)
    fewest = fewest_bytes(sizes, formats, fast_bytes, depth=depth)
    if fewest is None:
        with pytest.raises(ValueError, match="no block of depth .* fits"):
            best_block(product, fast_bytes, depth=depth or "square")
        return
    block = best_block(product, fast_bytes, depth=depth or "square")
    assert bytes_moved(product, block).total_bytes == fewest
    assert fast_memory_bytes(product, block) <= fast_bytes


def test_the_ratios_of_the_argument():
    assert traffic_ratio(LARGE, ALL_BF16) == pytest.approx(2 * math.sqrt(2), rel=1e-12)
    assert traffic_ratio(LARGE, FP32_SUMS) == pytest.approx(math.sqrt(6), rel=1e-12)
    assert traffic_ratio(LARGE, FP32_SUMS, depth=1) == pytest.approx(2, rel=1e-12)
    assert traffic_ratio(LARGE, replace(FP32_SUMS, a="e4m3fn", b="e4m3fn"), depth=1) == pytest.approx(4, rel=1e-12)
    assert traffic_ratio(LARGE, LARGE) == 1


@pytest.mark.parametrize(
    ("narrow", "depth"), [(ALL_BF16, "square"), (ALL_BF16, 1), (FP32_SUMS, "square"), (FP32_SUMS, 1)]
)
def test_whole_blocks_come_near_the_argument_as_matrices_grow(narrow, depth):
    """Edges and C move the ratio by several percent while few blocks make a matrix, and hardly if many do."""
    limit = traffic_ratio(LARGE, narrow, depth=depth)
    distances = []
    for size in (2**12, 2**16, 2**20):
        wide, small = (replace(one, m=size, n=size, k=size) for one in (LARGE, narrow))
        distances.append(abs(traffic_ratio(wide, small, depth=depth, fast_bytes=192 * 1024) / limit - 1))
    assert distances[0] < 0.05
    assert distances[1] < 0.02
    assert distances[2] < 0.01


@pytest.mark.parametrize("bad", [0, -1, True, 1.5, None, math.inf])
def test_bad_numbers_are_refused(bad):
    with pytest.raises(ValueError, match="fast_bytes must be a whole number from 1 up"):
        best_block(LARGE, bad)
    with pytest.raises(ValueError, match="depth must be a whole number from 1 up"):
        best_block(LARGE, 1024, depth=bad)


def test_bad_words_are_refused():
    with pytest.raises(ValueError, match="depth must be a whole number from 1 up, or 'square', got 'cube'"):
        best_block(LARGE, 1024, depth="cube")
    with pytest.raises(ValueError, match="one of 1 x 1 x 1 needs 12"):
        best_block(LARGE, 11)
    with pytest.raises(ValueError, match="compare one product in two sets of formats"):
        traffic_ratio(LARGE, replace(LARGE, k=8))


def test_a_block_is_no_larger_than_the_product():
    assert best_block(Matmul(3, 4, 5), 10**6, depth=64) == Block(3, 4, 5)
