"""The fewest bytes that any way of computing a product with its m n k multiplications can move.

Strassen's way and its kin need fewer multiplications, and are not covered.

**What is bounded.** Fast memory has S bytes. Numbers of A and B take w_a and w_b bytes, sums w_c, and a finished number
of C w_o bytes in slow memory. Sums may start at zero in fast memory, be stored unfinished, and be loaded again.

**At most this many multiplications with X bytes.** Let N_a, N_b and N_c numbers of A, B and C be in fast memory at some
time during a stretch of the computation. The multiplications a_il b_lj of the stretch are points (i, j, l), and their
shadows on the three planes are among those numbers. So there are at most sqrt(N_a N_b N_c) of them (Loomis and Whitney,
An inequality related to the isoperimetric inequality, 1949). If the numbers take X bytes, w_a N_a + w_b N_b + w_c N_c
<= X, the product is largest with X / 3 bytes of each matrix: at most (X / 3)^1.5 / sqrt(w_a w_b w_c) multiplications.

**Smith and others.** Count a sum that starts at zero as if it were loaded. Cut the computation into stretches in which
T bytes are loaded; the numbers of one stretch are those that were there at its start, up to S bytes, and those loaded:
X = S + T. The best T is 2 S, and then a stretch has at most S^1.5 / sqrt(w_a w_b w_c) multiplications. All m n k of
them need so many stretches, of which only the last may load less, that the bytes loaded are at least

    2 m n k sqrt(w_a w_b w_c / S) - 2 S

Sums that started at zero were counted as loads of w_c bytes. A sum need not start anew while a part of it is in fast
memory, where it can be continued; so between two starts of one sum its part is stored unfinished, and after the last
start it is stored finished. There are as many stores as starts: m n of w_o bytes, the others of w_c bytes. So

    bytes moved >= 2 m n k sqrt(w_a w_b w_c / S) - 2 S - m n (w_c - w_o)

With one width for all, and S counted in numbers, it is 2 m n k / sqrt(S) - 2 S (Smith, Lowery, Langou, van de Geijn, A
Tight I/O Lower Bound for Matrix Multiplication, 2019, for C = A B + C). Thin slices of the best block come close to it
(`block_search`), so its constant, 2, is the best possible.

**Before.** Hong and Kung (I/O complexity: The red-blue pebble game, 1981) found the order, m n k / sqrt(S), without a
constant. Irony, Toledo and Tiskin (Communication lower bounds for distributed-memory matrix multiplication, 2004) cut
into stretches in which S bytes are moved. Numbers of A and B were there at the start or are loaded, at most 2 S bytes
of each; sums are there at the end or are stored, at most 2 S bytes. So a stretch has at most (2 S)^1.5 / sqrt(w_a w_b
w) multiplications, with w the smaller of w_c and w_o, and

    bytes moved >= m n k sqrt(w_a w_b w / S) / (2 sqrt(2)) - S

**Compulsory bytes.** A and B are loaded at least once and C is stored: no bound below that is of use.
"""

from __future__ import annotations

import math

from mixlab.arguments import require_whole
from mixlab.matmul.products import Matmul, require_matmul, stored_bits


def lower_bound_bytes(matmul: Matmul, fast_bytes: int) -> int:
    """Returns the larger of Smith's bound and the compulsory bytes: no order of multiplications moves fewer.

    >>> product = Matmul(4096, 4096, 4096)
    >>> lower_bound_bytes(product, 192 * 1024), lower_bound_bytes(product, 2**30)  # in 2^30 bytes all matrices fit
    (2479307308, 201326592)

    Args:
        matmul: The product.
        fast_bytes: Bytes of fast memory, from 1 up.

    Raises:
        TypeError: If `matmul` is no Matmul.
        ValueError: If `fast_bytes` is not a whole number from 1 up.
    """
    require_matmul("lower_bound_bytes", matmul)
    require_whole("lower_bound_bytes: fast_bytes", fast_bytes, 1)
    narrower_bits = stored_bits(matmul.accumulator) - stored_bits(matmul.out)
    stored = -(-matmul.m * matmul.n * narrower_bits // 8)
    leading = _root_bytes(matmul, fast_bytes, stored_bits(matmul.accumulator), times_squared=4)
    return max(matmul.compulsory_bytes, leading - 2 * fast_bytes - stored)


def irony_bound_bytes(matmul: Matmul, fast_bytes: int) -> int:
    """Returns the bound of Irony, Toledo and Tiskin, 0 where it is negative: weaker, with 1 / (2 sqrt(2)) for 2.

    >>> irony_bound_bytes(Matmul(4096, 4096, 4096), 192 * 1024)
    438156656

    Args:
        matmul: The product.
        fast_bytes: Bytes of fast memory, from 1 up.

    Raises:
        TypeError: If `matmul` is no Matmul.
        ValueError: If `fast_bytes` is not a whole number from 1 up.
    """
    require_matmul("irony_bound_bytes", matmul)
    require_whole("irony_bound_bytes: fast_bytes", fast_bytes, 1)
    bits = min(stored_bits(matmul.accumulator), stored_bits(matmul.out))
    return max(0, _root_bytes(matmul, fast_bytes, bits, times_squared=1, over_squared=8) - fast_bytes)


def _root_bytes(matmul: Matmul, fast_bytes: int, c_bits: int, *, times_squared: int, over_squared: int = 1) -> int:
    """Returns m n k sqrt(w_a w_b w_c / S), times and over the roots of two numbers, rounded down: exact."""
    bits = stored_bits(matmul.a) * stored_bits(matmul.b) * c_bits  # 8^3 times the product of the bytes
    square = times_squared * (matmul.m * matmul.n * matmul.k) ** 2 * bits
    return math.isqrt(square // (over_squared * 8**3 * fast_bytes))
