"""One weight under the microscope: exact, and stored as the controls say."""

from __future__ import annotations

import ipywidgets as widgets

from mixlab.experiments import Recording, Trajectory, follow_weight
from mixlab.formats import FP32, Format
from mixlab.optimizers import largest_stalled_significand, smallest_effective_lr
from mixlab.panels.base import status_html
from mixlab.panels.curves import Charts, line_style
from mixlab.panels.presence import Present
from mixlab.panels.state_controls import StateControls
from mixlab.recipes import Recipe
from mixlab.reports.columns import trajectory_columns

_BETA2 = 0.999  # Adam's default, which the tasks use
_POWER: dict[str, object] = {"format": "power", "whole": True}
_CHARTS: list[dict[str, object]] = [
    {"column": "change", "title": "how far the weight has gone", "format": "short", "stairs": True},
    {"column": "reach", "title": "update / gap (lost below 2⁻¹)", "line": -1, **_POWER},
    {"column": "exp_avg", "title": "first moment m", "format": "short", "stairs": True},
    {"column": "exp_avg_sq", "title": "second moment v", "stairs": True, **_POWER},
]


class Microscope(Present, widgets.VBox):  # type: ignore[misc]
    """Replays a recorded training under the recipe of the controls, beside float32, and redraws when they change.

    Both use the learning rate of the controls.

    Args:
        recording: From `record_gradients`.
        controls: Shown above; they may be shown elsewhere on the page too.

    Attributes:
        exact: The trajectory in float32.
        stored: The trajectory under the recipe of the controls.
    """

    def __init__(self, recording: Recording, controls: StateControls) -> None:
        self._recording = recording
        self._controls = controls
        self.charts = Charts(charts=_CHARTS, heading="One weight")
        self._words = widgets.HTML()
        super().__init__([controls, self._words, self.charts])
        self._draw()
        controls.changed.append(self._draw)

    @property
    def status(self) -> str:
        """What is shown, in words."""
        return _words(self._controls.lr, self.exact, self.stored)

    def __repr__(self) -> str:
        return f"Microscope: {self.status}"

    def _draw(self) -> None:
        recording = self._recording.at(self._controls.lr)
        spike_at = len(recording.gradients) // 3 if self._controls.spike else None
        self.exact = follow_weight(recording, Recipe(), spike_at=spike_at)
        self.stored = follow_weight(recording, self._controls.recipe, spike_at=spike_at)
        runs = [("exact (fp32)", self.exact), (f"as stored: {self._controls.recipe}", self.stored)]
        with self.charts.hold_sync():
            self.charts.finished = [
                {"label": label, **line_style(index), **trajectory_columns(trajectory)}
                for index, (label, trajectory) in enumerate(runs)
            ]
            self.charts.summary = self.status
        self._words.value = status_html(self.status)


def _words(lr: float, exact: Trajectory, stored: Trajectory) -> str:
    return (
        f"{_steps(len(stored.update))} at lr {lr:g}. Exact: the weight goes from {exact.weight[0]:.5g} by "
        f"{exact.gone:+.3g}. As stored, in {stored.recipe.weights}: it moves in {_steps(stored.moved)}, by "
        f"{stored.gone:+.3g}. {' '.join(_theory(stored))}"
    )


def _steps(count: int) -> str:
    return f"{count} step" if count == 1 else f"{count} steps"


def _theory(stored: Trajectory) -> list[str]:
    """Returns sentences on what follows from the formats alone."""
    recipe, said = stored.recipe, []
    if recipe.weights != FP32 and recipe.update in ("nearest_even", "per_op") and not recipe.master_weights:
        least = smallest_effective_lr(recipe.weights, stored.weight[0])
        said.append(f"Half the gap to its next {recipe.weights} value is {least:.3g}: smaller updates are lost.")
    v = recipe.exp_avg_sq
    if isinstance(v, Format) and largest_stalled_significand(v, _BETA2) >= 2:
        way = "falls by chance, but correctly on average" if recipe.state_rounding == "stochastic" else "cannot fall"
        said.append(f"v in {v} {way}: {1 - _BETA2:.1%} of it is less than half a gap.")
    return said
