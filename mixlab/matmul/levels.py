"""Two levels of fast memory, as GPUs have them: blocks inside blocks, with the bytes that pass into each.

**The walk.** C is cut into outer tiles, k into outer slices. For each slice the outer level loads an A and a B tile
from slow memory. Inside, the product of the two tiles is itself computed in inner blocks: for each inner slice of k,
every inner C tile needs its rows of A and its columns of B. The sums of the whole outer C tile stay in the inner level,
which on a GPU is many small memories side by side, until its walk through k is done; then C is stored once.

So the outer level loads as much as in one level (`blocking`), and the inner level loads, for each outer C tile of (bm,
bn) numbers cut into inner tiles of (wm, wn),

    ceil(bn / wn) bytes(A rows of the tile) + ceil(bm / wm) bytes(B columns of the tile)

**Where it fits.** The outer level holds the outer A and B tiles, times the stages of a pipeline that loads the next
slices while this one is multiplied. The inner level holds the outer tile's sums, and an inner A and B tile for each
product in flight.

- *Shared memory and registers of one SM.* The outer block is a thread block's tile, the inner one that of a warp or, on
  Hopper, of a tensor core's instruction, which can read both operands from shared memory. An H100 has 228 KiB of shared
  memory per SM, of which a thread block can have 227, and 65,536 registers of 4 bytes, 256 KiB (NVIDIA, Hopper Tuning
  Guide; recollected).
- *L2 and the SMs.* The outer block is all that the SMs work on at the same time, the inner one a thread block's tile:
  50 MB and 132 SMs on an H100 SXM (recollected). A wave of 132 tiles need not be a rectangle; then this is an estimate.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from mixlab.arguments import require_whole
from mixlab.matmul.blocking import Block, Traffic, bytes_moved, extents, require_blocks
from mixlab.matmul.products import Matmul, packed_bytes


@dataclass(frozen=True)
class TwoLevels:
    """A product in blocks at two levels.

    A thread block's tile on an H100, with four stages in shared memory, and instructions of 64 x 256 x 16:

    >>> product = Matmul(8192, 8192, 8192, "bf16", "bf16", out="bf16")
    >>> tiles = TwoLevels(product, Block(128, 256, 64), Block(64, 256, 16), stages=4)
    >>> tiles.outer_bytes // 1024, tiles.sum_bytes // 1024  # of 227 and 256 KiB
    (192, 128)
    >>> tiles.outer_traffic.total_bytes / 1e9, tiles.inner_traffic.total_bytes / 1e9
    (13.019119616, 21.609054208)

    Args:
        matmul: The product.
        outer: The block of the outer level; cut to the product's sizes if it is larger.
        inner: The block of the inner level; cut to the outer block if it is larger.
        stages: How many slices of k the outer level holds at the same time.

    Raises:
        TypeError: If `matmul` is no Matmul, or a block no Block.
        ValueError: If `stages` is not a whole number from 1 up.
    """

    matmul: Matmul
    outer: Block
    inner: Block
    stages: int = 1

    def __post_init__(self) -> None:
        require_blocks("TwoLevels", self.matmul, self.outer, self.inner)
        require_whole("TwoLevels: stages", self.stages, 1)

    @property
    def outer_traffic(self) -> Traffic:
        """Bytes between slow memory and the outer level; C goes past it, from the inner level."""
        return bytes_moved(self.matmul, self.outer)

    @property
    def inner_traffic(self) -> Traffic:
        """Bytes between the outer level and the inner one, and C on its way out."""
        total, outer, whole = Traffic(0, 0, 0), self.outer.within(self.matmul), self.matmul
        cuts = (extents(whole.m, outer.m), extents(whole.n, outer.n), extents(whole.k, outer.k))
        for (m, downs), (n, acrosses), (k, deeps) in product(*cuts):
            inside = bytes_moved(_part(whole, m, n, k), self.inner)
            loaded = Traffic(inside.a_bytes, inside.b_bytes, 0)
            total += loaded * (downs * acrosses * deeps)
        for (m, downs), (n, acrosses) in product(*cuts[:2]):
            stored = Traffic(0, 0, bytes_moved(_part(whole, m, n, 1), self.inner).c_bytes)
            total += stored * (downs * acrosses)
        return total

    @property
    def outer_bytes(self) -> int:
        """Bytes that the outer level holds: A and B tiles, times the stages."""
        return self.stages * self._operand_bytes(self.outer.within(self.matmul))

    @property
    def sum_bytes(self) -> int:
        """Bytes of the sums that the inner level holds, for one outer C tile."""
        outer = self.outer.within(self.matmul)
        return packed_bytes(outer.m * outer.n, self.matmul.accumulator)

    @property
    def operand_bytes(self) -> int:
        """Bytes of the operands of one inner product: an inner A tile and an inner B tile."""
        outer, inner = self.outer.within(self.matmul), self.inner
        return self._operand_bytes(Block(min(inner.m, outer.m), min(inner.n, outer.n), min(inner.k, outer.k)))

    def _operand_bytes(self, block: Block) -> int:
        a, b = self.matmul.a, self.matmul.b
        return packed_bytes(block.m * block.k, a) + packed_bytes(block.k * block.n, b)


def _part(matmul: Matmul, m: int, n: int, k: int) -> Matmul:
    return Matmul(m, n, k, matmul.a, matmul.b, matmul.accumulator, matmul.out)
