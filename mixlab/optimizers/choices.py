"""What a recipe chooses of an optimizer: its kind and how it rounds its states, by name, and how large the states are.

Nothing here needs torch.
"""

from __future__ import annotations

from typing import Literal

OptimizerName = Literal["sgd", "adam", "adamw"]
StateRounding = Literal["nearest_even", "stochastic"]


def scales_bytes(numel: int, block_size: int) -> int:
    """Returns the bytes of the float32 scales of an 8-bit state; the last block has one even if it is not full.

    Args:
        numel: Elements of the state.
        block_size: Elements of a block.
    """
    return 4 * -(-numel // block_size)
