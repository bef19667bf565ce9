"""All claims, in the order in which they are made."""

from __future__ import annotations

from mixlab.arguments import did_you_mean
from mixlab.claims.loss_scaling import CLAIMS as LOSS_SCALING
from mixlab.claims.matrix_products import CLAIMS as MATRIX_PRODUCTS
from mixlab.claims.memory_sizes import CLAIMS as MEMORY_SIZES
from mixlab.claims.number_formats import CLAIMS as NUMBER_FORMATS
from mixlab.claims.optimizer_states import CLAIMS as OPTIMIZER_STATES
from mixlab.claims.speed import CLAIMS as SPEED
from mixlab.claims.stability import CLAIMS as STABILITY
from mixlab.claims.torch_amp import CLAIMS as TORCH_AMP
from mixlab.claims.verdicts import PLACES, Claim

SUBJECTS: dict[str, tuple[Claim, ...]] = {
    "number formats": NUMBER_FORMATS,
    "loss scaling": LOSS_SCALING,
    "optimizer states": OPTIMIZER_STATES,
    "memory": MEMORY_SIZES,
    "matrix products": MATRIX_PRODUCTS,
    "speed": SPEED,
    "torch.amp": TORCH_AMP,
    "stability": STABILITY,
}

CLAIMS: tuple[Claim, ...] = tuple(
    sorted((one for claims in SUBJECTS.values() for one in claims), key=lambda one: PLACES.index(one.place))
)


def claim(key: str) -> Claim:
    """Returns a claim by its key.

    >>> print(claim("bf16-matmul-2.82").verdict)
    holds if

    Args:
        key: Key of one of `CLAIMS`.

    Raises:
        ValueError: If there is none; the message offers similar keys.
    """
    found = {one.key: one for one in CLAIMS}
    if key not in found:
        hint = did_you_mean(key, found).strip() or f"there are {', '.join(found)}"
        raise ValueError(f"unknown claim {key!r}: {hint}")
    return found[key]
