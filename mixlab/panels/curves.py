"""Curves of trainings, drawn on the client so that they can follow a running one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import anywidget
import traitlets

from mixlab.figures.theme import SERIES
from mixlab.figures.training import curves
from mixlab.runs import outcome
from mixlab.trainer import StepRecord

_SVG_DASHES = ("", "8 5", "2 4", "8 4 2 4", "14 6", "14 5 2 5")


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

    def paint(self, label: str, records: Sequence[StepRecord]) -> None:
        """Draws the running one as far as it has come, beside the finished ones."""
        with self.hold_sync():
            self.live = _series(label, records, len(self.finished))
            self.summary = self._words({label: records})

    def __repr__(self) -> str:
        return f"Curves: {self.summary}"

    def _words(self, runs: Mapping[str, Sequence[StepRecord]]) -> str:
        return "; ".join(f"{label}: {outcome(records)}" for label, records in runs.items()) or "no training yet"


def _series(label: str, records: Sequence[StepRecord], index: int) -> dict[str, object]:
    style = {"color": SERIES[index % len(SERIES)], "dash": _SVG_DASHES[index % len(_SVG_DASHES)]}
    return {"label": label, **style, **curves(records)}
