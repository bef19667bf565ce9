"""Measures this machine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.benchmark import Timer

from mixlab.formats import BF16, FP16, FP32, TF32, Format


@dataclass(frozen=True)
class MatmulSpeed:
    """How fast one format multiplies matrices.

    Attributes:
        gflops: Median of 10^9 floating-point operations a second, 2 * size^3 a product.
        low, high: Its quartiles.
    """

    format: str
    device: str
    size: int
    gflops: float
    low: float
    high: float


def matmul_speeds(device: torch.device | str, *, size: int = 512) -> tuple[MatmulSpeed, ...]:
    """Measures products of two (size, size) matrices in each format that torch multiplies natively on the device.

    Takes about two seconds on a CPU. The result of a product is in the format of its operands; tf32 is float32 storage
    multiplied in tf32, on GPUs only.
    """
    device = torch.device(device)
    formats = (FP32, TF32, BF16, FP16) if device.type == "cuda" else (FP32, BF16, FP16)
    return tuple(_matmul_speed(fmt, device, size) for fmt in formats)


def _matmul_speed(fmt: Format, device: torch.device, size: int) -> MatmulSpeed:
    a, b = (torch.randn(size, size, device=device).to(fmt.dtype or torch.float32) for _ in range(2))
    tf32_before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = fmt == TF32
    try:
        timer = Timer("a @ b", globals={"a": a, "b": b}, num_threads=torch.get_num_threads())
        seconds = timer.blocked_autorange(min_run_time=0.2).times
    finally:
        torch.backends.cuda.matmul.allow_tf32 = tf32_before
    gflops = 2 * size**3 / np.array(seconds) / 1e9
    low, median, high = (float(value) for value in np.quantile(gflops, [0.25, 0.5, 0.75]))
    return MatmulSpeed(fmt.name, str(device), size, median, low, high)
