"""Measures how a training changes when Adam's moments or the weights are stored in fewer bits, over several seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from mixlab.experiments import GridSetting, final_loss, moment_settings, weight_settings
from mixlab.measure.record import Record, Series, now, record_here
from mixlab.measure.requests import check_states


def measure_states(
    *,
    settings: Sequence[GridSetting] | None = None,
    steps: int = 1500,
    spike_at: int = 50,
    seeds: int = 5,
    seed: int = 0,
    command: str = "measure_states",
    progress: Callable[[float], None] = lambda _part: None,
) -> Record:
    """Trains digits on the CPU under every setting with every seed, and records the final loss and accuracy.

    If runs of a setting diverge, the record's parameters say how many; its series hold the other runs, if any.

    Args:
        settings: Settings to train; None takes all of `mixlab.experiments.moment_settings` and `weight_settings`, which
            takes half an hour on one core.
        steps: Steps of each run.
        spike_at: Step with the gradient spike, counted from 0.
        seeds: Runs of each setting.
        seed: Seed of the first run; each further run takes the next seed.
        command: Command line to store in the record.
        progress: Called with the completed fraction, from 0 to 1.

    Raises:
        ValueError: If a number is out of range or there are no settings.
    """
    if settings is None:
        settings = list(dict.fromkeys([*moment_settings(), *weight_settings()]))
    check_states(steps=steps, spike_at=spike_at, seeds=seeds, seed=seed)
    if not settings:
        raise ValueError("measure_states: settings must not be empty; None takes all")
    date, series, notes = now(), [], {}
    for number, setting in enumerate(settings):
        ends = []
        for one in range(seeds):
            ends.append(final_loss(setting, steps=steps, spike_at=spike_at, seed=seed + one))
            progress((number + (one + 1) / seeds) / len(settings))
        finite = [end for end in ends if math.isfinite(end[0])]
        if len(finite) < seeds:
            notes[str(setting)] = f"diverged: {seeds - len(finite)} of {seeds} runs"
        if finite:
            losses, accuracies = zip(*finite, strict=True)
            series += [Series(f"{setting}, loss", "nats", losses), Series(f"{setting}, accuracy", "1", accuracies)]
    return record_here(
        "states",
        series,
        date=date,
        seed=seed,
        command=command,
        parameters={
            "task": "digits-adam",
            "steps": steps,
            "spike at step": spike_at,
            "seeds": seeds,
            "threads": torch.get_num_threads(),
            **notes,
        },
    )
