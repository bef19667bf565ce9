"""A training watched while it runs: what its optimizer loses, and where its second moments lie."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce

from mixlab.probes import Histogram, Lost, track_updates
from mixlab.probes.update_tracking import state_of
from mixlab.training import StepRecord, Trainer


@dataclass(frozen=True)
class WatchedStep:
    """One step of a training, with what its optimizer lost.

    Attributes:
        record: Of the step.
        lost: Over all parameters; None of a step that was not watched, or skipped.
        second_moments: The magnitudes of all second moments after the step; None as well of an optimizer without.
    """

    record: StepRecord
    lost: Lost | None
    second_moments: Histogram | None


def watched_steps(trainer: Trainer, steps: Iterable[StepRecord], *, every: int = 10) -> Iterator[WatchedStep]:
    """Yields each of a trainer's steps, and watches each n-th of them.

    Args:
        trainer: Whose steps they are.
        steps: E.g. `trainer.steps(300)`.
        every: From 1 up.
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
