"""A device before and after a measurement: memory given back, and clocks read when its work is done."""

from __future__ import annotations

import gc
import time

import torch


def free(device: torch.device) -> None:
    """Gives back the memory that nothing holds any more, CUDA's cached blocks included."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def clock_s(device: torch.device) -> float:
    """Returns the time in seconds, once the device has done all work that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
