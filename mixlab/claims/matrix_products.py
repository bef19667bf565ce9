"""Claims about the product of matrices in blocks, and its 2.82."""

from __future__ import annotations

import math
from itertools import pairwise

from mixlab.claims.sources import OWED_PRODUCTS, ROOFLINE
from mixlab.claims.verdicts import Claim, Finding, Verdict
from mixlab.formats import BF16, FP32, Format
from mixlab.matmul import Block, Matmul, best_block, bytes_moved, roof_for, traffic_ratio
from mixlab.memory import GPUS

_PLACE = "5. Training with BF16"
_FAST_BYTES = 228 * 1024  # shared memory of a multiprocessor of an H100
_SIZE = 8192


def _square(operands: Format = FP32, sums: Format = FP32) -> Matmul:
    """Returns the product of two large square matrices; the result is stored as the operands are."""
    return Matmul(_SIZE, _SIZE, _SIZE, operands, operands, sums, operands)


_WIDE, _ALL_BF16, _BF16_WITH_FP32_SUMS = _square(), _square(BF16, BF16), _square(BF16)


def _blocks_reduce_reads() -> Finding:
    moved = {b: bytes_moved(_WIDE, Block(b, b, 1)).total_bytes for b in (1, 16, 128)}
    shown = ", ".join(f"{size / 1e9:,.0f} GB in blocks of {b}" for b, size in moved.items())
    holds = moved[1] > moved[16] > moved[128]
    return Finding.of([holds], f"An fp32 product of {_SIZE} x {_SIZE} matrices moves {shown}.")


def _half_size() -> Finding:
    """Compares the least times of two products on an H100: one limited by memory, one by arithmetic."""
    ratios = {}
    for m in (1, _SIZE):
        wide, narrow = (Matmul(m, _SIZE, _SIZE, fmt, fmt, FP32, fmt) for fmt in (FP32, BF16))
        seconds = [roof_for(one, "h100-sxm").seconds(one.flops, one.compulsory_bytes) for one in (wide, narrow)]
        ratios[m] = seconds[0] / seconds[1]
    shown = ", ".join(f"{m} x {_SIZE} x {_SIZE} {ratio:.1f} times" for m, ratio in ratios.items())
    return Finding.of(
        (abs(ratio - 2) < 0.1 for ratio in ratios.values()),
        f"By the roofline of an H100, bf16 is faster than fp32 at most: {shown}.",
    )


def _sides() -> tuple[float, float]:
    """Returns how much wider square blocks are in bf16, with sums in bf16 and in fp32."""
    products = (_WIDE, _ALL_BF16, _BF16_WITH_FP32_SUMS)
    wide, both, sums = (best_block(one, _FAST_BYTES, depth="square").m for one in products)
    return both / wide, sums / wide


def _sqrt_two() -> Finding:
    """Compares the exact ratios of the sides with sqrt(2), and those of whole blocks in an H100's shared memory."""
    exact = [math.sqrt(12 / 6), math.sqrt(12 / 8)]
    whole = _sides()
    near = [abs(side - math.sqrt(2)) < 0.05 for side in (*exact, *whole)]
    shown = (
        f"Blocks in 228 KiB are {whole[0]:.2f} times as wide with three bf16 tiles, {whole[1]:.2f} times with an fp32 "
        "tile of sums."
    )
    return Finding.of(near, shown)


def _total() -> Finding:
    """Compares bytes with 2.82, and says what limits time instead."""
    ratios = {
        "with three bf16 tiles": traffic_ratio(_WIDE, _ALL_BF16),
        "with sums in fp32": traffic_ratio(_WIDE, _BF16_WITH_FP32_SUMS),
        "where sums fill the fast memory": traffic_ratio(_WIDE, _BF16_WITH_FP32_SUMS, depth=1),
    }
    bytes_words = ", ".join(f"{ratio:.2f} {words}" for words, ratio in ratios.items())
    gpus = [gpu for gpu in GPUS.values() if "bf16" in gpu.peak_flops]
    limits = [roof_for(_ALL_BF16, gpu).limit(_ALL_BF16.arithmetic_intensity) for gpu in gpus]
    faster = [gpu.peak_flops["bf16"] / gpu.peak_flops["fp32"] for gpu in gpus]
    shown = (
        f"Bytes of fp32 / bytes of bf16: {bytes_words}. At {_SIZE}³ {limits.count('compute')} of {len(gpus)} "
        "GPUs with "
        f"bf16 are compute-bound; there the peaks count, {min(faster):.1f} to {max(faster):.1f} times those of fp32."
    )
    return Finding.of((abs(ratio - 2.82) < 0.02 for ratio in ratios.values()), shown)


def _superlinear() -> Finding:
    sizes = (1024, 2048, 4096)
    moved = [bytes_moved(one, best_block(one, _FAST_BYTES)).total_bytes for one in (Matmul(n, n, n) for n in sizes)]
    growth = [after / before for before, after in pairwise(moved)]
    shown = (
        f"Twice the size is 4 times the numbers, and {growth[0]:.1f} and {growth[1]:.1f} times the bytes "
        "moved (1024 to 4096)."
    )
    return Finding.of((one > 4.5 for one in growth), shown)


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "super-linear-memory-access",
        "Some operations have super-linear memory access patterns.",
        "3. Mathematical explanation and advantages",
        "A product of n x n matrices with S bytes of fast memory moves on the order of n³ / sqrt(S) (Hong and "
        "Kung, I/O "
        "Complexity: The Red-Blue Pebble Game, 1981).",
        Verdict.HOLDS,
        "",
        _superlinear,
    ),
    Claim(
        "blocks-reduce-reads",
        "Matrix products work on blocks in shared memory, which reduces the reads from main memory.",
        _PLACE,
        "With C tiles of b x b, A and B are each read n / b times instead of n times.",
        Verdict.HOLDS,
        "",
        _blocks_reduce_reads,
        owed=OWED_PRODUCTS,
    ),
    Claim(
        "bf16-reads-half",
        "In bf16 each read is half size: 2 times faster.",
        _PLACE,
        f"The same tiles have half the bytes; time follows bytes only where memory is the limit. {ROOFLINE}",
        Verdict.HOLDS_IF,
        "of bytes always; of time only where memory is the limit in both formats",
        _half_size,
        owed=OWED_PRODUCTS,
    ),
    Claim(
        "bf16-larger-blocks",
        "In bf16 a block b² can be 2 times larger: another factor sqrt(2).",
        _PLACE,
        "Three tiles of b x b fill the fast memory: b grows by sqrt(12 / 6). With a tile of fp32 sums in the "
        "same memory, by sqrt(12 / 8) only; in registers, where tensor cores up to Hopper have it, the sums "
        "limit b by themselves.",
        Verdict.HOLDS_IF,
        "if the sums are bf16 too; 1.22 with fp32 sums in the same memory, and 1 where fp32 sums alone set the "
        "size of the block",
        _sqrt_two,
        owed=OWED_PRODUCTS,
    ),
    Claim(
        "bf16-matmul-2.82",
        "Total: 2.82 times faster.",
        _PLACE,
        "2 * sqrt(2) is the ratio of the bytes moved with three bf16 tiles. Time follows bytes only below the "
        f"ridge point of the roofline. {ROOFLINE}",
        Verdict.HOLDS_IF,
        "of bytes, if all three tiles are bf16: 2.45 with sums in fp32, 2.0 if they fill the fast memory; of "
        "time, only if bandwidth limits both formats and the matrices do not fit in fast memory",
        _total,
        owed=OWED_PRODUCTS,
    ),
)
