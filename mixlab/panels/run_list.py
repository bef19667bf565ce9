"""The finished runs: one line each, a tick to draw it, and a button that deletes unticked runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from mixlab.panels.base import ErrorBox, button, in_a_row
from mixlab.panels.folders import kept_words
from mixlab.reports.colours import SERIES
from mixlab.training import Run, StepRecord, outcome

_MOST_FOUND = 20  # earlier runs that are offered; older ones stay in their folder


@dataclass(frozen=True)
class _Entry:
    """A run in the list: its records, its tick, and the folder that keeps it, if one does."""

    records: list[StepRecord]
    tick: Any
    path: Path | None


class RunList(widgets.VBox):  # type: ignore[misc]
    """A list of runs, empty at first.

    Args:
        changed: Called without arguments when a run is added, removed, ticked or unticked.
        errors: Shows errors of that call, and why a run cannot be deleted.
        lock: Held while the list changes; shared with the caller's threads.
    """

    def __init__(self, changed: Callable[[], None], errors: ErrorBox, lock: threading.RLock) -> None:
        self._changed, self._errors, self._lock = changed, errors, lock
        self._entries: dict[str, _Entry] = {}
        self._where = self._left = ""
        self._asked: tuple[str, ...] = ()  # the runs that the next press deletes
        self._delete = button("", "Deletes the runs without a tick, and their folders", width="max-content")
        self._delete.icon = "trash"
        self._delete.on_click(errors.guard(lambda _button: self.delete_unticked()))
        super().__init__()

    @property
    def runs(self) -> dict[str, list[StepRecord]]:
        """The records of every run, by label, oldest first."""
        with self._lock:
            return {label: entry.records for label, entry in self._entries.items()}

    @property
    def ticked(self) -> dict[str, list[StepRecord]]:
        """The records of the runs to draw."""
        with self._lock:
            return {label: entry.records for label, entry in self._entries.items() if entry.tick.value}

    def add(self, label: str, records: list[StepRecord], path: Path | None = None) -> None:
        """Adds a run, ticked. If its label is taken, its steps or a number tell it apart.

        Args:
            label: Its name.
            records: Its records.
            path: The folder that keeps it, if one does.
        """
        with self._lock:
            self._append(label, records, path, ticked=True)
            self._show()

    def find(self, folder: Path) -> None:
        """Adds the runs in the subfolders of `folder`, the newest ticked, and says where they are kept.

        Damaged runs and all but the newest stay in the folder and are counted in words.
        """
        paths = sorted((path.parent for path in folder.glob("*/run.json")), key=_number)
        read = [(path, _read(path)) for path in paths[-_MOST_FOUND:]]
        found = [(path, *run) for path, run in read if run and run[1]]
        older, damaged = len(paths) - len(read), [path.name for path, run in read if run is None]
        with self._lock:
            self._where = kept_words(folder)
            self._left = f" {older} older ones are there too." if older else ""
            self._left += f" Not readable: {', '.join(damaged)}." if damaged else ""
            for index, (path, label, records) in enumerate(found):
                self._append(label, records, path, ticked=index >= len(found) - len(SERIES))
            self._show()

    def delete_unticked(self) -> None:
        """Asks, and when called again deletes the runs without a tick; one that is being written stays.

        Raises:
            OSError: If a run is being written, or its folder cannot be deleted.
        """
        with self._lock:
            unticked = tuple(label for label, entry in self._entries.items() if not entry.tick.value)
            if self._asked != unticked:
                self._asked = unticked
                self._name_button()
                return
            self._asked = ()
            try:
                for label in unticked:
                    if (path := self._entries[label].path) is not None and (path / "run.json").exists():
                        Run(path).delete()
                    del self._entries[label]
            finally:
                self._show()

    def _append(self, label: str, records: list[StepRecord], path: Path | None, *, ticked: bool) -> None:
        label = _unique(label, len(records), self._entries)
        tick = widgets.Checkbox(value=ticked, description=label, indent=False, layout={"width": "auto"})
        tick.observe(self._errors.guard(self._on_tick), "value")
        self._entries[label] = _Entry(records, tick, path)

    def _on_tick(self, _change: object) -> None:
        with self._lock:
            self._redraw()

    def _show(self) -> None:
        rows = [
            in_a_row(entry.tick, widgets.HTML(f"– {escape(outcome(entry.records))}"))
            for entry in self._entries.values()
        ]
        where = escape(f"{', ' if self._where else ''}{self._where}{'.' if self._where else ''}{self._left}")
        heading = widgets.HTML(f"<b>Runs</b> (tick those to draw){where}")
        self.children = [heading, *rows, self._delete] if rows or self._left else []
        self._redraw()

    def _redraw(self) -> None:
        """Redraws but keeps the rows, so that the keyboard focus stays."""
        self._asked = ()
        self._name_button()
        self._changed()

    def _name_button(self) -> None:
        self._delete.disabled = all(entry.tick.value for entry in self._entries.values())
        asked = len(self._asked)
        runs = f"{asked} run{'' if asked == 1 else 's'}"
        self._delete.description = f"Press again to delete {runs} for good" if asked else "Delete unticked"
        self._delete.button_style = "danger" if asked else ""


def _number(path: Path) -> tuple[int, str]:
    return int(path.name) if path.name.isdecimal() else 0, path.name


def _read(path: Path) -> tuple[str, list[StepRecord]] | None:
    """Returns (label, records) of the run in a folder, or None if it is damaged."""
    try:
        run = Run(path)
        return run.info.label, run.records()
    except (OSError, TypeError, ValueError):
        return None


def _unique(label: str, steps: int, entries: Mapping[str, _Entry]) -> str:
    """Returns a label that is not taken: with its steps if the run that has it took another number, or numbered."""
    if label in entries and len(entries[label].records) != steps:
        label = f"{label}, {steps} step{'' if steps == 1 else 's'}"
    number, candidate = 1, label
    while candidate in entries:
        number += 1
        candidate = f"{label} ({number})"
    return candidate
