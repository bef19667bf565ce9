"""A product in blocks, move by move: which tile appears, is loaded, multiplied, stored and freed, and its bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from mixlab.formats import Format
from mixlab.matmul.blocking import Block, Walk, require_blocks, require_walk
from mixlab.matmul.products import Matmul, packed_bytes

MoveKind = Literal["zero", "load", "multiply", "store", "free"]
Matrix = Literal["A", "B", "C"]
Span = tuple[int, int]
Place = tuple[Span, Span]
_Step = dict[Matrix, Place]


@dataclass(frozen=True)
class Move:
    """One step of a product in blocks.

    Attributes:
        kind: What is done with the tile: "zero": its sums appear in fast memory; "load": it comes from slow memory;
            "multiply": the A tile and the B tile in fast memory are multiplied and added to it; "store": it goes to
            slow memory; "free": it leaves fast memory.
        matrix: "A", "B" or "C".
        rows: First row of the tile, and the row after its last.
        columns: First column, and the column after its last.
        bytes: Bytes of the tile: in slow memory for "load" and "store", in fast memory for "zero" and "free", which
            differ for C if its output is narrower than its sums; 0 for "multiply".
    """

    kind: MoveKind
    matrix: Matrix
    rows: Span
    columns: Span
    bytes: int

    @property
    def moved_bytes(self) -> int:
        """Bytes that pass between slow and fast memory."""
        return self.bytes if self.kind in ("load", "store") else 0

    @property
    def held_bytes(self) -> int:
        """By how many bytes fast memory fills; below 0 for "free"."""
        return {"zero": self.bytes, "load": self.bytes, "free": -self.bytes}.get(self.kind, 0)


def count_products(matmul: Matmul, block: Block) -> int:
    """Returns how many products of two tiles a product in blocks takes.

    >>> count_products(Matmul(100, 100, 100), Block(64, 64, 16))
    28

    Args:
        matmul: The product.
        block: The block.

    Raises:
        TypeError: If `matmul` is no Matmul, or `block` no Block.
    """
    require_blocks("count_products", matmul, block)
    return -(-matmul.m // block.m) * -(-matmul.n // block.n) * -(-matmul.k // block.k)


def moves(matmul: Matmul, block: Block, *, walk: Walk = "rows") -> Iterator[Move]:
    """Yields a product in blocks, move by move.

    Each of `count_products` products of tiles takes up to five moves, and each C tile three more: look at these numbers
    before making a list.

    >>> [f"{move.kind} {move.matrix}" for move in moves(Matmul(4, 4, 4), Block(4, 4, 4))]
    ['zero C', 'load A', 'load B', 'multiply C', 'free A', 'free B', 'store C', 'free C']

    Args:
        matmul: The product.
        block: The block; cut to the product's sizes if it is larger.
        walk: As in `bytes_moved`. With "snake", a tile that the next product needs is neither freed nor loaded again.

    Raises:
        TypeError: If `matmul` is no Matmul, or `block` no Block.
        ValueError: If `walk` is unknown.
    """
    require_blocks("moves", matmul, block)
    require_walk("moves", walk)
    return _moves(matmul, block.within(matmul), walk)


def _moves(matmul: Matmul, block: Block, walk: Walk) -> Iterator[Move]:
    operands: tuple[tuple[Matrix, Format], ...] = (("A", matmul.a), ("B", matmul.b))
    steps = _steps(matmul, block, walk)
    step: _Step | None = next(steps)
    before: _Step = {}  # what the previous product left in fast memory
    while step is not None:
        if "C" not in before:
            yield _move("zero", "C", step["C"], matmul.accumulator)
        for matrix, fmt in operands:
            if matrix not in before:
                yield _move("load", matrix, step[matrix], fmt)
        yield Move("multiply", "C", *step["C"], 0)
        following = next(steps, None)
        before = {} if following is None else {name: place for name, place in step.items() if following[name] == place}
        for matrix, fmt in operands:
            if walk == "rows" or matrix not in before:
                before.pop(matrix, None)
                yield _move("free", matrix, step[matrix], fmt)
        if "C" not in before:
            yield _move("store", "C", step["C"], matmul.out)
            yield _move("free", "C", step["C"], matmul.accumulator)
        step = following


def _steps(matmul: Matmul, block: Block, walk: Walk) -> Iterator[_Step]:
    """Yields the tiles of each product of two tiles, in the order of the walk."""
    snake, passed = walk == "snake", 0  # C tiles so far
    for row, rows in enumerate(_spans(matmul.m, block.m)):
        for columns in _spans(matmul.n, block.n, backwards=snake and row % 2 == 1):
            for deep in _spans(matmul.k, block.k, backwards=snake and passed % 2 == 1):
                yield {"A": (rows, deep), "B": (deep, columns), "C": (rows, columns)}
            passed += 1


def _spans(whole: int, size: int, *, backwards: bool = False) -> Iterator[Span]:
    starts = range(0, whole, size)
    return ((start, min(start + size, whole)) for start in (reversed(starts) if backwards else starts))


def _move(kind: MoveKind, matrix: Matrix, place: Place, fmt: Format) -> Move:
    (top, bottom), (left, right) = place
    return Move(kind, matrix, *place, packed_bytes((bottom - top) * (right - left), fmt))
