"""Curves of trainings, drawn on the client so that they can follow a running one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import anywidget
import traitlets

from mixlab.figures.training import curves, diverged, series_style
from mixlab.runs import outcome
from mixlab.trainer import StepRecord

# What plotly calls these dashes, as lengths in pixels.
_LENGTHS = {
    "solid": "",
    "dash": "8 5",
    "dot": "2 4",
    "dashdot": "8 4 2 4",
    "longdash": "14 6",
    "longdashdot": "14 5 2 5",
}


class Curves(anywidget.AnyWidget):
    """Loss, accuracy, loss scale and underflow over the steps, of several finished runs and one that is running.

    Traits:
        finished: Runs that stand still; sent when they change.
        live: The running one, or empty; sent again at every `paint`, some 10 KB.
        summary: The chart in words.
    """

    _esm = Path(__file__).parent / "curves.js"
    _css = Path(__file__).parent / "curves.css"
    finished: traitlets.List[dict[str, object]] = traitlets.List().tag(sync=True)
    live: traitlets.Dict[str, object] = traitlets.Dict().tag(sync=True)
    summary = traitlets.Unicode("no training yet").tag(sync=True)

    def show(self, runs: Mapping[str, Sequence[StepRecord]]) -> None:
        """Draws these finished runs, and no running one."""
        with self.hold_sync():
            self.finished = [_series(label, records, index) for index, (label, records) in enumerate(runs.items())]
            self.live = {}
            self.summary = self._words(runs)

    def paint(self, label: str, records: Sequence[StepRecord], *, steps: int) -> None:
        """Draws the running one as far as it has come on its way to `steps`, beside the finished ones."""
        with self.hold_sync():
            self.live = {**_series(label, records, len(self.finished)), "steps": steps}
            self.summary = self._words({label: records})

    def __repr__(self) -> str:
        return f"Curves: {self.summary}"

    def _words(self, runs: Mapping[str, Sequence[StepRecord]]) -> str:
        return "; ".join(f"{label}: {outcome(records)}" for label, records in runs.items()) or "no training yet"


def _series(label: str, records: Sequence[StepRecord], index: int) -> dict[str, object]:
    color, dash = series_style(index)
    return {"label": label, "color": color, "dash": _LENGTHS[dash], "note": diverged(records), **curves(records)}
