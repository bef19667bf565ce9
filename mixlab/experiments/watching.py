"""A training that is watched while it runs: what its optimizer loses, and how large its second moments are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce

from mixlab.probes import Histogram, Lost, track_updates
from mixlab.probes.step_losses import state_of
from mixlab.training import StepRecord, Trainer


@dataclass(frozen=True)
class WatchedStep:
    """One step of a training, and what its optimizer lost.

    Attributes:
        record: The step's record.
        lost: The losses of all parameters together; None if the step was skipped or not watched.
        second_moments: The magnitudes of all second moments after the step; None in the same cases, or if the optimizer
            has none.
    """

    record: StepRecord
    lost: Lost | None
    second_moments: Histogram | None


def watched_steps(trainer: Trainer, steps: Iterable[StepRecord], *, every: int = 10) -> Iterator[WatchedStep]:
    """Yields a trainer's steps, and watches every n-th of them.

    Args:
        trainer: The trainer.
        steps: Its steps, e.g. `trainer.steps(300)`.
        every: n, from 1 up.

    Raises:
        ValueError: If `every` is not a whole number from 1 up.
    """
    with track_updates(trainer.model, trainer.optimizer, every=every) as seen:
        known = 0
        for record in steps:
            lost = seen.by_step()[-1] if len(seen) > known else None
            known = len(seen)
            yield WatchedStep(record, lost, _second_moments(trainer) if lost else None)


def _second_moments(trainer: Trainer) -> Histogram | None:
    parameters = list(trainer.model.parameters())
    states = [state for p in parameters if (state := state_of(trainer.optimizer, p, "exp_avg_sq")) is not None]
    return reduce(Histogram.__add__, (Histogram.of(state.float()) for state in states)) if states else None
