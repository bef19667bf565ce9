"""A quick look at how fast this machine multiplies square matrices, format by format."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch.utils.benchmark import Timer

from mixlab.formats import BF16, FP16, FP32, TF32, Format
from mixlab.process import OFF, ON, TF32_SWITCHES, THREADS, measuring_threads

_ROUNDS = 9
_ROUND_S = 0.02  # each format's share of a round


@dataclass(frozen=True)
class MatmulSpeed:
    """The speed of matrix products in one format.

    Attributes:
        format: Name of the format of both operands.
        device: Device that multiplied.
        size: Rows and columns of each matrix.
        gflops: Median speed in 10^9 floating-point operations per second, counting 2 * size^3 per product.
        low, high: Lowest and highest of the speeds.
        count: How many speeds were measured.
    """

    format: str
    device: str
    size: int
    gflops: float
    low: float
    high: float
    count: int


def matmul_speeds(device: torch.device | str, *, size: int = 512) -> tuple[MatmulSpeed, ...]:
    """Measures products of two (size, size) matrices in each format that torch multiplies natively on the device.

    The formats take turns, so that a change of the machine's load meets them all. Takes about a second on a CPU. A
    product has the format of its operands; tf32 stands for float32 matrices multiplied in tf32, on GPUs only.

    Args:
        device: Device to measure.
        size: Rows and columns of each matrix.

    Returns:
        One speed per format: fp32, tf32 (on CUDA), bf16, fp16.
    """
    device = torch.device(device)
    formats = (FP32, TF32, BF16, FP16) if device.type == "cuda" else (FP32, BF16, FP16)
    timers = {fmt: _timer(fmt, device, size) for fmt in formats}
    products = {fmt: max(1, int(_ROUND_S / _seconds(fmt, timer, 1))) for fmt, timer in timers.items()}
    rounds = [[_seconds(fmt, timers[fmt], products[fmt]) for fmt in formats] for _ in range(_ROUNDS)]
    gflops = 2 * size**3 / np.array(rounds) / 1e9  # (rounds, formats)
    return tuple(
        MatmulSpeed(fmt.name, str(device), size, float(np.median(own)), float(own.min()), float(own.max()), len(own))
        for fmt, own in zip(formats, gflops.T, strict=True)
    )


def _timer(fmt: Format, device: torch.device, size: int) -> Timer:
    generator = torch.Generator(device).manual_seed(0)
    draw = partial(torch.randn, size, size, device=device, generator=generator)
    a, b = (draw().to(fmt.dtype or torch.float32) for _ in range(2))
    return Timer("a @ b", globals={"a": a, "b": b}, num_threads=measuring_threads())


def _seconds(fmt: Format, timer: Timer, products: int) -> float:
    """Returns the seconds that one product takes, as the mean of several."""
    with TF32_SWITCHES.held(ON if fmt == TF32 else OFF), THREADS.held(measuring_threads()):
        return float(timer.timeit(products).mean)
