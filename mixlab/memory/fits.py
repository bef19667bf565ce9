"""Whether a training fits on a GPU: its tensors, and the memory outside them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from mixlab.machine import Gpu
from mixlab.memory.gpus import GpuSpec, gpu_spec
from mixlab.tables import gib

# Memory outside tensors: rough models, each with the value recorded on an H100.
# 32 MiB per thread on Hopper and later, 8 before, for the threads of forward and backward; recorded: 64 to 66 MiB.
CUBLAS_WORKSPACES = 2 * 32 * 2**20
CUDA_CONTEXT = 500 * 2**20  # driver and loaded kernels, 300 to 600 MiB; not recorded


@dataclass(frozen=True)
class Fit:
    """Whether a training fits on a GPU; `bool(fit)` is true if it does.

    Attributes:
        gpu: The GPU.
        needed: Bytes that the training needs, memory outside tensors included.
    """

    gpu: GpuSpec
    needed: int

    @property
    def room(self) -> int:
        """Bytes that are left; negative if the training does not fit."""
        return self.gpu.usable_bytes - self.needed

    @property
    def fraction(self) -> float:
        """Share of the GPU's usable memory that is needed."""
        return self.needed / self.gpu.usable_bytes

    def __bool__(self) -> bool:
        return self.room >= 0

    def __str__(self) -> str:
        word = "fits on" if self else "does not fit on"
        return f"{word} {self.gpu}: {gib(self.needed)} of {gib(self.gpu.usable_bytes)} GiB"


class MemoryNeeds(ABC):
    """What a training needs of a GPU, by a model or by a trace."""

    @property
    @abstractmethod
    def peak_bytes(self) -> int:
        """Peak bytes of tensors."""

    @property
    @abstractmethod
    def fragmentation(self) -> int:
        """Bytes that the caching allocator holds beyond the peak."""

    @property
    def outside(self) -> dict[str, int]:
        """Bytes outside tensors by kind: the rough models of `mixlab.memory.fits`, and the allocator's fragmentation.

        NCCL's buffers, which several GPUs need, are left out.
        """
        return {
            "cuBLAS workspaces": CUBLAS_WORKSPACES,
            "CUDA context": CUDA_CONTEXT,
            "fragmentation": self.fragmentation,
        }

    @property
    def total_bytes(self) -> int:
        """Peak bytes of tensors, plus the memory outside tensors."""
        return self.peak_bytes + sum(self.outside.values())

    def fits(self, gpu: str | GpuSpec | Gpu) -> Fit:
        """Returns whether the training fits on a GPU, and the bytes that are left or missing.

        Args:
            gpu: A GPU, or a name of `GPUS`.

        Raises:
            TypeError, ValueError: As `gpu_spec`.
        """
        return Fit(gpu_spec(gpu), self.total_bytes)
