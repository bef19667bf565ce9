"""A product computed in blocks through a small fast memory, step by step, with every byte counted.

`blocked_matmul` follows `moves`, and multiplies only tiles that are in its `FastMemory`, which refuses to hold more
bytes than it has and to give a tile that is not there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mixlab.arguments import LARGEST_SEED, require_whole
from mixlab.matmul.block_search import best_block
from mixlab.matmul.blocking import Block, Traffic, Walk, fast_memory_bytes, require_blocks, require_walk
from mixlab.matmul.products import Matmul, require_matmul
from mixlab.matmul.tile_moves import Matrix, Move, Place, count_products, moves

MOST_PRODUCTS = 1_000_000  # of two tiles: a minute or so
MOST_BYTES = 2**30  # of the three matrices in a simulation


class FastMemory:
    """Fast memory of so many bytes, at most one tile of each matrix, and a count of what passed.

    Args:
        capacity_bytes: Its size.

    Attributes:
        used_bytes: Bytes of the tiles that it holds now.
        peak_bytes: The most bytes that it held so far.
        traffic: Bytes loaded of A, loaded of B, and stored of C so far.

    Raises:
        ValueError: If `capacity_bytes` is not a whole number from 1 up.
    """

    def __init__(self, capacity_bytes: int) -> None:
        require_whole("FastMemory: capacity_bytes", capacity_bytes, 1)
        self.capacity_bytes = capacity_bytes
        self.used_bytes = self.peak_bytes = 0
        self.traffic = Traffic(0, 0, 0)
        self._tiles: dict[str, Place] = {}

    def take(self, move: Move) -> None:
        """Does one move.

        Args:
            move: The move.

        Raises:
            RuntimeError: If it would fill fast memory beyond its size, or uses a tile that is not there, or brings a
                second tile of a matrix.
        """
        place = (move.rows, move.columns)
        if move.kind in ("zero", "load"):
            if move.matrix in self._tiles:
                raise RuntimeError(f"FastMemory: {_named(move)} comes before the last tile of {move.matrix} was freed")
            if self.used_bytes + move.held_bytes > self.capacity_bytes:
                raise RuntimeError(
                    f"FastMemory: {self.used_bytes} of {self.capacity_bytes} bytes are in use, and {_named(move)} "
                    f"needs {move.held_bytes}; free a tile first, or use a smaller block"
                )
            self._tiles[move.matrix] = place
        elif self._tiles.get(move.matrix) != place:
            raise RuntimeError(f"FastMemory: cannot {move.kind} {_named(move)}: it is not here")
        if move.kind == "multiply" and not {"A", "B"} <= set(self._tiles):
            raise RuntimeError("FastMemory: cannot multiply: an A tile or a B tile is not here")
        if move.kind == "free":
            del self._tiles[move.matrix]
        self.used_bytes += move.held_bytes
        self.peak_bytes = max(self.peak_bytes, self.used_bytes)
        self.traffic += Traffic(*(move.moved_bytes if move.matrix == name else 0 for name in "ABC"))

    def tile(self, matrix: Matrix) -> tuple[slice, slice]:
        """Returns where the tile of a matrix lies in it, to index the matrix with.

        Args:
            matrix: "A", "B" or "C".

        Raises:
            RuntimeError: If no tile of it is there.
        """
        if matrix not in self._tiles:
            raise RuntimeError(f"FastMemory: no tile of {matrix} is here; load it first")
        rows, columns = self._tiles[matrix]
        return slice(*rows), slice(*columns)


@dataclass(frozen=True)
class BlockedProduct:
    """What a simulation found.

    Attributes:
        product: C, (m, n), in the dtype of the operands.
        traffic: Bytes that were loaded and stored.
        peak_bytes: The most bytes of fast memory in use at any time.
        products: How many products of two tiles were computed.
    """

    product: Tensor
    traffic: Traffic
    peak_bytes: int
    products: int


def whole_matrices(matmul: Matmul, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Draws A and B of whole numbers from -4 to 4: float32 holds their product exactly if k is at most 2^20.

    Args:
        matmul: The product, whose sizes count.
        seed: Seed of the draw.
        dtype: torch.float32 or torch.float64.

    Returns:
        A, (m, k), and B, (k, n).

    Raises:
        TypeError: If `matmul` is no Matmul, or the dtype another.
        ValueError: If the seed is not a whole number from 0 to 2^63 - 1, or A, B and C would take
            more than 1 GiB.
    """
    require_matmul("whole_matrices", matmul)
    require_whole("whole_matrices: seed", seed, 0, LARGEST_SEED)
    _require_dtype("whole_matrices", dtype)
    _require_room(matmul, dtype.itemsize)
    generator = torch.Generator().manual_seed(seed)
    shapes = ((matmul.m, matmul.k), (matmul.k, matmul.n))
    a, b = (torch.randint(-4, 5, shape, generator=generator).to(dtype) for shape in shapes)
    return a, b


def blocked_matmul(
    a: Tensor, b: Tensor, matmul: Matmul, block: Block, *, fast_bytes: int, walk: Walk = "rows"
) -> BlockedProduct:
    """Multiplies two matrices in blocks through a fast memory, and counts every byte.

    The formats of `matmul` set the bytes. The numbers are multiplied as they are, in the dtype of the tensors.

    >>> from mixlab.matmul import bytes_moved
    >>> product, block = Matmul(100, 100, 100, "bf16", "bf16"), Block(64, 64, 16)
    >>> a, b = whole_matrices(product)
    >>> done = blocked_matmul(a, b, product, block, fast_bytes=64 * 1024)
    >>> torch.equal(done.product, a @ b), done.traffic == bytes_moved(product, block), done.peak_bytes
    (True, True, 20480)

    Args:
        a: A, (m, k), float32 or float64.
        b: B, (k, n), of the same dtype.
        matmul: Sizes and formats.
        block: The block; cut to the product's sizes if it is larger.
        fast_bytes: Bytes of fast memory, from 1 up.
        walk: As in `bytes_moved`.

    Raises:
        TypeError: If `a` or `b` is no such tensor, `matmul` no Matmul, or `block` no Block.
        ValueError: If their shapes are not those of `matmul`; the block does not fit in fast memory, and then the
            message names one that does; it takes more than a million products of tiles; or A, B and C take more than 1
            GiB.
    """
    require_blocks("blocked_matmul", matmul, block)
    _require_operands(a, b, matmul)
    require_walk("blocked_matmul", walk)
    require_whole("blocked_matmul: fast_bytes", fast_bytes, 1)
    _require_fit(matmul, block, fast_bytes)
    products = count_products(matmul, block)
    if products > MOST_PRODUCTS:
        raise ValueError(
            f"blocked_matmul: {matmul.m} x {matmul.n} x {matmul.k} in blocks of {block} takes {products} products of "
            f"tiles; take at most {MOST_PRODUCTS}: a larger block, or a smaller product. bytes_moved needs none"
        )
    _require_room(matmul, a.dtype.itemsize)
    memory = FastMemory(fast_bytes)
    c = torch.full((matmul.m, matmul.n), math.nan, dtype=a.dtype)
    for move in moves(matmul, block, walk=walk):
        memory.take(move)
        if move.kind == "zero":
            c[memory.tile("C")] = 0
        elif move.kind == "multiply":
            c[memory.tile("C")] += a[memory.tile("A")] @ b[memory.tile("B")]
    return BlockedProduct(c, memory.traffic, memory.peak_bytes, products)


def _named(move: Move) -> str:
    (top, bottom), (left, right) = move.rows, move.columns
    return f"the {move.matrix} tile of rows {top} to {bottom} and columns {left} to {right}"


def _require_operands(a: Tensor, b: Tensor, matmul: Matmul) -> None:
    for name, x, shape in (("a", a, (matmul.m, matmul.k)), ("b", b, (matmul.k, matmul.n))):
        if not isinstance(x, Tensor):
            raise TypeError(f"blocked_matmul: {name} must be a tensor, got {x!r:.60}")
        _require_dtype(f"blocked_matmul: {name}", x.dtype)
        if tuple(x.shape) != shape:
            raise ValueError(f"blocked_matmul: {name} must have the shape {shape} of the product, got {tuple(x.shape)}")
    if a.dtype != b.dtype:
        raise TypeError(f"blocked_matmul: a and b must have one dtype, got {a.dtype} and {b.dtype}")


def _require_dtype(what: str, dtype: object) -> None:
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{what} must be of dtype torch.float32 or torch.float64, got {dtype!r:.60}")


def _require_room(matmul: Matmul, itemsize: int) -> None:
    needed = itemsize * (matmul.m * matmul.k + matmul.k * matmul.n + matmul.m * matmul.n)
    if needed > MOST_BYTES:
        raise ValueError(
            f"A, B and C of {matmul.m} x {matmul.n} x {matmul.k} take {needed / 2**30:,.1f} GiB; a simulation takes at "
            f"most {MOST_BYTES / 2**30:g} GiB. bytes_moved needs no matrices"
        )


def _require_fit(matmul: Matmul, block: Block, fast_bytes: int) -> None:
    needed = fast_memory_bytes(matmul, block)
    if needed > fast_bytes:
        depth = block.within(matmul).k
        try:
            advice = f"the best of this depth that fits is {best_block(matmul, fast_bytes, depth=depth)}"
        except ValueError:
            advice = f"no block of depth {depth} fits"
        raise ValueError(
            f"blocked_matmul: a block of {block} needs {needed} bytes of fast memory, which has {fast_bytes}; {advice}"
        )
