"""Bytes that a product computed in blocks moves between slow and fast memory.

**The walk.** C is cut into tiles of bm rows and bn columns, k into slices of bk. The sums of one C tile stay in fast
memory, in the accumulator's format, while the walk goes through k: for each slice it loads an A tile (bm, bk) and a B
tile (bk, bn), and adds their product. Then it stores the C tile once, in the output's format, and starts the next.

So the walk reads all of A once per column of C tiles, and all of B once per row of C tiles:

    bytes = ceil(n / bn) bytes(A) + ceil(m / bm) bytes(B) + bytes(C)

This is exact for any sizes, since tiles at the edges are smaller: an A tile has min(bm, m - i) min(bk, k - l) numbers.
Tiles are packed: the numbers of a tile lie next to each other without gaps, and each tile takes whole bytes. A tile of
4-bit numbers with an odd count of them is padded by 4 bits, and the formula counts that.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

from mixlab.arguments import require_whole
from mixlab.formats import Format
from mixlab.matmul.products import Matmul, packed_bytes, require_matmul

Walk = Literal["rows", "snake"]


@dataclass(frozen=True)
class Block:
    """The sizes of tiles: A tiles are (m, k), B tiles (k, n), C tiles (m, n).

    Args:
        m: Rows of an A and a C tile.
        n: Columns of a B and a C tile.
        k: Depth of a slice: columns of an A tile, rows of a B tile.

    Raises:
        ValueError: If a size is not a whole number from 1 up.
    """

    m: int
    n: int
    k: int

    def __post_init__(self) -> None:
        for name in ("m", "n", "k"):
            require_whole(f"Block: {name}", getattr(self, name), 1)

    def within(self, matmul: Matmul) -> Block:
        """Returns the block, cut to the sizes of a product that is smaller.

        Args:
            matmul: The product.
        """
        return Block(min(self.m, matmul.m), min(self.n, matmul.n), min(self.k, matmul.k))

    def __str__(self) -> str:
        return f"{self.m} x {self.n} x {self.k}"


@dataclass(frozen=True)
class Traffic:
    """Bytes moved between slow and fast memory, by matrix.

    Attributes:
        a_bytes: Bytes of A tiles that are loaded.
        b_bytes: Bytes of B tiles that are loaded.
        c_bytes: Bytes of C tiles that are stored.
    """

    a_bytes: int
    b_bytes: int
    c_bytes: int

    @property
    def total_bytes(self) -> int:
        """Bytes of all three."""
        return self.a_bytes + self.b_bytes + self.c_bytes

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.a_bytes + other.a_bytes, self.b_bytes + other.b_bytes, self.c_bytes + other.c_bytes)

    def __mul__(self, times: int) -> Traffic:
        return Traffic(self.a_bytes * times, self.b_bytes * times, self.c_bytes * times)


def fast_memory_bytes(matmul: Matmul, block: Block) -> int:
    """Returns the bytes of fast memory that a block needs: an A, a B and a C tile, the C tile of accumulators.

    >>> product = Matmul(4096, 4096, 4096, "bf16", "bf16")
    >>> fast_memory_bytes(product, Block(128, 128, 64))  # 16 KiB + 16 KiB + 64 KiB
    98304

    Args:
        matmul: The product.
        block: The block; cut to the product's sizes if it is larger.

    Raises:
        TypeError: If `matmul` is no Matmul, or `block` no Block.
    """
    require_blocks("fast_memory_bytes", matmul, block)
    block = block.within(matmul)
    operands = packed_bytes(block.m * block.k, matmul.a) + packed_bytes(block.k * block.n, matmul.b)
    return operands + packed_bytes(block.m * block.n, matmul.accumulator)


def bytes_moved(matmul: Matmul, block: Block, *, walk: Walk = "rows") -> Traffic:
    """Returns the bytes that a product in blocks moves, exactly.

    >>> bytes_moved(Matmul(100, 100, 100), Block(64, 64, 16))
    Traffic(a_bytes=80000, b_bytes=80000, c_bytes=40000)

    Args:
        matmul: The product.
        block: The block; cut to the product's sizes if it is larger.
        walk: The order of the tiles:
            "rows": C tiles row by row, each from the first slice of k to the last; every tile is loaded anew;
            "snake": every other row of C tiles backwards, and every other C tile from the last slice of k to the first,
                so that each C tile starts with one tile that is still there: its A tile within a row, its B tile from
                one row to the next. These are not loaded again.

    Raises:
        TypeError: If `matmul` is no Matmul, or `block` no Block.
        ValueError: If `walk` is neither.
    """
    require_blocks("bytes_moved", matmul, block)
    require_walk("bytes_moved", walk)
    block = block.within(matmul)
    across, down = -(-matmul.n // block.n), -(-matmul.m // block.m)
    a = _tiled_bytes(matmul.m, matmul.k, block.m, block.k, matmul.a) * across
    b = _tiled_bytes(matmul.k, matmul.n, block.k, block.n, matmul.b) * down
    if walk == "snake":
        a, b = a - _a_kept(matmul, block, across), b - _b_kept(matmul, block, across)
    return Traffic(a, b, _tiled_bytes(matmul.m, matmul.n, block.m, block.n, matmul.out))


def extents(whole: int, size: int) -> tuple[tuple[int, int], ...]:
    """Returns (length, how many) of the pieces into which `size` cuts `whole`: the full ones, and a shorter last.

    >>> extents(10, 4), extents(8, 4), extents(3, 4)
    (((4, 2), (2, 1)), ((4, 2),), ((3, 1),))

    Args:
        whole: The length to cut, from 1 up.
        size: The length of a piece, from 1 up.
    """
    full, rest = divmod(whole, size)
    return tuple((length, count) for length, count in ((size, full), (rest, 1 if rest else 0)) if count)


def require_blocks(what: str, matmul: object, *blocks: object) -> None:
    require_matmul(what, matmul)
    for block in blocks:
        if not isinstance(block, Block):
            raise TypeError(f"{what}: a block must be a Block, such as Block(64, 64, 32), got {block!r:.60}")


def require_walk(what: str, walk: object) -> None:
    if walk not in get_args(Walk):
        raise ValueError(f"{what}: walk must be one of {', '.join(get_args(Walk))}, got {walk!r:.60}")


def _tiled_bytes(rows: int, columns: int, high: int, wide: int, fmt: Format) -> int:
    """Returns the bytes of all tiles of a matrix together, each packed by itself."""
    tiles = product(extents(rows, high), extents(columns, wide))
    return sum(times * others * packed_bytes(h * w, fmt) for (h, times), (w, others) in tiles)


def _a_kept(matmul: Matmul, block: Block, across: int) -> int:
    """Returns the bytes of A tiles that the snake keeps: one from each C tile of a row to the next.

    C tiles are passed forwards and backwards in turn, so the kept tile is of the last slice of k and of the first in
    turn, and a row with `across` C tiles has across - 1 such passages, starting with the last slice or, if `across` is
    odd, as many of both.
    """
    return sum(
        times * ((across // 2) * packed_bytes(high * _last(matmul.k, block.k), matmul.a))
        + times * (((across - 1) // 2) * packed_bytes(high * block.k, matmul.a))
        for high, times in extents(matmul.m, block.m)
    )


def _b_kept(matmul: Matmul, block: Block, across: int) -> int:
    """Returns the bytes of B tiles that the snake keeps: one from each row of C tiles to the next.

    Rows end at the last column and at the first in turn. The last C tile of a row is passed forwards, and so ends with
    the last slice of k, only if an even number of C tiles come before it: in every other row, and only if `across` is
    odd.
    """
    down = -(-matmul.m // block.m)
    deep = _last(matmul.k, block.k) if across % 2 else block.k
    at_the_end = packed_bytes(deep * _last(matmul.n, block.n), matmul.b)
    at_the_start = packed_bytes(block.k * block.n, matmul.b)
    return (down // 2) * at_the_end + ((down - 1) // 2) * at_the_start


def _last(whole: int, size: int) -> int:
    return extents(whole, size)[-1][0]
