"""Random bits for stochastic rounding: drawn from a generator, or hashed from indices inside a compiled kernel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def draw_bits(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Returns random int32 numbers of `x`'s shape, on its device, all 2^32 values equally likely."""
    return torch.randint(-(2**31), 2**31, x.shape, dtype=torch.int32, device=x.device, generator=generator)


def hashed_bits(index: Tensor, seed: Tensor | Sequence[Tensor]) -> Tensor:
    """Returns int32 bits from int32 indices: the finaliser of MurmurHash3 (Appleby, 2011) twice, each with a key.

    The last shift of the first round and the first shift of the second would cancel, so both are left out.

    Args:
        index: The elements' indices, int32 of any shape.
        seed: Two int32 keys.
    """
    h = index + seed[0]
    h = _multiplied(h ^ ((h >> 16) & 0xFFFF))
    h = _multiplied(h ^ seed[1])
    return h ^ ((h >> 16) & 0xFFFF)


def _multiplied(h: Tensor) -> Tensor:
    h = h * -0x7A143595  # 0x85EBCA6B as int32
    return (h ^ ((h >> 13) & 0x7FFFF)) * -0x3D4D51CB  # 0xC2B2AE35 as int32
