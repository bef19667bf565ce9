"""What sizes that fit no tile cost: padded tiles, and waves of tiles that leave part of a GPU idle.

**Tiles.** A kernel computes C in tiles of fixed sizes, and k in slices of a fixed depth. A tile at an edge takes as
long as a full one, although part of it lies outside the matrices. So a product of (m, n, k) takes as many operations as
one whose sizes are rounded up to multiples of the tile's:

    2 ceil(m / bm) bm ceil(n / bn) bn ceil(k / bk) bk

**Waves.** Each of a GPU's `units` (streaming multiprocessors) computes one C tile at a time. All tiles together take
ceil(tiles / units) rounds, called waves. If the last wave is not full, units wait for it.

NVIDIA calls these tile and wave quantization (Matrix Multiplication Background User's Guide). Kernels that cut k into
parts for several units (split-K, stream-K) fill the last wave better, and libraries choose among many tiles, so a
measured speed falls less steeply than these shares.
"""

from __future__ import annotations

from mixlab.arguments import require_whole
from mixlab.matmul.blocking import Block
from mixlab.matmul.products import Matmul


def padded_flops(matmul: Matmul, tile: Block) -> int:
    """Returns the floating-point operations of a product whose tiles are all full.

    >>> product = Matmul(1025, 1025, 1024)
    >>> padded_flops(product, Block(128, 128, 32)) / product.flops  # doctest: +ELLIPSIS
    1.26...

    Args:
        matmul: The product.
        tile: Rows and columns of a C tile, and depth of a slice.
    """
    m, n, k = (-(-size // step) * step for size, step in zip(_sizes(matmul), _sizes(tile), strict=True))
    return 2 * m * n * k


def useful_share(matmul: Matmul, tile: Block, units: int = 1) -> float:
    """Returns the share of a GPU's operations that is not spent on padding or waiting, with all units at full speed.

    >>> a100 = 108
    >>> [round(useful_share(Matmul(1536, columns, 4096), Block(128, 256, 32), a100), 3) for columns in (2304, 2305)]
    [1.0, 0.5]

    Args:
        matmul: The product.
        tile: Rows and columns of a C tile, and depth of a slice.
        units: How many C tiles the GPU computes at a time, from 1 up; 1 leaves only the padding.

    Raises:
        ValueError: If `units` is not a whole number from 1 up.
    """
    require_whole("useful_share: units", units, 1)
    tiles = -(-matmul.m // tile.m) * -(-matmul.n // tile.n)
    waves = -(-tiles // units)
    return matmul.flops / padded_flops(matmul, tile) * tiles / (waves * units)


def _sizes(one: Matmul | Block) -> tuple[int, int, int]:
    return one.m, one.n, one.k
