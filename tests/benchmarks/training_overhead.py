"""What probing and emulation cost on the character GPT, as ratios of paired steps in one process.

    python tests/benchmarks/training_overhead.py [ROUNDS]

Every round takes one step of each kind, in turn, so that whatever slows the machine down slows all of them. The ratio
of a kind is the median over the rounds of its time over the plain fp32 step's of the same round.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch

from mixlab import Recipe, Trainer, load_task, track
from mixlab.machine import describe


def main(rounds: int = 40) -> None:
    for threads in sorted({1, torch.get_num_threads()}):
        torch.set_num_threads(threads)
        compare(rounds)


def compare(rounds: int) -> None:
    task = load_task("chars-gpt")
    trainers = {
        name: Trainer(task, Recipe.parse(recipe), device="cpu")
        for name, recipe in [
            ("fp32", "fp32"),
            ("fp32, sampled probe", "fp32"),
            ("fp32, exact probe", "fp32"),
            ("amp-fp16 emulated", "amp-fp16"),
            ("amp-bf16 emulated", "amp-bf16"),
        ]
    }
    probes = {"fp32, sampled probe": {}, "fp32, exact probe": {"sample": None}}
    bounds = {"fp32, sampled probe": 1.15, "fp32, exact probe": 1.5, "amp-fp16 emulated": 1.5, "amp-bf16 emulated": 1.5}
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for round_ in range(rounds + 3):
        for name, trainer in trainers.items():
            started = time.perf_counter()
            if name in probes:
                with track(trainer.model, kinds=("activation", "gradient"), **probes[name]) as probe:
                    next(trainer.steps(1))
                assert len(probe) > 50
            else:
                next(trainer.steps(1))
            if round_ >= 3:
                seconds[name].append(time.perf_counter() - started)
    print(f"{describe().summary}; {torch.get_num_threads()} threads; {task.name}, {rounds} rounds, seed 0")
    for name, times in seconds.items():
        ratios = np.array(times) / np.array(seconds["fp32"])
        low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        goal = f"  goal: at most {bounds[name]}" if name in bounds else ""
        print(f"{name:22} {np.median(times) * 1e3:7.1f} ms   ratio {median:.2f} ({low:.2f} to {high:.2f}){goal}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
