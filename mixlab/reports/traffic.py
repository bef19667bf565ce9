"""Bytes that products in blocks move, as a table."""

from __future__ import annotations

from collections.abc import Iterable

from mixlab.matmul import CountedProduct
from mixlab.tables import NotedTable


class TrafficTable(NotedTable):
    """Products in blocks: bytes by the formula, by the simulation, and the fewest possible.

    Args:
        counted: From `mixlab.matmul.count_traffic`.

    Raises:
        ValueError: If there are none.
    """

    def __init__(self, counted: Iterable[CountedProduct]) -> None:
        shown = list(counted)
        if not shown:
            raise ValueError("TrafficTable: no products; mixlab.matmul.count_traffic() has some")
        columns = ("product", "fast memory", "block", "formula", "counted", "lower bound", "ratio")
        different = sum(one.difference_bytes > 0 for one in shown)
        wrong = sum(not one.correct for one in shown)
        notes = [
            "All in bytes. Ratio: counted bytes over the lower bound, and no order of multiplications goes below that.",
            f"{len(shown)} products: the formula differs from the count in {different or 'none'}, and the simulation's "
            f"result from torch.matmul in {wrong or 'none'}.",
        ]
        super().__init__(columns, map(_row, shown), notes)


def _row(one: CountedProduct) -> tuple[str, ...]:
    numbers = (one.formula.total_bytes, one.counted.total_bytes, one.lower_bound_bytes)
    cells = [f"{number:,}" for number in numbers]
    ratio = one.counted.total_bytes / one.lower_bound_bytes
    return (str(one.matmul), f"{one.fast_bytes:,}", str(one.block), *cells, f"{ratio:.2f}")
