"""Curves of trainings, drawn in the browser so that they can follow a running one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path

import anywidget
import traitlets

from mixlab.panels.scripts import script
from mixlab.reports import diverged
from mixlab.reports.columns import curves, series_style
from mixlab.reports.training import metric_names
from mixlab.training import StepRecord, outcome

# Plotly's names for dashes, and their lengths in pixels.
_LENGTHS = {
    "solid": "",
    "dash": "8 5",
    "dot": "2 4",
    "dashdot": "8 4 2 4",
    "longdash": "14 6",
    "longdashdot": "14 5 2 5",
}


class Charts(anywidget.AnyWidget):
    """Small charts of finished runs and of one that is running, from columns of numbers.

    Attributes:
        charts: A description of each chart; curves.js lists its fields.
        finished: Runs that no longer change; each has a label, a colour, a dash and its columns.
        live: The running one, or empty; sent again at every change, some 10 KB.
        heading: The subject of the charts; read out before the summary.
        summary: The charts in words.
    """

    _esm = script("curves.js")
    _css = Path(__file__).parent / "curves.css"
    charts: traitlets.List[dict[str, object]] = traitlets.List().tag(sync=True)
    finished: traitlets.List[dict[str, object]] = traitlets.List().tag(sync=True)
    live: traitlets.Dict[str, object] = traitlets.Dict().tag(sync=True)
    heading = traitlets.Unicode("Training curves").tag(sync=True)
    summary = traitlets.Unicode("no training yet").tag(sync=True)

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {self.summary}"


class Curves(Charts):
    """Loss, metric, loss scale and underflow over the steps, of several finished runs and one that is running."""

    def __init__(self) -> None:
        super().__init__(charts=_charts([]))

    def show(self, runs: Mapping[str, Sequence[StepRecord]], places: Mapping[str, int] | None = None) -> None:
        """Draws finished runs only.

        Args:
            runs: The records of each run, by label.
            places: The place of each run's style, see `line_style`, by label; None counts the runs.
        """
        if places is None:
            places = {label: place for place, label in enumerate(runs)}
        with self.hold_sync():
            self.finished = [_series(label, records, places[label]) for label, records in runs.items()]
            self.live = {}
            self.charts = _charts(self.finished)
            self.summary = self._words(runs)

    def paint(self, label: str, records: Sequence[StepRecord], place: int | None = None) -> None:
        """Draws the running training beside the finished ones.

        Args:
            label: Its name.
            records: Its records so far.
            place: The place of its style; None takes the one after those of the finished runs.
        """
        with self.hold_sync():
            self.live = _series(label, records, len(self.finished) if place is None else place)
            self.charts = _charts([*self.finished, self.live])
            self.summary = self._words({label: records})

    def _words(self, runs: Mapping[str, Sequence[StepRecord]]) -> str:
        return "; ".join(f"{label}: {outcome(records)}" for label, records in runs.items()) or "no training yet"


_LOSS: dict[str, object] = {"column": "loss", "title": "loss", "format": "short", "fromZero": True, "note": True}
_SCALE_AND_UNDERFLOW: list[dict[str, object]] = [
    {
        "column": "scale",
        "title": "loss scale (ticks: skipped steps)",
        "format": "power",
        "whole": True,
        "ticks": "skipped",
        "lacks": 0,
    },
    {
        "column": "underflow",
        "thin": "mean_underflow",
        "title": "underflow, worst layer (thin: mean)",
        "format": "percent",
        "floor": [0, 0.01],
        "sparse": True,
        "lacks": None,
    },
]


def _charts(series: Iterable[Mapping[str, object]]) -> list[dict[str, object]]:
    """Returns the charts of these runs; that of the metric bears its name, and is left out if no run has one."""
    names = list(dict.fromkeys(str(one["metric_name"]) for one in series))
    metrics = [name for name in names if name]
    metric: dict[str, object] = {"column": "metric", "title": f"{', '.join(metrics) or 'accuracy'} on the batch"}
    metric |= {"format": "short"} if metrics and metrics != ["accuracy"] else {"format": "percent", "range": [0, 1]}
    return [_LOSS, *([metric] if metrics or not names else []), *_SCALE_AND_UNDERFLOW]


def line_style(index: int) -> dict[str, str]:
    """Returns the colour and dash of the n-th run as `Charts` takes them."""
    color, dash = series_style(index)
    return {"color": color, "dash": _LENGTHS[dash]}


def free_place(taken: Iterable[int]) -> int:
    """Returns the first place for a style that no run has.

    Args:
        taken: The places of the other runs.
    """
    others = set(taken)
    return next(place for place in count() if place not in others)


def _series(label: str, records: Sequence[StepRecord], index: int) -> dict[str, object]:
    name = next(iter(metric_names({label: records})), "")
    return {"label": label, **line_style(index), "note": diverged(records), "metric_name": name, **curves(records)}
