"""Runs every measurement within a time budget, one record per kind in a folder; a second call does what is missing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mixlab.files import refuse_unwritable
from mixlab.machine import usable_device
from mixlab.measure.casts import measure_cast
from mixlab.measure.emulation import measure_emulation
from mixlab.measure.matmul import measure_matmul
from mixlab.measure.memory import measure_memory
from mixlab.measure.memory_cases import cases
from mixlab.measure.optimizers import measure_optimizer
from mixlab.measure.record import Record
from mixlab.measure.requests import KINDS, STORAGE_RECIPES, require_budget, require_seed
from mixlab.measure.resuming import differences_from_here, earlier_record, is_finished
from mixlab.measure.states import measure_states
from mixlab.measure.training import measure_train

_LEAST_S = 5.0  # of the budget, to begin a measurement with

Progress = Callable[[float], None]


@dataclass(frozen=True)
class KindOutcome:
    """What became of one kind.

    Attributes:
        kind: A name of `KINDS`.
        path: Its record's file.
        state: "measured", "there already", "failed" or "no time".
        message: Why, for the last two; "" for the first two.
        seconds: What it took.
    """

    kind: str
    path: Path
    state: str
    message: str = ""
    seconds: float = 0.0

    @property
    def done(self) -> bool:
        """Whether the folder has the kind's record now."""
        return self.state in ("measured", "there already")


class _NoTimeError(Exception):
    """The budget is spent."""


def measure_all(
    folder: Path | str,
    device: torch.device | str | None = None,
    *,
    budget_s: float = 1800.0,
    seed: int = 0,
    command: str = "measure_all",
    progress: Callable[[str, float], None] = lambda _kind, _part: None,
) -> tuple[KindOutcome, ...]:
    """Runs every measurement and writes one record for each kind, KIND.json, in a folder.

    A kind whose finished record is there already is skipped, so that a second call does what the first left. Each kind
    may take an equal share of the time that is left: products are measured within it, and the others with as many
    rounds, steps and cases as usually fit. A measurement that outruns the budget, or three times its share, is given
    up; products keep what they have. One that fails is named, and the next begins.

    Args:
        folder: Folder of the records; it is created if its parent exists.
        device: Device to measure; None takes CUDA if available, else the CPU.
        budget_s: Seconds for all kinds together, about: a measurement ends at its next step once they are over.
        seed: Seed of random inputs.
        command: Command line to store in the records.
        progress: Called with the kind and its completed fraction, from 0 to 1.

    Returns:
        What became of each kind, in order.

    Raises:
        OSError: If the folder cannot be made or written.
        ValueError: If the device is unknown, or the budget is not a positive number.
    """
    require_budget("measure_all", budget_s)
    require_seed("measure_all", seed)
    device, folder = usable_device(device), Path(folder)
    folder.mkdir(exist_ok=True)
    refuse_unwritable(folder / f"{KINDS[0]}.json")
    ends_s = time.monotonic() + budget_s
    outcomes = []
    for number, kind in enumerate(KINDS):
        began_s = time.monotonic()
        left_s = ends_s - began_s
        share_s = left_s / (len(KINDS) - number)
        path = folder / f"{kind}.json"

        def watched(part: float, kind: str = kind, limit_s: float = min(ends_s, began_s + 3 * share_s)) -> None:
            progress(kind, part)
            if part < 1 and time.monotonic() > limit_s:
                raise _NoTimeError

        try:
            state, message = _one(kind, path, device, share_s, seed, command, watched)
        except _NoTimeError:
            state, message = "no time", "its share of the budget ended before it did; give a larger --budget"
        except Exception as error:  # whatever one measurement raises, the others go on
            state, message = "failed", next(iter(str(error).splitlines()), "") or type(error).__name__
        outcomes.append(KindOutcome(kind, path, state, message, time.monotonic() - began_s))
    return tuple(outcomes)


def _one(
    kind: str, path: Path, device: torch.device, share_s: float, seed: int, command: str, progress: Progress
) -> tuple[str, str]:
    """Measures one kind, unless its record is there, and returns its state and a message."""
    earlier = earlier_record(path, kind)
    if earlier is not None and is_finished(earlier):
        settings: Mapping[str, Any] = {"device": str(device)} if "device" in earlier.parameters else {}
        if apart := differences_from_here(earlier, seed, settings):
            return (
                "failed",
                f"{path.name} was measured otherwise: {'; '.join(apart)}; it is kept: choose another folder",
            )
        return "there already", ""
    if share_s < _LEAST_S:
        return "no time", "the budget was spent before; the same command continues"
    if kind == "matmul":
        # A stopped one goes on with the budget that it began with.
        budget_s = float(earlier.parameters["budget_s"]) if earlier else float(round(share_s))
        measure_matmul(device, budget_s=budget_s, seed=seed, path=path, command=command, progress=progress)
    else:
        _measured(kind, device, share_s, seed, command, progress).save(path)
    return "measured", ""


def _measured(kind: str, device: torch.device, share_s: float, seed: int, command: str, progress: Progress) -> Record:
    """Measures one kind with settings that usually take at most `share_s` on two cores, or on a GPU."""
    about: dict[str, Any] = {"seed": seed, "command": command, "progress": progress}
    scale = share_s / 120.0
    if kind == "cast":
        return measure_cast(device, rounds=_between(3, 7 * scale, 7), **about)
    if kind == "emulation":
        return measure_emulation(device, **about)
    if kind == "optimizer":
        recipes = STORAGE_RECIPES if scale >= 2 else STORAGE_RECIPES[::6]
        numel = 25_000_000 if scale >= 1 else 2_000_000
        modes = ("eager", "compiled") if scale >= 1 else ("eager",)
        rounds = _between(3, 7 * scale, 7)
        return measure_optimizer(device, numel=numel, recipes=recipes, modes=modes, rounds=rounds, **about)
    if kind == "train":
        return measure_train(device, steps=_between(5, 20 * scale, 20), **about)
    if kind == "memory":
        names = [case.name for case in cases(device.type, None)]
        return measure_memory(device, names=names[: _between(4, len(names) * scale, len(names))], **about)
    runs = 7500 * scale / 20  # steps times seeds: all 1500 times 5 take some forty minutes
    seeds = 5 if runs >= 7500 else 2
    return measure_states(steps=_between(100, runs / seeds, 1500), seeds=seeds, **about)


def _between(low: int, value: float, high: int) -> int:
    return min(max(int(value), low), high)
