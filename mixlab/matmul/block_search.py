"""The block that moves the fewest bytes, and how many fewer bytes narrow formats move.

**The square root of 2.** Let a number take w_a, w_b, w_c bytes in an A, B and accumulator tile, and let the matrices be
much larger than the fast memory of S bytes, so that C and the edges hardly count. Then

    bytes = m n k (w_a / bn + w_b / bm)

- Three square tiles of b by b, as the introduction to mixed-precision training that mixlab follows has them, fill fast
  memory at (w_a + w_b + w_c) b^2 = S, so bytes = m n k (w_a + w_b) sqrt((w_a + w_b + w_c) / S). If all three widths are
  halved, bytes fall by 2 sqrt(2) = 2.83. If the accumulator keeps 4 bytes, three numbers take 2 + 2 + 4 bytes, not
  4 + 4 + 4, and bytes fall by 2 sqrt(12 / 8) = 2.45.
- Thin slices, bk = 1, leave nearly all of fast memory to the sums: w_c bm bn = S. The fewest bytes are moved if
  w_a bm = w_b bn, and then bytes = 2 m n k sqrt(w_a w_b w_c / S). If the accumulator has 4 bytes in both cases, the
  blocks do not grow at all, and bytes fall by sqrt(4 * 4 / (2 * 2)) = 2.

No order of the multiplications moves fewer bytes than the thin slices, up to lower order (`lower_bounds`).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from typing import Literal

from mixlab.arguments import require_whole
from mixlab.matmul.blocking import Block, bytes_moved, fast_memory_bytes
from mixlab.matmul.products import Matmul, packed_bytes, require_matmul, stored_bits

Depth = int | Literal["square"]


def best_block(matmul: Matmul, fast_bytes: int, *, depth: Depth = 1) -> Block:
    """Returns the block that moves the fewest bytes, row by row, of all blocks of a depth that fit in fast memory.

    >>> product = Matmul(4096, 4096, 4096)
    >>> best_block(product, 192 * 1024), best_block(product, 192 * 1024, depth="square")
    (Block(m=216, n=216, k=1), Block(m=128, n=128, k=128))

    Args:
        matmul: The product.
        fast_bytes: Bytes of fast memory.
        depth: Depth of the slices, from 1 up. It changes only the memory that is left for the sums: 1 leaves the most.
            "square" for tiles of b by b, with the same b for all three.

    Returns:
        Of blocks that move equally many bytes, one that needs the least fast memory.

    Raises:
        TypeError: If `matmul` is no Matmul.
        ValueError: If a number is not whole and at least 1, or not even a block with a single sum fits.
    """
    require_matmul("best_block", matmul)
    require_whole("best_block: fast_bytes", fast_bytes, 1)
    _require_depth("best_block", depth)
    search = _Search(matmul, fast_bytes)
    search.through_squares() if depth == "square" else search.through_slices(depth)
    if search.best is None:
        least = Block(1, 1, 1 if depth == "square" else depth)
        raise ValueError(
            f"best_block: no block of depth {depth} fits in {fast_bytes} bytes of fast memory; one of {least} needs "
            f"{fast_memory_bytes(matmul, least)}"
        )
    return search.best.within(matmul)


def traffic_ratio(wide: Matmul, narrow: Matmul, *, depth: Depth = "square", fast_bytes: int | None = None) -> float:
    """Returns how many times fewer bytes the narrow formats of a product move than the wide ones.

    >>> wide = Matmul(4096, 4096, 4096)
    >>> narrow = [Matmul(4096, 4096, 4096, "bf16", "bf16", sums, "bf16") for sums in ("bf16", "fp32")]
    >>> [round(traffic_ratio(wide, one), 2) for one in narrow], round(traffic_ratio(wide, narrow[1], depth=1), 2)
    ([2.83, 2.45], 2.0)
    >>> [round(traffic_ratio(wide, one, fast_bytes=192 * 1024), 2) for one in narrow]  # with whole blocks and edges
    [2.77, 2.36]

    Args:
        wide: The product in the formats to compare with.
        narrow: A product of the same sizes.
        depth: As in `best_block`. Without `fast_bytes`, all numbers mean thin slices.
        fast_bytes: Bytes of fast memory: the ratio of the bytes that the two best blocks move. None for the limit of
            matrices much larger than fast memory, and fast memory much larger than a slice.

    Raises:
        TypeError: If a product is no Matmul.
        ValueError: If the sizes differ, or `best_block` would refuse the other arguments.
    """
    for one in (wide, narrow):
        require_matmul("traffic_ratio", one)
    sizes, others = ((one.m, one.n, one.k) for one in (wide, narrow))
    if sizes != others:
        raise ValueError(f"traffic_ratio: compare one product in two sets of formats, got sizes {sizes} and {others}")
    _require_depth("traffic_ratio", depth)
    if fast_bytes is None:
        return _bits_in_the_limit(wide, depth) / _bits_in_the_limit(narrow, depth)
    fewest = [bytes_moved(one, best_block(one, fast_bytes, depth=depth)).total_bytes for one in (wide, narrow)]
    return fewest[0] / fewest[1]


def _bits_in_the_limit(matmul: Matmul, depth: Depth) -> float:
    """Returns what bytes are proportional to, in the derivation of the module."""
    a, b, c = (stored_bits(fmt) for fmt in (matmul.a, matmul.b, matmul.accumulator))
    return (a + b) * math.sqrt(a + b + c) if depth == "square" else 2 * math.sqrt(a * b * c)


class _Search:
    """Looks for the best block: tries larger tiles before smaller ones, and stops where none can be better."""

    def __init__(self, matmul: Matmul, fast_bytes: int) -> None:
        self.matmul, self.fast_bytes = matmul, fast_bytes
        self.best: Block | None = None
        self.cost: tuple[float, float] = (math.inf, math.inf)
        formats = (matmul.a, matmul.b, matmul.out)
        self.packs = any(stored_bits(fmt) % 8 for fmt in formats)  # then the padding of a tile depends on its sizes
        self.a, self.b, self.c = (
            packed_bytes(rows * columns, fmt)
            for rows, columns, fmt in zip(
                (matmul.m, matmul.k, matmul.m), (matmul.k, matmul.n, matmul.n), formats, strict=True
            )
        )

    def through_slices(self, depth: int) -> None:
        """Tries the tallest C tiles first, each as wide as fits, and then narrower."""
        for m in self._sizes(self.matmul.m):
            down = -(-self.matmul.m // m)
            if self._hopeless(1, down):
                return
            widest = self._widest(m, depth)
            for n in self._sizes(self.matmul.n, widest):
                if self._hopeless(-(-self.matmul.n // n), down):
                    break
                self._try(Block(m, n, depth))

    def through_squares(self) -> None:
        sizes = (self.matmul.m, self.matmul.n, self.matmul.k)
        b = bisect_right(
            range(1, max(sizes) + 1),
            self.fast_bytes,
            key=lambda size: fast_memory_bytes(self.matmul, Block(size, size, size)),
        )
        while b:
            across, down = -(-self.matmul.n // b), -(-self.matmul.m // b)
            if self._hopeless(across, down):
                return
            if not self.packs:  # a smaller block with as many tiles moves as many bytes
                b = max(-(-self.matmul.n // across), -(-self.matmul.m // down))
            self._try(Block(b, b, b))
            b -= 1

    def _sizes(self, whole: int, largest: int | None = None) -> Iterator[int]:
        """Yields sizes of tiles from the largest down: the smallest of each number of tiles.

        With packed formats, up to seven larger ones too: the padding of tiles goes by the remainders by 8.
        """
        size = min(whole, largest) if largest is not None else whole
        while size > 0:
            smallest = -(-whole // -(-whole // size))
            yield from range(min(size, smallest + 7), smallest - 1, -1) if self.packs else (smallest,)
            size = smallest - 1

    def _widest(self, m: int, depth: int) -> int:
        """Returns the most columns of a C tile of m rows that fit; 0 for none."""
        deep = min(depth, self.matmul.k)
        b, c = stored_bits(self.matmul.b), stored_bits(self.matmul.accumulator)
        left_bits = 8 * (self.fast_bytes - packed_bytes(m * deep, self.matmul.a))
        n = min(self.matmul.n, max(0, left_bits // (b * deep + c * m)))
        while n and fast_memory_bytes(self.matmul, Block(m, n, depth)) > self.fast_bytes:  # by padding
            n -= 1
        return n

    def _hopeless(self, across: int, down: int) -> bool:
        """Whether blocks with so many tiles, or more, move more bytes than the best, even without padding."""
        return across * self.a + down * self.b + self.c > self.cost[0]

    def _try(self, block: Block) -> None:
        cost = (bytes_moved(self.matmul, block).total_bytes, fast_memory_bytes(self.matmul, block))
        if cost < self.cost:
            self.best, self.cost = block, cost


def _require_depth(what: str, depth: object) -> None:
    if isinstance(depth, str) and depth != "square":
        raise ValueError(f"{what}: depth must be a whole number from 1 up, or 'square', got {depth!r:.60}")
    if depth != "square":
        require_whole(f"{what}: depth", depth, 1)
