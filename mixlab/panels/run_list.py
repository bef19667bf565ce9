"""The finished runs: one line each, a tick to draw it, and a button that removes unticked runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Container
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from mixlab.panels.base import ErrorBox, button, in_a_row
from mixlab.reports.colours import SERIES
from mixlab.training import Run, StepRecord, outcome


class RunList(widgets.VBox):  # type: ignore[misc]
    """A list of runs, empty at first.

    Args:
        changed: Called without arguments when a run is added, removed, ticked or unticked.
        errors: Shows errors of that call.
        lock: Held while the list changes; shared with the caller's threads.
    """

    def __init__(self, changed: Callable[[], None], errors: ErrorBox, lock: threading.RLock) -> None:
        self._changed, self._errors, self._lock = changed, errors, lock
        self._records: dict[str, list[StepRecord]] = {}
        self._ticks: dict[str, Any] = {}
        self._forget = button(
            "Forget unticked", "Removes runs without a tick from the list", icon="trash", width="max-content"
        )
        self._forget.on_click(errors.guard(lambda _button: self.forget_unticked()))
        super().__init__()

    @property
    def runs(self) -> dict[str, list[StepRecord]]:
        """The records of every run, by label, oldest first."""
        with self._lock:
            return dict(self._records)

    @property
    def ticked(self) -> dict[str, list[StepRecord]]:
        """The records of the runs to draw."""
        with self._lock:
            return {label: records for label, records in self._records.items() if self._ticks[label].value}

    def add(self, label: str, records: list[StepRecord]) -> None:
        """Adds a run, ticked; if its label is taken, it gets a number."""
        with self._lock:
            self._append(label, records, ticked=True)
            self._show()

    def find(self, folder: Path) -> None:
        """Adds the runs in the subfolders of `folder`, the newest ticked; damaged runs are skipped."""
        found = [run for path in sorted(folder.glob("*/run.json")) if (run := _read(path.parent))]
        with self._lock:
            for index, (label, records) in enumerate(found):
                self._append(label, records, ticked=index >= len(found) - len(SERIES))
            self._show()

    def forget_unticked(self) -> None:
        """Removes the runs without a tick from the list; their folders stay."""
        with self._lock:
            for label in self._records.keys() - self.ticked.keys():
                del self._records[label], self._ticks[label]
            self._show()

    def _append(self, label: str, records: list[StepRecord], *, ticked: bool) -> None:
        label = _unique(label, self._records)
        tick = widgets.Checkbox(value=ticked, description=label, indent=False, layout={"width": "auto"})
        tick.observe(self._errors.guard(self._on_tick), "value")
        self._records[label], self._ticks[label] = records, tick

    def _on_tick(self, _change: object) -> None:
        with self._lock:
            self._redraw()

    def _show(self) -> None:
        rows = [
            in_a_row(tick, widgets.HTML(f"– {escape(outcome(self._records[label]))}"))
            for label, tick in self._ticks.items()
        ]
        self.children = [widgets.HTML("<b>Runs</b> (tick those to draw)"), *rows, self._forget] if rows else []
        self._redraw()

    def _redraw(self) -> None:
        """Redraws but keeps the rows, so that the keyboard focus stays."""
        self._forget.disabled = all(tick.value for tick in self._ticks.values())
        self._changed()


def _read(path: Path) -> tuple[str, list[StepRecord]] | None:
    """Returns (label, records) of the run in a folder, or None if it is damaged or has no step."""
    try:
        run = Run(path)
        records = run.records()
    except (OSError, TypeError, ValueError):
        return None
    return (run.info.label, records) if records else None


def _unique(label: str, taken: Container[str]) -> str:
    number, candidate = 1, label
    while candidate in taken:
        number += 1
        candidate = f"{label} ({number})"
    return candidate
