"""The roofline: how fast work can run at best, from its FLOP per byte and a machine's peak and bandwidth.

Work of W FLOP that moves Q bytes needs at least W / peak seconds to compute and Q / bandwidth seconds to move. If both
happen at the same time, it takes the longer of the two, so its speed is at most min(peak, bandwidth * W / Q). The two
limits meet at the ridge point, peak / bandwidth FLOP per byte: below it work is memory-bound, above it compute-bound
(Williams, Waterman, Patterson, Roofline: An Insightful Visual Performance Model, 2009).

A roof says what is impossible, not what is reached: kernels also start, wait, and leave parts of the chip idle.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

from mixlab.arguments import did_you_mean
from mixlab.formats import BF16, E2M1FN, E4M3FN, E4M3FNUZ, E5M2, E5M2FNUZ, FP16, FP32, TF32
from mixlab.machine import Gpu
from mixlab.matmul.products import Matmul, require_matmul
from mixlab.memory import GpuSpec, gpu_spec

# The names under which data sheets have the formats that GPUs multiply; the fnuz ones are those of AMD's MI300.
_FAMILIES = {
    **{fmt: fmt.name for fmt in (FP32, TF32, FP16, BF16)},
    **dict.fromkeys((E4M3FN, E5M2, E4M3FNUZ, E5M2FNUZ), "fp8"),
    E2M1FN: "fp4",
}
_LARGEST = sys.float_info.max  # a whole number beyond it is below infinity too


@dataclass(frozen=True)
class Roof:
    """The limits of a machine in one format.

    >>> roof = Roof("a laptop", "fp32", peak_flops=2e11, bandwidth=4e10)
    >>> roof.ridge_point, roof.attainable(1.0), roof.limit(1.0), roof.seconds(flops=10**9, bytes_moved=10**9)
    (5.0, 40000000000.0, 'memory', 0.025)

    Args:
        name: The machine.
        format: What is multiplied: a format's name, or a family such as "fp8" and "fp4".
        peak_flops: Peak FLOP/s of products in this format.
        bandwidth: Bytes/s of memory.
        source: Where the numbers come from: a data sheet, or a measurement.

    Raises:
        ValueError: If a number is not positive and finite.
    """

    name: str
    format: str
    peak_flops: float
    bandwidth: float
    source: str = ""

    def __post_init__(self) -> None:
        for name in ("peak_flops", "bandwidth"):
            _require_positive(f"Roof {self.name}: {name}", getattr(self, name))

    @property
    def ridge_point(self) -> float:
        """FLOP per byte from which on the peak is the limit."""
        return self.peak_flops / self.bandwidth

    def attainable(self, intensity: float) -> float:
        """Returns the FLOP/s that work can have at most.

        Args:
            intensity: Its FLOP per byte moved, above 0.

        Raises:
            ValueError: If it is not positive and finite.
        """
        _require_positive("attainable: intensity", intensity)
        return min(self.peak_flops, self.bandwidth * intensity)

    def limit(self, intensity: float) -> Literal["memory", "compute"]:
        """Returns what limits work: "memory" below the ridge point, "compute" from it on.

        Args:
            intensity: Its FLOP per byte moved, above 0.

        Raises:
            ValueError: If it is not positive and finite.
        """
        _require_positive("limit: intensity", intensity)
        return "memory" if intensity < self.ridge_point else "compute"

    def seconds(self, flops: float, bytes_moved: float) -> float:
        """Returns the least seconds that work takes.

        Args:
            flops: Its floating-point operations, from 0 up: 0 for a copy.
            bytes_moved: The bytes that it moves, from 0 up.

        Raises:
            ValueError: If a number is negative or not finite.
        """
        for name, value in (("flops", flops), ("bytes_moved", bytes_moved)):
            if value != 0:
                _require_positive(f"seconds: {name}", value, least="0 or ")
        return max(flops / self.peak_flops, bytes_moved / self.bandwidth)


@dataclass(frozen=True)
class RooflinePoint:
    """One piece of work to draw below a roof.

    Args:
        name: What it is.
        format: The format of the roof below which it lies.
        intensity: FLOP per byte moved.
        speed: FLOP/s as measured; None for a prediction, which lies on the roof.

    Raises:
        ValueError: If a number is not positive and finite.
    """

    name: str
    format: str
    intensity: float
    speed: float | None = None

    def __post_init__(self) -> None:
        _require_positive(f"RooflinePoint {self.name}: intensity", self.intensity)
        if self.speed is not None:
            _require_positive(f"RooflinePoint {self.name}: speed", self.speed)


def roofs_of(gpu: str | GpuSpec | Gpu) -> tuple[Roof, ...]:
    """Returns the roofs of a GPU, one for each format that it multiplies, from its data sheet.

    >>> [(roof.format, round(roof.ridge_point)) for roof in roofs_of("h100-sxm")]
    [('fp32', 20), ('tf32', 148), ('fp16', 295), ('bf16', 295), ('fp8', 591)]

    Args:
        gpu: As in `mixlab.memory.gpu_spec`.

    Raises:
        TypeError: If `gpu` is of another type.
        ValueError: If the GPU is unknown.
    """
    spec = gpu_spec(gpu)
    source = f"data sheet: {spec.source}" if spec.source else ""
    return tuple(Roof(spec.name, fmt, peak, spec.bandwidth, source) for fmt, peak in spec.peak_flops.items())


def roof_for(matmul: Matmul, gpu: str | GpuSpec | Gpu) -> Roof:
    """Returns the roof of a GPU for the operand formats of a product.

    >>> roof_for(Matmul(1, 4096, 4096, "e4m3fn", "e5m2"), "h100-sxm").format
    'fp8'

    Args:
        matmul: The product. Data sheets give peaks for fp32 accumulators; its own accumulator is not looked at.
        gpu: As in `mixlab.memory.gpu_spec`.

    Raises:
        TypeError: If `matmul` or `gpu` is of another type.
        ValueError: If the GPU is unknown or does not multiply these formats; the message lists those that it does.
    """
    require_matmul("roof_for", matmul)
    roofs = {roof.format: roof for roof in roofs_of(gpu)}
    names = [_FAMILIES.get(fmt, fmt.name) for fmt in (matmul.a, matmul.b)]
    if names[0] != names[1]:
        raise ValueError(f"roof_for: A and B must be of one format, or both of fp8, got {matmul.a} and {matmul.b}")
    if names[0] not in roofs:
        hint = did_you_mean(names[0], roofs)
        raise ValueError(f"roof_for: {gpu} has no peak for {matmul.a}: {hint}it multiplies {', '.join(roofs)}")
    return roofs[names[0]]


def _require_positive(what: str, value: object, *, least: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _LARGEST:
        raise ValueError(f"{what} must be {least}a positive number, got {value!r:.60}")
