"""A quick look at how fast this machine multiplies square matrices, format by format."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch.utils.benchmark import Timer

from mixlab.formats import BF16, FP16, FP32, TF32, Format
from mixlab.process import OFF, ON, TF32_SWITCHES, THREADS, measuring_threads


@dataclass(frozen=True)
class MatmulSpeed:
    """The speed of matrix products in one format.

    Attributes:
        format: Name of the format of both operands.
        device: Device that multiplied.
        size: Rows and columns of each matrix.
        gflops: Median speed in 10^9 floating-point operations per second, counting 2 * size^3 per product.
        low, high: First and third quartile of that speed.
    """

    format: str
    device: str
    size: int
    gflops: float
    low: float
    high: float


def matmul_speeds(device: torch.device | str, *, size: int = 512) -> tuple[MatmulSpeed, ...]:
    """Measures products of two (size, size) matrices in each format that torch multiplies natively on the device.

    Takes about two seconds on a CPU. A product has the format of its operands; tf32 stands for float32 matrices
    multiplied in tf32, on GPUs only.

    Args:
        device: Device to measure.
        size: Rows and columns of each matrix.

    Returns:
        One speed per format: fp32, tf32 (on CUDA), bf16, fp16.
    """
    device = torch.device(device)
    formats = (FP32, TF32, BF16, FP16) if device.type == "cuda" else (FP32, BF16, FP16)
    return tuple(_matmul_speed(fmt, device, size) for fmt in formats)


def _matmul_speed(fmt: Format, device: torch.device, size: int) -> MatmulSpeed:
    generator = torch.Generator(device).manual_seed(0)
    draw = partial(torch.randn, size, size, device=device, generator=generator)
    a, b = (draw().to(fmt.dtype or torch.float32) for _ in range(2))
    threads = measuring_threads()
    with TF32_SWITCHES.held(ON if fmt == TF32 else OFF), THREADS.held(threads):
        timer = Timer("a @ b", globals={"a": a, "b": b}, num_threads=threads)
        seconds = timer.blocked_autorange(min_run_time=0.2).times
    gflops = 2 * size**3 / np.array(seconds) / 1e9
    low, median, high = (float(value) for value in np.quantile(gflops, [0.25, 0.5, 0.75]))
    return MatmulSpeed(fmt.name, str(device), size, median, low, high)
