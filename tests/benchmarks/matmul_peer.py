"""Speeds of `measure_matmul` against a loop of torch.matmul written by hand, in one process.

    python tests/benchmarks/matmul_peer.py [SIZE ...]

Goal: at the largest size, at least 0.95 of what the loop reaches, in every format. The loop multiplies two row-major
matrices and takes a new matrix for each product; ours multiplies by a transposed weight, into a matrix that is there.
Both take turns. Default sizes: 1024 2048 4096 on a CPU; 2048 4096 8192 on CUDA.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch

from mixlab.machine import describe
from mixlab.measure import measure_matmul

TURNS = 5


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def by_hand(size: int, dtype: torch.dtype, device: torch.device) -> float:
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    calls = max(1, int(2e13 / size**3)) if device.type == "cuda" else 1
    torch.matmul(a, b)
    speeds = []
    for _ in range(3):
        wait(device)
        began_s = time.perf_counter()
        for _ in range(calls):
            torch.matmul(a, b)
        wait(device)
        speeds.append(2 * size**3 * calls / (time.perf_counter() - began_s) / 1e12)
    return float(np.median(speeds))


def main(*sizes: int) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sizes = sizes or ((2048, 4096, 8192) if device.type == "cuda" else (1024, 2048, 4096))
    gpus = ", ".join(gpu.name for gpu in describe().gpus)
    print(f"{describe().summary}; {gpus or f'{torch.get_num_threads()} threads'}; seed 0, {TURNS} turns")
    for fmt, dtype in (("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)):
        for size in sizes:
            shape = f"{size}x{size}x{size}"
            ours, theirs = [], []
            for _ in range(TURNS):
                record = measure_matmul(device, formats=[fmt], shapes=[shape], numel=4096, rounds=3, budget_s=60)
                ours.append(record[f"{fmt} {shape}"].median / 1e3)
                theirs.append(by_hand(size, dtype, device))
            low, median, high = np.quantile(np.array(ours) / np.array(theirs), [0.25, 0.5, 0.75])
            goal = "  goal: at least 0.95" if size == max(sizes) else ""
            speeds = f"{np.median(ours):8.3f} TFLOP/s, by hand {np.median(theirs):8.3f}"
            print(f"{fmt} {size:6} {speeds}, ratio {median:.3f} ({low:.3f} to {high:.3f}){goal}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
