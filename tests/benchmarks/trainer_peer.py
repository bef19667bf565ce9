"""The trainer against a loop written by hand, on the character GPT: paired steps in one process.

    python tests/benchmarks/trainer_peer.py [ROUNDS]

Both compute with the machine's own arithmetic; the loop is PyTorch's documented one. Goal: at most 3 % slower.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import torch
import torch.nn.functional as F

from mixlab import Recipe, Trainer, load_task
from mixlab.machine import describe


def by_hand(recipe: str) -> Iterator[float]:
    task = load_task("chars-gpt")
    model = task.seeded_model(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=task.lr)
    scaler = torch.amp.GradScaler("cpu", enabled="dynamic" in recipe)
    step = 0
    while True:
        inputs, targets = task.batch(0, step)
        with torch.autocast("cpu", dtype=torch.bfloat16) if "amp" in recipe else nullcontext():
            loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        step += 1
        yield loss.item()


def main(rounds: int = 60) -> None:
    print(f"{describe().summary}; {torch.get_num_threads()} threads; chars-gpt, {rounds} rounds, seed 0")
    for recipe in ("fp32", "amp-bf16", "amp-bf16,scaler=dynamic"):
        ours = Trainer(load_task("chars-gpt"), Recipe.parse(recipe), device="cpu", native=True).steps(rounds + 5)
        theirs = by_hand(recipe)
        seconds: dict[str, list[float]] = {"trainer": [], "by hand": []}
        for round_ in range(rounds + 5):
            pair = [("trainer", ours), ("by hand", theirs)]
            for name, steps in pair if round_ % 2 else reversed(pair):
                started = time.perf_counter()
                next(steps)
                if round_ >= 5:
                    seconds[name].append(time.perf_counter() - started)
        ratios = np.array(seconds["trainer"]) / np.array(seconds["by hand"])
        low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        medians = {name: f"{1e3 * np.median(times):.1f} ms" for name, times in seconds.items()}
        print(f"{recipe:26} {medians}  ratio {median:.3f} ({low:.3f} to {high:.3f})  goal: at most 1.03")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
