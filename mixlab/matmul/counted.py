"""Bytes of products in blocks by the formula, by the simulation, and the fewest possible, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from mixlab.formats import BF16, E2M1FN, E4M3FN, E5M2, FP32
from mixlab.matmul.block_search import Depth, best_block
from mixlab.matmul.blocking import Block, Traffic, Walk, bytes_moved
from mixlab.matmul.lower_bounds import lower_bound_bytes
from mixlab.matmul.products import Matmul
from mixlab.matmul.simulator import blocked_matmul, whole_matrices

_SHAPES = (
    *((64, 64, 64), (128, 128, 128), (192, 192, 192)),  # square
    *((127, 129, 131), (63, 65, 257)),  # no multiples of 8
    *((1, 256, 256), (16, 256, 256), (256, 1, 256)),  # a vector, a few rows
    *((32, 32, 2048), (256, 256, 4), (256, 256, 1)),  # long sums, short sums
)
_FORMATS = (
    (FP32, FP32, FP32, FP32),
    (BF16, BF16, BF16, BF16),
    (BF16, BF16, FP32, BF16),
    (E4M3FN, E5M2, FP32, BF16),
    (E2M1FN, E2M1FN, FP32, BF16),
)
TRAFFIC_CASES = tuple(Matmul(*shape, *formats) for formats in _FORMATS for shape in _SHAPES)


@dataclass(frozen=True)
class CountedProduct:
    """One product in blocks.

    Attributes:
        matmul: The product.
        fast_bytes: Bytes of fast memory.
        block: The block.
        formula: Bytes by `bytes_moved`.
        counted: Bytes by `blocked_matmul`.
        lower_bound_bytes: Bytes by `lower_bound_bytes`.
        correct: Whether the simulation's product was that of `torch.matmul` in float64, every number of it.
    """

    matmul: Matmul
    fast_bytes: int
    block: Block
    formula: Traffic
    counted: Traffic
    lower_bound_bytes: int
    correct: bool

    @property
    def difference_bytes(self) -> int:
        """Bytes by which formula and count differ, summed over the matrices; 0 if they agree."""
        ours, theirs = self.formula, self.counted
        pairs = ((ours.a_bytes, theirs.a_bytes), (ours.b_bytes, theirs.b_bytes), (ours.c_bytes, theirs.c_bytes))
        return sum(abs(one - other) for one, other in pairs)


def count_traffic(
    matmuls: Iterable[Matmul] = TRAFFIC_CASES,
    *,
    fast_bytes: int = 8192,
    depth: Depth = 16,
    walk: Walk = "rows",
    seed: int = 0,
) -> Iterator[CountedProduct]:
    """Yields products in their best blocks, with the bytes by formula and by simulation, and the lower bound.

    All of `TRAFFIC_CASES` take a second or two.

    >>> one, = count_traffic([Matmul(100, 100, 100)])
    >>> print(one.block, one.formula.total_bytes, one.difference_bytes, one.lower_bound_bytes, one.correct)
    34 x 25 x 16 320000 0 160392 True

    Args:
        matmuls: The products, small enough to be simulated.
        fast_bytes: Bytes of fast memory.
        depth: As in `best_block`.
        walk: As in `bytes_moved`.
        seed: Seed of the matrices, of whole numbers.

    Raises:
        ValueError: If a product is too large, no block fits, or an argument is refused.
    """
    for matmul in matmuls:
        block = best_block(matmul, fast_bytes, depth=depth)
        a, b = whole_matrices(matmul, seed=seed, dtype=torch.float64)
        done = blocked_matmul(a, b, matmul, block, fast_bytes=fast_bytes, walk=walk)
        yield CountedProduct(
            matmul,
            fast_bytes,
            block,
            bytes_moved(matmul, block, walk=walk),
            done.traffic,
            lower_bound_bytes(matmul, fast_bytes),
            torch.equal(done.product, a @ b),
        )
