"""The categories of bytes in traces and estimates, and the phases of a training step."""

from __future__ import annotations

from typing import Literal, get_args

Phase = Literal["forward", "backward", "step"]
PHASES: tuple[Phase, ...] = get_args(Phase)

PARAMETERS = "parameters"
GRADIENTS = "gradients"
CASTS = "weights cast by autocast"
ACTIVATIONS = "activations"
TEMPORARIES = "temporaries"
BATCH = "batch and buffers"
