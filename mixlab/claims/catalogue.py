"""All claims, in the order in which they are made."""

from __future__ import annotations

from mixlab.claims.keys import KEYS, require_claim
from mixlab.claims.loss_scaling import CLAIMS as LOSS_SCALING
from mixlab.claims.matrix_products import CLAIMS as MATRIX_PRODUCTS
from mixlab.claims.memory_sizes import CLAIMS as MEMORY_SIZES
from mixlab.claims.number_formats import CLAIMS as NUMBER_FORMATS
from mixlab.claims.optimizer_states import CLAIMS as OPTIMIZER_STATES
from mixlab.claims.speed import CLAIMS as SPEED
from mixlab.claims.stability import CLAIMS as STABILITY
from mixlab.claims.torch_amp import CLAIMS as TORCH_AMP
from mixlab.claims.verdicts import Claim

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
    sorted((one for claims in SUBJECTS.values() for one in claims), key=lambda one: KEYS.index(one.key))
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
    require_claim(key)
    return next(one for one in CLAIMS if one.key == key)
