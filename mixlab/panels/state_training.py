"""A training under the state controls: its loss, swallowed updates and second moments, while it runs."""

from __future__ import annotations

from dataclasses import replace

import ipywidgets as widgets

from mixlab.arguments import require_whole
from mixlab.experiments import WatchedStep, spiked_steps, watched_steps
from mixlab.panels.curves import Charts, free_place, line_style
from mixlab.panels.live import Job, LiveTraining, changed_words
from mixlab.panels.state_controls import StateControls
from mixlab.reports import diverged, progress_line
from mixlab.reports.columns import watched_columns
from mixlab.training import Task, Trainer, Training, outcome

_MOST_RUNS = 4  # finished ones that stay to compare
_CHARTS: list[dict[str, object]] = [
    {"column": "loss", "title": "loss", "format": "short", "fromZero": True, "note": True},
    {
        "column": "swallowed",
        "title": "updates that rounding swallows",
        "format": "percent",
        "range": [0, 1],
        "sparse": True,
    },
    {
        "column": "stuck",
        "title": "second moments that fail to fall",
        "format": "percent",
        "range": [0, 1],
        "sparse": True,
    },
    {
        "column": "v",
        "x": "exponent",
        "xFormat": "power",
        "xTitle": "magnitude of v",
        "title": "second moments now",
        "format": "percent",
        "floor": [0, 0.05],
        "stairs": True,
    },
]


class StateTraining(LiveTraining[WatchedStep]):
    """Trains a task with the settings of the controls, and draws what its optimizer loses; the latest runs stay.

    Args:
        task: The task, with Adam or AdamW; the controls set the learning rate.
        controls: Their knobs are shown above; what they cost is not.
        steps: Steps of a training; a spike comes after a third of them.
        seed: Seed of weights and batches.

    Raises:
        ValueError: If `steps` is not a whole number from 1 up.
    """

    def __init__(self, task: Task, controls: StateControls, *, steps: int = 600, seed: int = 0) -> None:
        require_whole("StateTraining: steps", steps, 1)
        self._task, self._controls, self._steps, self._seed = task, controls, steps, seed
        self.runs: dict[str, list[WatchedStep]] = {}
        self._places: dict[str, int] = {}  # of each run's style: it keeps its colour whatever becomes of the others
        super().__init__()
        self.charts = Charts(charts=_CHARTS)
        note = widgets.HTML(f"<small>The latest {_MOST_RUNS} trainings stay here until the kernel ends.</small>")
        self.children = [
            controls.knobs,
            controls.errors,
            self.buttons,
            self.status_line,
            self.errors,
            self.charts,
            note,
        ]
        self._show_runs()

    def inherit(self, earlier: LiveTraining[WatchedStep]) -> None:
        if isinstance(earlier, StateTraining):
            self.runs |= earlier.runs
            self._places |= {label: earlier._places[label] for label in earlier.runs}

    def new_job(self) -> Job[WatchedStep]:
        controls = self._controls
        controls.recipe_controls.require_readable()
        trainer = Trainer(replace(self._task, lr=controls.lr), controls.recipe, seed=self._seed, device="cpu")
        spike_at = self._steps // 3 if controls.spike else None
        steps = spiked_steps(trainer, self._steps, at=spike_at)
        every = max(1, self._steps // 100)
        self._place = free_place(self._places.values())
        return Job(controls.label, Training(watched_steps(trainer, steps, every=every)), self._steps)

    def progress(self, job: Job[WatchedStep]) -> str:
        words = f"{job.label}: {progress_line([step.record for step in job.training.history], job.steps)}"
        return words + changed_words(self._controls.label != job.label)

    def paint(self, job: Job[WatchedStep]) -> None:
        live = _series(f"{job.label} (running)", job.training.history, self._place)
        with self.charts.hold_sync():
            self.charts.live = live
            self.charts.summary = self.progress(job)

    def finish(self, job: Job[WatchedStep]) -> str:
        steps = list(job.training.history)
        if steps:
            self.runs.pop(job.label, None)
            self.runs[job.label] = steps
            self._places[job.label] = self._place
        self._show_runs()
        return _outcome(steps)

    def _show_runs(self) -> None:
        for label in list(self.runs)[:-_MOST_RUNS]:
            del self.runs[label], self._places[label]
        with self.charts.hold_sync():
            self.charts.finished = [_series(*run, self._places[run[0]]) for run in self.runs.items()]
            self.charts.live = {}
            words = "; ".join(f"{label}: {_outcome(run)}" for label, run in self.runs.items())
            self.charts.summary = words or "no training yet"


def _outcome(steps: list[WatchedStep]) -> str:
    words = outcome([step.record for step in steps])
    last = next((step.lost for step in reversed(steps) if step.lost is not None), None)
    return words if last is None else f"{words}; at the end {last.swallowed} of the updates swallowed"


def _series(label: str, steps: list[WatchedStep], index: int) -> dict[str, object]:
    note = diverged([step.record for step in steps])
    return {"label": label, **line_style(index), "note": note, **watched_columns(steps)}
