"""What takes a product or a block says so to anybody who gives it something else."""

from __future__ import annotations

import pytest
import torch

from mixlab.matmul import (
    Block,
    Matmul,
    TwoLevels,
    best_block,
    blocked_matmul,
    bytes_moved,
    count_products,
    count_traffic,
    fast_memory_bytes,
    irony_bound_bytes,
    lower_bound_bytes,
    moves,
    roof_for,
    traffic_ratio,
    whole_matrices,
)

PRODUCT, BLOCK, ONES = Matmul(4, 4, 4), Block(2, 2, 2), torch.ones(4, 4)
BY_PRODUCT = {
    "best_block": lambda bad: best_block(bad, 100),
    "blocked_matmul": lambda bad: blocked_matmul(ONES, ONES, bad, BLOCK, fast_bytes=100),
    "bytes_moved": lambda bad: bytes_moved(bad, BLOCK),
    "count_products": lambda bad: count_products(bad, BLOCK),
    "count_traffic": lambda bad: list(count_traffic([bad])),
    "fast_memory_bytes": lambda bad: fast_memory_bytes(bad, BLOCK),
    "irony_bound_bytes": lambda bad: irony_bound_bytes(bad, 100),
    "lower_bound_bytes": lambda bad: lower_bound_bytes(bad, 100),
    "moves": lambda bad: moves(bad, BLOCK),
    "roof_for": lambda bad: roof_for(bad, "h200"),
    "traffic_ratio": lambda bad: traffic_ratio(PRODUCT, bad),
    "TwoLevels": lambda bad: TwoLevels(bad, BLOCK, BLOCK),
    "whole_matrices": lambda bad: whole_matrices(bad),
}
BY_BLOCK = {
    "blocked_matmul": lambda bad: blocked_matmul(ONES, ONES, PRODUCT, bad, fast_bytes=100),
    "bytes_moved": lambda bad: bytes_moved(PRODUCT, bad),
    "count_products": lambda bad: count_products(PRODUCT, bad),
    "fast_memory_bytes": lambda bad: fast_memory_bytes(PRODUCT, bad),
    "moves": lambda bad: moves(PRODUCT, bad),
    "TwoLevels": lambda bad: TwoLevels(PRODUCT, BLOCK, bad),
}


@pytest.mark.parametrize("bad", [(4, 4, 4), None, "4 x 4 x 4", BLOCK])
@pytest.mark.parametrize("name", BY_PRODUCT)
def test_something_else_than_a_product_is_refused(name, bad):
    with pytest.raises(TypeError, match=r"matmul must be a Matmul, such as Matmul\(128, 128, 128\), got"):
        BY_PRODUCT[name](bad)


@pytest.mark.parametrize("bad", [(2, 2, 2), None, 64, PRODUCT])
@pytest.mark.parametrize("name", BY_BLOCK)
def test_something_else_than_a_block_is_refused(name, bad):
    with pytest.raises(TypeError, match=r"a block must be a Block, such as Block\(64, 64, 32\), got"):
        BY_BLOCK[name](bad)
