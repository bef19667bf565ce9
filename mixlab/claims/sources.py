"""What several claims refer to: publications, and the records of GPUs that are shipped."""

from __future__ import annotations

from functools import cache

from mixlab.measure import Record, shipped

ADAM = "Kingma and Ba, Adam, 2015."
IEEE = (
    "IEEE 754-2019 for fp32 and fp16; Kalamkar et al., A Study of BFLOAT16 for Deep Learning Training, 2019, for bf16."
)
MICIKEVICIUS = "Micikevicius et al., Mixed Precision Training, 2018."
ROOFLINE = "Williams, Waterman, Patterson, Roofline: An Insightful Visual Performance Model, 2009."
TORCH = "PyTorch, documentation and source of torch.amp, 2.13."
ZERO = "Rajbhandari et al., ZeRO: Memory Optimizations Toward Training Trillion Parameter Models, 2020."

OWED_PRODUCTS = "mixlab measure matmul on a GPU"
OWED_STATES = "mixlab measure states on a GPU"


@cache
def recorded_on_gpu(kind: str) -> Record:
    """Returns the first shipped record of a kind that was taken on a GPU."""
    return next(record for record in shipped(kind) if record.machine["gpus"])
