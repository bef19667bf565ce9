"""What a traced training needs of a GPU: its tensors, and the memory outside them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from mixlab.memory.allocator import replay_trace
from mixlab.memory.fits import MemoryNeeds
from mixlab.memory.traced_step import Trace
from mixlab.tables import gib, text_table


@dataclass(frozen=True)
class Needs(MemoryNeeds):
    """What a traced training needs of a GPU. Its repr is a table.

    >>> import torch
    >>> from mixlab.memory import trace
    >>> needs = Needs(trace(torch.nn.Linear(4096, 4096), (torch.ones(8, 4096), torch.arange(8)), "amp-bf16"))
    >>> print(needs.fits("t4"))
    fits on t4: 0.90 of 14.56 GiB

    Args:
        trace: A trace as on CUDA.

    Raises:
        TypeError: If `trace` is no trace.
        ValueError: If it is as on a CPU.
    """

    trace: Trace

    def __post_init__(self) -> None:
        if not isinstance(self.trace, Trace):
            raise TypeError(
                f"Needs: trace must be a Trace, got {type(self.trace).__name__}; mixlab.memory.trace makes one"
            )
        if self.trace.as_on != "cuda":
            raise ValueError('Needs: trace must be as on CUDA, got one as on a CPU; use trace(..., as_on="cuda")')

    @property
    def peak_bytes(self) -> int:
        """Peak bytes of tensors."""
        return self.trace.peak_bytes

    @cached_property
    def fragmentation(self) -> int:
        """Bytes that the caching allocator holds beyond the peak, by `replay_trace`."""
        return replay_trace(self.trace).reserved_bytes - self.peak_bytes

    def __repr__(self) -> str:
        rows = {"peak of tensors": self.peak_bytes, **self.outside, "total": self.total_bytes}
        return text_table(("what", "GiB"), [(name, gib(size)) for name, size in rows.items()])
