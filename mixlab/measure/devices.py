"""Helpers for measurements on a device: free its memory, and read the clock once its work is done."""

from __future__ import annotations

import gc
import time

import torch


def free(device: torch.device) -> None:
    """Frees the memory that nothing uses any more, including CUDA's cached blocks."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def clock_s(device: torch.device) -> float:
    """Waits until the device has done all its work, and returns the time in seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
