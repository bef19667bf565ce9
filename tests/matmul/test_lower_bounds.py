from __future__ import annotations

import math
from fractions import Fraction
from itertools import product as combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixlab.matmul import (
    Block,
    Matmul,
    best_block,
    bytes_moved,
    fast_memory_bytes,
    irony_bound_bytes,
    lower_bound_bytes,
)
from mixlab.matmul.products import stored_bits
from tests.reference.blocked_loops import BITS

FORMATS = st.tuples(*[st.sampled_from(sorted(BITS))] * 4)
TRIPLES = [("fp32",) * 4, ("bf16", "bf16", "fp32", "bf16"), ("e4m3fn", "bf16", "fp32", "fp32"), ("e2m1fn",) * 4]


@given(
    st.tuples(*[st.integers(1, 300)] * 3),
    FORMATS,
    st.tuples(*[st.integers(1, 300)] * 3),
    st.sampled_from(["rows", "snake"]),
)
def test_no_block_moves_fewer_bytes(sizes, formats, block, walk):
    product, block = Matmul(*sizes, *formats), Block(*block)
    moved = bytes_moved(product, block, walk=walk).total_bytes
    needed = fast_memory_bytes(product, block)
    assert moved >= lower_bound_bytes(product, needed) >= irony_bound_bytes(product, needed)
    assert lower_bound_bytes(product, needed) >= product.compulsory_bytes


@pytest.mark.parametrize("formats", TRIPLES)
def test_no_block_of_a_long_product_moves_fewer_bytes(formats):
    """Every block; k is long, so that Smith's bound is above the compulsory bytes in many cases."""
    product, beyond = Matmul(12, 12, 500, *formats), 0
    for m, n, k in combinations(range(1, 13), range(1, 13), (1, 2, 3, 16, 500)):
        needed = fast_memory_bytes(product, Block(m, n, k))
        bound = lower_bound_bytes(product, needed)
        beyond += bound > product.compulsory_bytes
        for walk in ("rows", "snake"):
            assert bytes_moved(product, Block(m, n, k), walk=walk).total_bytes >= bound
    assert beyond > 100


@given(st.tuples(*[st.integers(1, 10**6)] * 3), FORMATS, st.integers(1, 10**9))
def test_bounds_are_those_of_the_papers_to_a_byte(sizes, formats, fast_bytes):
    product = Matmul(*sizes, *formats)
    a, b, c, out = (Fraction(stored_bits(fmt), 8) for fmt in (product.a, product.b, product.accumulator, product.out))
    m, n, k = sizes
    smith = lower_bound_bytes(product, fast_bytes)
    if smith > product.compulsory_bytes:
        leading = smith + 2 * fast_bytes + m * n * (c - out)
        square = 4 * (m * n * k) ** 2 * a * b * c / fast_bytes
        assert (leading - 1) ** 2 <= square < (leading + 2) ** 2
    irony = irony_bound_bytes(product, fast_bytes)
    if irony > 0:
        square = (m * n * k) ** 2 * a * b * min(c, out) / (8 * fast_bytes)
        assert (irony + fast_bytes) ** 2 <= square < (irony + fast_bytes + 1) ** 2


def test_with_one_width_it_is_the_bound_of_the_paper():
    """In numbers: 2 m n k / sqrt(S) - 2 S."""
    product, numbers = Matmul(1000, 2000, 3000), 10_000
    assert lower_bound_bytes(product, 4 * numbers) / 4 == pytest.approx(2 * 6e9 / 100 - 2 * numbers, rel=1e-12)
    assert irony_bound_bytes(product, 4 * numbers) / 4 == pytest.approx(6e9 / (200 * math.sqrt(2)) - numbers, abs=0.5)


@pytest.mark.parametrize("formats", TRIPLES)
def test_thin_slices_come_close_to_the_bound(formats):
    product = Matmul(10_000, 10_000, 100_000, *formats)
    moved = bytes_moved(product, best_block(product, 128 * 1024)).total_bytes
    assert 1 <= moved / lower_bound_bytes(product, 128 * 1024) < 1.03


@pytest.mark.parametrize("bound", [lower_bound_bytes, irony_bound_bytes])
@pytest.mark.parametrize("bad", [0, -5, 1.5, True, None, math.nan])
def test_bad_sizes_of_memory_are_refused(bound, bad):
    with pytest.raises(ValueError, match="fast_bytes must be a whole number from 1 up, got"):
        bound(Matmul(2, 2, 2), bad)
