"""GPUs as data: memory, bandwidth and peak FLOP/s by format, with the source of the numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mixlab.arguments import did_you_mean
from mixlab.machine import Gpu

_USABLE = 0.91  # of the memory as sold, where no figure was found: the lowest share of those below
_PEAKS = ("fp32", "tf32", "fp16", "bf16", "fp8", "fp4")


@dataclass(frozen=True)
class GpuSpec:
    """A GPU's memory and peak speeds: whether a training fits, and how fast it could run at best.

    Attributes:
        name: Name in lower case, as `gpu_spec` takes it.
        memory_bytes: Memory as sold; a vendor's GB are GiB.
        bandwidth: Memory bandwidth in bytes/s.
        peak_flops: Peak FLOP/s by format ("fp32", "tf32", "fp16", "bf16", "fp8", "fp4") of dense products: on tensor
            cores with fp32 accumulation where the GPU has them, "fp32" without them. Formats that the GPU does not
            multiply are left out.
        seen_bytes: Total memory that CUDA or HIP reports to a process, without what ECC and the driver take; None if
            unknown. nvidia-smi shows 0.2 to 0.8 GiB more, the driver's part.
        source: Where the numbers come from, and which are uncertain.

    Raises:
        ValueError: If a number is not positive, or a format is unknown.
    """

    name: str
    memory_bytes: int
    bandwidth: float
    peak_flops: Mapping[str, float]
    seen_bytes: int | None = None
    source: str = ""

    def __post_init__(self) -> None:
        numbers = {"memory_bytes": self.memory_bytes, "bandwidth": self.bandwidth, **self.peak_flops}
        if self.seen_bytes is not None:
            numbers["seen_bytes"] = self.seen_bytes
        for name, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ValueError(f"GpuSpec {self.name}: {name} must be a positive number, got {value!r}")
        if unknown := set(self.peak_flops) - set(_PEAKS):
            raise ValueError(
                f"GpuSpec {self.name}: peak_flops must be keyed by {', '.join(_PEAKS)}, got {unknown.pop()!r}"
            )

    @property
    def usable_bytes(self) -> int:
        """Memory that a process can have: `seen_bytes`, or else 91 % of the memory as sold."""
        return self.seen_bytes if self.seen_bytes is not None else int(_USABLE * self.memory_bytes)

    def __str__(self) -> str:
        return self.name


# Memory in GiB as sold, and in GiB as PyTorch's out-of-memory messages in public logs give it ("total capacity"): the
# lowest of several, for it varies with driver and ECC. Bandwidth in GB/s, peaks in TFLOP/s, 0 for none. Peaks are
# dense: half of those marked "with sparsity". They are the vendors' numbers as quoted on the pages named; no vendor's
# own PDF was read. "?" marks recollected numbers, and those on which sources disagree.
_ROWS = (
    # name        sold    seen  GB/s  fp32   tf32    fp16    bf16     fp8    fp4
    ("v100-16gb", 16, 15.77, 900, (15.7, 0, 125, 0, 0, 0), "winston-zhang-orz/gpu-specs; SXM2"),
    ("v100-32gb", 32, 31.74, 900, (15.7, 0, 125, 0, 0, 0), "winston-zhang-orz/gpu-specs; SXM2"),
    ("t4", 16, 14.56, 320, (8.1, 0, 65, 0, 0, 0), "winston-zhang-orz/gpu-specs"),
    ("a10", 24, 21.99, 600, (31.2, 62.5, 125, 125, 0, 0), "astroC86/gpu-datasheet; others call the sparse 250 dense"),
    ("a100-40gb", 40, 39.49, 1555, (19.5, 156, 312, 312, 0, 0), "winston-zhang-orz/gpu-specs"),
    ("a100-80gb", 80, 79.14, 2039, (19.5, 156, 312, 312, 0, 0), "winston-zhang-orz/gpu-specs; SXM"),
    ("rtx-a6000", 48, 47.40, 768, (38.7, 77.4, 154.8, 154.8, 0, 0), "? all peaks and the bandwidth"),
    ("l4", 24, 22.03, 300, (30.3, 60, 121, 121, 242, 0), "winston-zhang-orz/gpu-specs"),
    ("l40s", 48, 44.39, 864, (91.6, 183, 362, 362, 733, 0), "winston-zhang-orz/gpu-specs"),
    ("rtx-3090", 24, 23.68, 936, (35.6, 35.6, 71, 71, 0, 0), "astroC86/gpu-datasheet; fp16 accumulation: 142"),
    ("rtx-4090", 24, 23.52, 1008, (82.6, 82.6, 165.2, 165.2, 330.3, 0), "waredb.com; fp16 accumulation: 330, fp8 661"),
    ("rtx-5090", 32, 31.36, 1792, (104.8, 104.8, 209.5, 209.5, 419, 1676), "VladislavDuma/gpu_specs; ? all but fp32"),
    ("h100-pcie", 80, 79.10, 2000, (51.2, 378, 756, 756, 1513, 0), "NVIDIA PB-11133 by manuals.plus; ? all but 756"),
    ("h100-sxm", 80, 79.10, 3350, (66.9, 494.7, 989.4, 989.4, 1978.9, 0), "glennklockwood.com/garden/processors/h100"),
    ("h200", 141, 139.72, 4800, (66.9, 494.7, 989.4, 989.4, 1978.9, 0), "astroC86/gpu-datasheet; SXM"),
    ("b200", 180, 178.35, 8000, (80, 1100, 2250, 2250, 4500, 9000), "glennklockwood.com, B200; ? 192 GB, fp32"),
    ("gb200", 186, 184.31, 8000, (90, 1250, 2500, 2500, 5000, 10000), "glennklockwood.com, B200; for one GPU; ? fp32"),
    ("mi300x", 192, 191.69, 5300, (163.4, 653.7, 1307.4, 1307.4, 2614.9, 0), "public code: 1307.4; ? the others"),
    ("mi355x", 288, 287.98, 8000, (157.3, 0, 2516.6, 2516.6, 5033, 10066), "boston-uk, aiwiki.ai; ? all but 2516"),
)

GPUS: dict[str, GpuSpec] = {
    name: GpuSpec(
        name,
        sold * 2**30,
        bandwidth * 1e9,
        {fmt: peak * 1e12 for fmt, peak in zip(_PEAKS, peaks, strict=True) if peak},
        int(seen * 2**30),
        source,
    )
    for name, sold, seen, bandwidth, peaks, source in _ROWS
}


# The drivers' product names, without "NVIDIA" in front. Products that share a chip's name but have other peaks, such as
# "H100 NVL", "H200 NVL", "A100X", "L40", "V100-PCIE" or a laptop's "RTX 4090 Laptop GPU", are left out.
_NAMES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("Tesla V100-SXM2-16GB", "Tesla V100-SXM2-32GB"), ("v100-16gb", "v100-32gb")),
    "Tesla T4": ("t4",),
    "A10": ("a10",),
    **dict.fromkeys(("A100-SXM4-40GB", "A100-PCIE-40GB"), ("a100-40gb",)),
    **dict.fromkeys(("A100-SXM4-80GB", "A100-SXM-80GB", "A100 80GB PCIe", "A100-PCIE-80GB"), ("a100-80gb",)),
    "RTX A6000": ("rtx-a6000",),
    "L4": ("l4",),
    "L40S": ("l40s",),
    "GeForce RTX 3090": ("rtx-3090",),
    "GeForce RTX 4090": ("rtx-4090",),
    "GeForce RTX 5090": ("rtx-5090",),
    "H100 PCIe": ("h100-pcie",),
    "H100 80GB HBM3": ("h100-sxm",),
    "H200": ("h200",),
    "B200": ("b200",),
    "GB200": ("gb200",),
    "AMD Instinct MI300X": ("mi300x",),
    "AMD Instinct MI355X": ("mi355x",),
}


def gpu_spec(gpu: str | GpuSpec | Gpu) -> GpuSpec:
    """Returns the GpuSpec of a GPU, given by name or found on this machine.

    >>> gpu_spec("H200").usable_bytes // 2**30
    139
    >>> gpu_spec("RTX 4090").peak_flops["bf16"] / 1e12
    165.2

    Args:
        gpu: A name of `GPUS` in any case, with hyphens or blanks; a `GpuSpec`, which is returned unchanged; or a
            `mixlab.machine.Gpu`, whose product name is looked up.

    Raises:
        TypeError: If `gpu` is none of these.
        ValueError: If the name or product is unknown; the message offers similar names.
    """
    if isinstance(gpu, GpuSpec):
        return gpu
    if isinstance(gpu, Gpu):
        return _of_this_machine(gpu)
    if not isinstance(gpu, str):
        raise TypeError(f"gpu_spec: gpu must be a name such as 'h200', a GpuSpec or a machine's Gpu, got {gpu!r}")
    name = "-".join(gpu.lower().replace("_", "-").split())
    if name in GPUS:
        return GPUS[name]
    beginning = [known for known in GPUS if name and name in known]
    hint = f"did you mean {' or '.join(beginning)}? " if beginning else did_you_mean(name, GPUS)
    raise ValueError(f"unknown GPU {gpu!r}: {hint}There are {', '.join(GPUS)}, or your own GpuSpec(...)")


def named_by_driver(name: str) -> tuple[GpuSpec, ...]:
    """Returns the rows of `GPUS` that a driver's product name stands for; they differ in memory only.

    The whole name must match: an RTX A1000 is not an A100, and a MIG slice is less than its GPU.

    >>> named_by_driver("NVIDIA H100 PCIe")[0].peak_flops["bf16"], named_by_driver("NVIDIA RTX A1000")
    (756000000000000.0, ())

    Args:
        name: Product name, such as `torch.cuda.get_device_name` returns.

    Returns:
        () for a name that is not known.
    """
    return tuple(GPUS[kind] for kind in _NAMES.get(" ".join(name.split()).removeprefix("NVIDIA "), ()))


def _of_this_machine(gpu: Gpu) -> GpuSpec:
    fitting = [known for known in named_by_driver(gpu.name) if 0.85 < gpu.memory_bytes / known.memory_bytes < 1.05]
    if len(fitting) == 1:
        known = fitting[0]
        return GpuSpec(gpu.name, known.memory_bytes, known.bandwidth, known.peak_flops, gpu.memory_bytes, known.source)
    raise ValueError(
        f"gpu_spec: {gpu.name} with {gpu.memory_bytes / 2**30:.0f} GiB is not among {', '.join(GPUS)}; "
        "give your own GpuSpec(name, memory_bytes, bandwidth, peak_flops)"
    )
