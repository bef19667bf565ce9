"""In which order, and in which format, the products of a dot product are added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from mixlab.arguments import did_you_mean, require_whole
from mixlab.formats import FP32, Format

Order = Literal["sequential", "blocked", "pairwise", "split_k"]
Products = Literal["exact", "rounded"]


@dataclass(frozen=True)
class Summation:
    """How the products of a dot product are added: format, order, and what is rounded.

    Args:
        accumulator: The format of the sums, or its name; of at most 23 mantissa bits. Every addition is rounded to it,
            to nearest, ties to even. A sum out of range is inf, or ±max in formats without infinities.
        order: "sequential" adds product after product. "blocked" does so within blocks of `block` products, and then
            adds the blocks' sums in order. "split_k" does the same with `parts` blocks of equal length, the last of
            which may be shorter, as GPUs do for a long K. "pairwise" adds neighbours, then the sums of neighbours, and
            so on.
        block: Products in a block, for "blocked".
        parts: How many parts, for "split_k".
        products: "exact": a product enters its addition unrounded, as in a fused multiply-add and on tensor cores.
            "rounded": it is first rounded to the accumulator's format. In "pairwise" no addition can take it along, and
            it is always rounded.

    Raises:
        TypeError: If `accumulator` is not a format.
        ValueError: If the accumulator has more bits, a word is unknown, or a number is not a whole number from 1 up.

    >>> str(Summation("fp16", "blocked", block=64)), Summation("fp16", "blocked", block=64).depth(1000)
    ('fp16 blocked by 64', 79)
    """

    accumulator: Format | str = FP32
    order: Order = "sequential"
    block: int = 128
    parts: int = 8
    products: Products = "exact"

    def __post_init__(self) -> None:
        fmt = Format.of(self.accumulator)
        if not fmt.signed or fmt.mantissa_bits > 23:
            raise ValueError(f"Summation: accumulator must be a signed format of up to 23 mantissa bits, got {fmt}")
        object.__setattr__(self, "accumulator", fmt)
        for what, value, known in (
            ("order", self.order, get_args(Order)),
            ("products", self.products, get_args(Products)),
        ):
            if not isinstance(value, str) or value not in known:
                near = did_you_mean(value, known)
                raise ValueError(f"Summation: {near}{what} must be one of {', '.join(known)}, got {value!r:.60}")
        require_whole("Summation: block", self.block, 1)
        require_whole("Summation: parts", self.parts, 1)

    @property
    def format(self) -> Format:
        """The format of the sums."""
        return Format.of(self.accumulator)

    def __str__(self) -> str:
        how = {"blocked": f"blocked by {self.block}", "split_k": f"split-K in {self.parts}"}.get(self.order, self.order)
        return f"{self.format} {how}" + (", products rounded" if self.products == "rounded" else "")

    def block_length(self, length: int) -> int:
        """Returns how many products are added in one go: a block or part, or all.

        Args:
            length: How many products the dot product has, from 1 up.
        """
        if self.order == "blocked":
            return min(self.block, length)
        return -(-length // self.parts) if self.order == "split_k" else length

    def depth(self, length: int) -> int:
        """Returns the most roundings that one product goes through, its own included.

        Args:
            length: How many products the dot product has, from 1 up.

        Raises:
            ValueError: If `length` is not such a number.
        """
        require_whole("Summation.depth: length", length, 1)
        if self.order == "pairwise":
            return 1 + (length - 1).bit_length()
        block = self.block_length(length)
        return block - (-length // block) - 1
