"""CUDA's mixed precision on a CPU: its autocast, its tensor cores, and what autocast does to each op of a model."""

from mixlab.emulation.cast_traces import CastTrace, TracedOp, cast_trace
from mixlab.emulation.contexts import arithmetic, autocast

__all__ = [
    "CastTrace",
    "TracedOp",
    "arithmetic",
    "autocast",
    "cast_trace",
]
