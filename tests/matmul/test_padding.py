"""Operations of padded tiles, and the share of a GPU that waves of tiles keep busy."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixlab.matmul import Block, Matmul, padded_flops, useful_share

sizes = st.integers(1, 60)


@given(sizes, sizes, sizes, sizes, sizes, sizes)
def test_padding_is_counted_tile_by_tile(m: int, n: int, k: int, high: int, wide: int, deep: int):
    tiles = [(i, j, depth) for i in range(0, m, high) for j in range(0, n, wide) for depth in range(0, k, deep)]
    product, tile = Matmul(m, n, k), Block(high, wide, deep)
    assert padded_flops(product, tile) == 2 * high * wide * deep * len(tiles)
    assert useful_share(product, tile) == pytest.approx(product.flops / padded_flops(product, tile))


@given(sizes, sizes, st.integers(1, 9), st.integers(1, 9), st.integers(1, 20))
def test_units_take_tiles_in_turns_until_none_is_left(m: int, n: int, high: int, wide: int, units: int):
    tiles = len(range(0, m, high)) * len(range(0, n, wide))
    waves = 0
    while tiles > waves * units:
        waves += 1
    share = Fraction(m * n, waves * units * high * wide)
    assert useful_share(Matmul(m, n, 8), Block(high, wide, 8), units) == pytest.approx(float(share))


def test_one_column_more_than_fits_takes_another_wave():
    """108 tiles of 128 x 256 for 108 units; and 120."""
    assert useful_share(Matmul(1536, 2304, 4096), Block(128, 256, 32), 108) == 1
    assert useful_share(Matmul(1536, 2305, 4096), Block(128, 256, 32), 108) == pytest.approx(2305 / 2304 / 2)


@pytest.mark.parametrize("units", [0, -1, 1.5, True, None])
def test_units_are_counted(units: object):
    with pytest.raises(ValueError, match="useful_share: units must be a whole number from 1 up, got"):
        useful_share(Matmul(1, 1, 1), Block(1, 1, 1), units)  # type: ignore[arg-type]
