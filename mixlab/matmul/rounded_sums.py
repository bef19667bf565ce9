"""Sums whose every addition is rounded to a number format, bit for bit, for many sums at once.

A step adds one term to each of many running sums in float64 and rounds to the format, as (s + c) - c with c = 1.5 * 2^e
so large that the last bit of s + c is the last bit of the format. Two roundings in a row, to 53 bits and then to the
format, can differ from one. They do only if the float64 addition is inexact while the term is not far smaller than the
sum. `running_sums` looks for this after a stretch of steps, and repeats the stretch with the float64 sums rounded to
odd, after which the second rounding is that of the exact sum (Boldo and Melquiond, Emulation of a FMA and correctly
rounded sums: proved algorithms using rounding to odd, 2008).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from mixlab.formats import FP32, Format, Overflow, Rounding, round_to

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_EXPONENT = np.int64(0x7FF << 52)


def overflow_of(fmt: Format) -> Overflow:
    """Returns what a sum or an operand out of range becomes: inf, or ±max in formats without infinities."""
    return "inf" if fmt.has_inf else "saturate"


def rounded(values: Floats, fmt: Format, rounding: Rounding = "nearest_even") -> Floats:
    """Returns float64 values rounded to a format, with `overflow_of` it."""
    result = round_to(torch.from_numpy(values), fmt, overflow=overflow_of(fmt), rounding=rounding)
    return result.numpy()


def running_sums(start: Floats, terms: Floats, fmt: Format) -> Floats:
    """Adds terms to running sums, one after the other, and rounds to nearest, ties to even, after each addition.

    Args:
        start: The sums to begin with, (lanes,), values of `fmt`.
        terms: What to add, (steps, lanes), of at most 53 bits each. NaN and inf follow IEEE 754.
        fmt: The format of the sums, of at most 23 mantissa bits.

    Returns:
        The sums before the first addition and after each, (steps + 1, lanes).
    """
    with np.errstate(all="ignore"):
        if fmt == FP32:
            as_stored = terms.astype(np.float32)
            if ((as_stored == terms) | (terms != terms)).all():
                return _native(start, as_stored)
        sums = _stepped(start, terms, fmt, odd=False)
        return _stepped(start, terms, fmt, odd=True) if _rounds_twice(sums, terms, fmt) else sums


def pairwise_sums(terms: Floats, fmt: Format) -> Floats:
    """Rounds the terms to a format, then adds neighbours until one sum is left; an odd last one waits for its turn.

    Args:
        terms: (n, lanes), n at least 1.
        fmt: The format, of at most 23 mantissa bits. Sums of two of its values are rounded once: float64 has more than
            twice as many bits (Figueroa, When is double rounding innocuous?, 1995).

    Returns:
        The sums, (lanes,).
    """
    with np.errstate(all="ignore"):
        level = rounded(terms, fmt)
        while len(level) > 1:
            pairs = rounded(level[0 : len(level) // 2 * 2 : 2] + level[1::2], fmt)
            level = np.concatenate([pairs, level[len(level) // 2 * 2 :]])
    sums: Floats = level[0]
    return sums


def _native(start: Floats, terms: NDArray[np.float32]) -> Floats:
    sums = np.empty((len(terms) + 1, len(start)), np.float32)
    sums[0] = start
    for step, term in enumerate(terms):
        np.add(sums[step], term, out=sums[step + 1])
    return sums.astype(np.float64)


def _stepped(start: Floats, terms: Floats, fmt: Format, *, odd: bool) -> Floats:
    sums = np.empty((len(terms) + 1, len(start)))
    sums[0] = start
    if not fmt.subnormals:
        for step, term in enumerate(terms):
            sums[step + 1] = rounded(_odd_sum(sums[step], term), fmt)
        return sums
    low, high = ((exponent + 1023) << 52 for exponent in (fmt.min_exponent, fmt.max_exponent + 1))
    cut = ((52 - fmt.mantissa_bits) << 52) | (1 << 51)  # the addend's exponent beside the sum's, and its factor of 1.5
    beyond = np.inf if fmt.has_inf else fmt.max
    addend_bits = np.empty(len(start), np.int64)
    addend = addend_bits.view(np.float64)
    size = np.empty(len(start))
    for step, term in enumerate(terms):
        exact = _odd_sum(sums[step], term) if odd else sums[step] + term
        out = sums[step + 1]
        np.bitwise_and(exact.view(np.int64), _EXPONENT, out=addend_bits)
        np.maximum(addend_bits, low, out=addend_bits)
        np.minimum(addend_bits, high, out=addend_bits)
        np.add(addend_bits, cut, out=addend_bits)
        np.add(exact, addend, out=out)
        np.subtract(out, addend, out=out)
        np.abs(out, out=size)
        out[size > fmt.max] = beyond
        np.copysign(out, exact, out=out)
    return sums


def _two_sum(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Returns a + b in float64, and its exact error (Knuth, The Art of Computer Programming 2, 1997, 4.2.2)."""
    total = a + b
    added = total - a
    return total, (a - (total - added)) + (b - added)


def _rounds_twice(sums: Floats, terms: Floats, fmt: Format) -> bool:
    """Whether some sum was inexact in float64 although its term was not too small to move a sum of `fmt` at all."""
    _, error = _two_sum(sums[:-1], terms)
    matters = np.abs(terms) >= np.abs(sums[:-1]) * 2.0 ** -(fmt.mantissa_bits + 3)
    return bool((matters & np.isfinite(error) & (error != 0)).any())


def _odd_sum(a: Floats, b: Floats) -> Floats:
    """Returns a + b, or of its two neighbours in float64 the one with an odd last bit."""
    total, error = _two_sum(a, b)
    bits = total.view(np.int64)
    moves = (error != 0) & np.isfinite(error) & (bits & 1 == 0)
    return (bits + np.where(moves, np.where((error > 0) == (total > 0), 1, -1), 0)).view(np.float64)
