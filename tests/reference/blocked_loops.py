"""A blocked product as plain loops over tiles, and a search over all blocks: slow, obvious, and with whole numbers."""

from __future__ import annotations

BITS = {"fp64": 64, "fp32": 32, "tf32": 32, "fp16": 16, "bf16": 16, "e5m2": 8, "e4m3fn": 8, "e3m2fn": 6, "e2m1fn": 4}


def packed(numbers: int, fmt: str) -> int:
    """Whole bytes that hold so many numbers."""
    bits = numbers * BITS[fmt]
    return bits // 8 + (bits % 8 > 0)


def cuts(whole: int, size: int) -> list[range]:
    return [range(start, min(start + size, whole)) for start in range(0, whole, size)]


def loop(sizes, formats, block, *, snake: bool = False) -> tuple[int, int, int]:
    """Walks through all tiles and adds up what is loaded of A, loaded of B and stored of C."""
    (m, n, k), (fa, fb, _, fc) = sizes, formats
    a = b = c = 0
    last_a = last_b = None
    forward = True
    for i, rows in enumerate(cuts(m, block[0])):
        columns_in_order = cuts(n, block[1])
        if snake and i % 2:
            columns_in_order.reverse()
        for columns in columns_in_order:
            slices = cuts(k, block[2])
            if snake and not forward:
                slices.reverse()
            forward = not forward
            for deep in slices:
                if not (snake and last_a == (rows, deep)):
                    a += packed(len(rows) * len(deep), fa)
                if not (snake and last_b == (deep, columns)):
                    b += packed(len(deep) * len(columns), fb)
                last_a, last_b = (rows, deep), (deep, columns)
            c += packed(len(rows) * len(columns), fc)
    return a, b, c


def needed(sizes, formats, block) -> int:
    """Bytes of fast memory for one tile of each."""
    m, n, k = (min(size, tile) for size, tile in zip(sizes, block, strict=True))
    return packed(m * k, formats[0]) + packed(k * n, formats[1]) + packed(m * n, formats[2])


def fewest_bytes(sizes, formats, fast_bytes: int, *, depth: int | None) -> int | None:
    """The fewest bytes of all blocks of a depth that fit, or of all cubes for None; None if nothing fits."""
    m, n, _ = sizes
    if depth is None:
        blocks = [(b, b, b) for b in range(1, max(sizes) + 1)]
    else:
        blocks = [(i, j, depth) for i in range(1, m + 1) for j in range(1, n + 1)]
    fitting = [block for block in blocks if needed(sizes, formats, block) <= fast_bytes]
    return min((sum(loop(sizes, formats, block)) for block in fitting), default=None)


def nested_loop(sizes, formats, outer, inner) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Walks through the tiles of two levels; returns what each moves of A, B and C."""
    (m, n, k), (fa, fb, _, fc) = sizes, formats
    inside = [0, 0, 0]
    for rows in cuts(m, outer[0]):
        for columns in cuts(n, outer[1]):
            small = [(r, c) for r in cuts(len(rows), inner[0]) for c in cuts(len(columns), inner[1])]
            for deep in cuts(k, outer[2]):
                for r, c in small:
                    for d in cuts(len(deep), inner[2]):
                        inside[0] += packed(len(r) * len(d), fa)
                        inside[1] += packed(len(d) * len(c), fb)
            inside[2] += sum(packed(len(r) * len(c), fc) for r, c in small)
    return loop(sizes, formats, outer), tuple(inside)
