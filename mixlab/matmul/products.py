"""A matrix product as data: its sizes, its formats, and the work and bytes that no way of computing it can avoid."""

from __future__ import annotations

from dataclasses import dataclass

from mixlab.arguments import require_whole
from mixlab.formats import BLOCK_FORMATS, FP32, TF32, Format

LARGEST_SIZE = 2**31 - 1  # of a dimension: what a 32-bit index of a matrix library counts to


@dataclass(frozen=True)
class Matmul:
    """The product C (m, n) = A (m, k) B (k, n), and the formats of its matrices.

    Nothing is computed with numbers here, so the formats count bytes only.

    >>> product = Matmul(4096, 4096, 4096, "bf16", "bf16", out="bf16")
    >>> print(product)
    4096 x 4096 x 4096, bf16 x bf16 + fp32 -> bf16
    >>> product.flops, product.compulsory_bytes, round(product.arithmetic_intensity)
    (137438953472, 100663296, 1365)

    Args:
        m: Rows of A and C.
        n: Columns of B and C.
        k: Columns of A and rows of B: the length of each sum.
        a: Format of A, or its name.
        b: Format of B, or its name.
        accumulator: Format of the sums while they grow, or its name.
        out: Format in which C is stored at the end, or its name.

    Raises:
        TypeError: If a format is neither a Format nor a name.
        ValueError: If a size is not a whole number from 1 to 2^31 - 1, or a format is unknown, has no sign, or is a
            block format.
    """

    m: int
    n: int
    k: int
    a: Format = FP32
    b: Format = FP32
    accumulator: Format = FP32
    out: Format = FP32

    def __post_init__(self) -> None:
        for name in ("m", "n", "k"):
            require_whole(f"Matmul: {name}", getattr(self, name), 1, LARGEST_SIZE)
        for name in ("a", "b", "accumulator", "out"):
            object.__setattr__(self, name, _matrix_format(name, getattr(self, name)))

    def __str__(self) -> str:
        return f"{self.m} x {self.n} x {self.k}, {self.formats}"

    @property
    def formats(self) -> str:
        """The formats in one line, such as "bf16 x bf16 + fp32 -> bf16"."""
        return f"{self.a} x {self.b} + {self.accumulator} -> {self.out}"

    @property
    def flops(self) -> int:
        """Floating-point operations: a multiplication and an addition for each of the m n k terms."""
        return 2 * self.m * self.n * self.k

    @property
    def operand_bytes(self) -> int:
        """Bytes of A and B."""
        return packed_bytes(self.m * self.k, self.a) + packed_bytes(self.k * self.n, self.b)

    @property
    def compulsory_bytes(self) -> int:
        """Bytes of A, B and C, each once: what is moved if fast memory holds everything."""
        return self.operand_bytes + packed_bytes(self.m * self.n, self.out)

    @property
    def arithmetic_intensity(self) -> float:
        """FLOP per byte, with each matrix moved once. No way of computing the product has more."""
        return self.flops / self.compulsory_bytes


def require_matmul(what: str, matmul: object) -> None:
    if not isinstance(matmul, Matmul):
        raise TypeError(f"{what}: matmul must be a Matmul, such as Matmul(128, 128, 128), got {matmul!r:.60}")


def stored_bits(fmt: Format) -> int:
    """Returns the bits that a number of a format takes in memory: its width, but 32 for tf32, whose code has 19.

    >>> stored_bits(Format.of("tf32")), stored_bits(Format.of("e2m1fn"))
    (32, 4)

    Args:
        fmt: The format.
    """
    return 32 if fmt == TF32 else fmt.bits


def packed_bytes(numel: int, fmt: Format) -> int:
    """Returns the bytes of packed numbers: no gaps between them, and whole bytes in all.

    >>> packed_bytes(3, Format.of("e2m1fn"))  # 12 bits
    2

    Args:
        numel: How many numbers.
        fmt: Their format.
    """
    return -(-numel * stored_bits(fmt) // 8)


def _matrix_format(name: str, fmt: Format | str) -> Format:
    if str(fmt) in BLOCK_FORMATS:
        block = BLOCK_FORMATS[str(fmt)]
        raise ValueError(
            f"Matmul: {name} must be a format without shared scales, got {block}; use its element format, "
            f"{block.element}, and add {block.scale.bits / block.block_size:g} bits per element for the scales yourself"
        )
    fmt = Format.of(fmt)
    if not fmt.signed:
        raise ValueError(f"Matmul: {name} must be a format for matrices, such as bf16; {fmt} holds scales, and no sign")
    return fmt
