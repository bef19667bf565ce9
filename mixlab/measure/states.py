"""Measures what storing Adam's moments and the weights in fewer bits does to a training, over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from mixlab.experiments import Setting, final_loss, moment_settings, weight_settings
from mixlab.measure.record import Record, Series, now, this_machine


def measure_states(
    *,
    settings: Sequence[Setting] | None = None,
    steps: int = 1500,
    spike_at: int = 50,
    seeds: int = 5,
    seed: int = 0,
    command: str = "measure_states",
    progress: Callable[[float], None] = lambda _part: None,
) -> Record:
    """Trains digits under every setting with every seed, and records loss and accuracy at the end.

    A setting of which a run diverges is named in the record's parameters, with how many of its runs did; its series
    hold the others, if any.

    Args:
        settings: None takes all of `mixlab.experiments.storage_grid`: half an hour on one core.
        steps: Of each run.
        spike_at: The step with the spike, counted from 0.
        seeds: How many.
        seed: The first one; the others follow.
        command: What the record shall say was typed.
        progress: Called with the part done, from 0 to 1.

    Raises:
        ValueError: A number out of range, or no settings.
    """
    if settings is None:
        settings = list(dict.fromkeys([*moment_settings(), *weight_settings()]))
    for name, value, low in (("seeds", seeds, 1), ("steps", steps, 1)):
        if type(value) is not int or value < low:
            raise ValueError(f"measure_states: {name} must be a whole number from {low} up, got {value!r}")
    if not settings:
        raise ValueError("measure_states: settings must not be empty; mixlab.experiments.storage_grid has some")
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
    return Record(
        kind="states",
        machine=this_machine(),
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
        series=tuple(series),
    )
