"""The claims by name, in the order in which they are made. Nothing here needs torch."""

from __future__ import annotations

from mixlab.arguments import did_you_mean

KEYS = (
    "trains-faster",
    "bulk-in-16-bits",
    "bytes-per-number",
    "memory-wall",
    "capacity-doubles",
    "smaller-numbers-travel-faster",
    "tensor-cores-8-to-16",
    "update-on-master-copy",
    "exponent-and-mantissa-bits",
    "value-formula",
    "bf16-range",
    "fp16-underflow",
    "scaled-gradient",
    "scale-brings-into-range",
    "super-linear-memory-access",
    "most-ops-memory-bound",
    "fails-without-scaling",
    "more-memory-per-parameter",
    "less-memory-in-all",
    "careful-tuning",
    "bf16-needs-loss-scaling",
    "overflow-sets-gradient-to-zero",
    "overflow-lowers-scale",
    "adam-first-moment-bf16",
    "adam-second-moment-bf16",
    "low-bit-adam",
    "blocks-reduce-reads",
    "bf16-reads-half",
    "bf16-larger-blocks",
    "bf16-matmul-2.82",
    "12n-bytes",
    "gradient-2n-bytes",
    "16n-bytes",
    "automatic-and-safe-casts",
    "torch-cuda-amp",
    "code-example",
    "autocast-casts-to-fp16",
    "temporary-16-bit-copy",
    "16-bit-gradients",
    "converted-back-and-divided",
    "scaler-skips-lowers-grows",
    "memory-of-the-modes",
    "amp-2-to-4-times",
    "pure-fp16-fastest",
    "amp-needs-tensor-cores",
    "stability-of-the-modes",
    "fp32-eps",
    "fp32-max",
    "fp32-smallest-normal",
    "fp16-eps",
    "fp16-max",
    "fp16-smallest-normal",
    "bf16-eps",
    "bf16-max",
    "bf16-smallest-normal",
    "precision-definition",
)


def require_claim(key: str) -> None:
    """Checks that a claim has this key.

    Args:
        key: One of `KEYS`.

    Raises:
        ValueError: If none has; the message offers similar keys.
    """
    if key not in KEYS:
        hint = did_you_mean(key, KEYS).strip() or f"there are {', '.join(KEYS)}"
        raise ValueError(f"unknown claim {key!r:.60}: {hint}")
