"""What a recipe chooses of an optimizer: its kind and how it rounds its states, by name, and how large the states are.

Nothing here needs torch.
"""

from __future__ import annotations

from typing import Literal

from mixlab.arguments import did_you_mean

OptimizerName = Literal["sgd", "adam", "adamw"]
StateRounding = Literal["nearest_even", "stochastic"]


# AdamW of torch and of other libraries.
BACKEND_NAMES = (
    *("torch fused", "torch foreach", "torch loop", "bitsandbytes 32-bit", "bitsandbytes 8-bit"),
    *("torchao 8-bit", "torchao 4-bit", "torchao fp8", "optimi", "optimi bf16 kahan"),
)


def require_backend(name: object) -> None:
    """Raises ValueError if `name` is not one of `BACKEND_NAMES`."""
    if name not in BACKEND_NAMES:
        hint = did_you_mean(name, BACKEND_NAMES)
        raise ValueError(f"unknown optimizer backend {name!r:.60}: {hint}use one of {', '.join(BACKEND_NAMES)}")


def scales_bytes(numel: int, block_size: int) -> int:
    """Returns the bytes of the float32 scales of an 8-bit state; the last block has one even if it is not full.

    Args:
        numel: Elements of the state.
        block_size: Elements of a block.
    """
    return 4 * -(-numel // block_size)
