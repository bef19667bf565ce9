"""A product in blocks as data for a page: the moves of its tiles, its totals beside others, and both in words."""

from __future__ import annotations

from itertools import islice
from typing import Any, Literal

from mixlab.matmul import (
    Block,
    Matmul,
    Move,
    best_block,
    bytes_moved,
    count_products,
    fast_memory_bytes,
    lower_bound_bytes,
    moves,
    traffic_ratio,
)
from mixlab.reports.colours import BLUE, GREEN, ORANGE

BlockChoice = Literal["square", "slices"] | Block

BLOCKS: dict[str, str] = {"square": "best square tiles", "slices": "best thin slices (depth 1)"}
COLOURS = {"A": BLUE, "B": ORANGE, "C": GREEN}
MOST_MOVES = 2500  # that are drawn: 100 kB of them


def chosen_block(matmul: Matmul, fast_bytes: int, choice: BlockChoice) -> Block:
    """Returns the block that a choice means.

    >>> print(chosen_block(Matmul(96, 96, 96), 8192, "square"), "or", chosen_block(Matmul(96, 96, 96), 8192, "slices"))
    24 x 24 x 24 or 48 x 32 x 1

    Args:
        matmul: The product.
        fast_bytes: Bytes of fast memory.
        choice: "square" or "slices" for the best block of its kind; or a block.

    Raises:
        ValueError: If the block does not fit in fast memory; the message names one that does.
    """
    if not isinstance(choice, Block):
        return best_block(matmul, fast_bytes, depth="square" if choice == "square" else 1)
    needed = fast_memory_bytes(matmul, choice)
    if needed > fast_bytes:
        fits = best_block(matmul, fast_bytes, depth="square")
        raise ValueError(
            f"a block of {choice} needs {needed:,} bytes of fast memory, which has {fast_bytes:,}; {fits} fits"
        )
    return choice.within(matmul)


def tile_walk(matmul: Matmul, fast_bytes: int, choice: BlockChoice) -> dict[str, Any]:
    """Returns everything that a browser needs to draw a product in blocks, ready for JSON.

    "moves" are lists of kind, matrix, first row, row after the last, first column, column after the last, and bytes;
    "goesOn" says whether there are more, which are not drawn.
    "bars" are the bytes that the product moves in all, those of the same product in fp32, and the lower bound.

    Args:
        matmul: The product.
        fast_bytes: Bytes of fast memory.
        choice: As in `chosen_block`.

    Raises:
        ValueError: If the block does not fit in fast memory.
    """
    block = chosen_block(matmul, fast_bytes, choice)
    wide = Matmul(matmul.m, matmul.n, matmul.k)
    kind: Literal["square", "slices"] = "slices" if choice == "slices" else "square"
    wide_block = chosen_block(wide, fast_bytes, kind)
    total, in_fp32 = (bytes_moved(*each).total_bytes for each in ((matmul, block), (wide, wide_block)))
    bound = lower_bound_bytes(matmul, fast_bytes)
    products = count_products(matmul, block)
    ratio = f"{in_fp32 / total:.2f}"
    limit = traffic_ratio(wide, matmul, depth="square" if kind == "square" else 1)
    large = "" if isinstance(choice, Block) else f" (in the limit of large matrices {limit:.2f})"
    return {
        "matrices": {
            "A": {"rows": matmul.m, "columns": matmul.k, "format": str(matmul.a), "times": -(-matmul.n // block.n)},
            "B": {"rows": matmul.k, "columns": matmul.n, "format": str(matmul.b), "times": -(-matmul.m // block.m)},
            "C": {"rows": matmul.m, "columns": matmul.n, "format": str(matmul.out), "times": 1},
        },
        "colors": COLOURS,
        "block": [block.m, block.n, block.k],
        "fast": fast_bytes,
        "needed": fast_memory_bytes(matmul, block),
        "accumulator": str(matmul.accumulator),
        "moves": [_as_list(move) for move in islice(moves(matmul, block), MOST_MOVES)],
        "goesOn": next(islice(moves(matmul, block), MOST_MOVES, None), None) is not None,
        "total": total,
        "bars": [
            ["fp32", f"All in fp32, {BLOCKS[kind]}", in_fp32, f"{in_fp32:,} bytes, {ratio} × as many"],
            ["bound", "Lower bound", bound, f"{bound:,} bytes: no way moves fewer"],
        ],
        "sentence": f"{matmul}, in blocks of {block} with {fast_bytes:,} bytes of fast memory: {products:,} products "
        f"of tiles move {total:,} bytes; the lower bound is {bound:,}. All in fp32, {BLOCKS[kind]} of {wide_block} "
        f"move {in_fp32:,}, {ratio} times as many{large}.",
    }


def _as_list(move: Move) -> list[str | int]:
    return [move.kind, move.matrix, *move.rows, *move.columns, move.bytes]
