"""The finished runs: one line each, a tick to draw it, and a button that deletes unticked runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from mixlab.panels.asking import AskingButton, number_of
from mixlab.panels.base import ErrorBox, in_a_row
from mixlab.panels.curves import free_place
from mixlab.panels.folders import kept_words
from mixlab.reports.colours import SERIES
from mixlab.training import Run, RunInfo, StepRecord, outcome

_MOST_FOUND = 20  # earlier runs that are offered; older ones stay in their folder

# What a folder holds: the run's description, and when its run.json was written, which two runs of one second differ in.
_Identity = tuple[RunInfo, int]


@dataclass(frozen=True)
class _Entry:
    """A run in the list: its records, its tick, the folder that keeps it and which run that held, its style's place."""

    records: list[StepRecord]
    tick: Any
    path: Path | None
    identity: _Identity | None
    place: int


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
        self._delete = AskingButton(
            "Delete unticked", "Deletes the runs without a tick, and their folders", icon="trash"
        )
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

    @property
    def places(self) -> dict[str, int]:
        """The place of each run's style, by label: a run keeps its colour whatever becomes of the others."""
        with self._lock:
            return {label: entry.place for label, entry in self._entries.items()}

    @property
    def free_place(self) -> int:
        """The place of the style that the next run gets."""
        return free_place(self.places.values())

    def add(self, label: str, records: list[StepRecord], path: Path | None = None, *, place: int | None = None) -> None:
        """Adds a run, ticked. If its label is taken, its steps or a number tell it apart.

        Args:
            label: Its name.
            records: Its records.
            path: The folder that keeps it, if one does.
            place: The place of the style that it was drawn in; None takes a free one.
        """
        with self._lock:
            self._append(label, records, path, ticked=True, place=place)
            self._show()

    def find(self, folder: Path) -> None:
        """Adds the runs in the subfolders of `folder`, the newest ticked, and says where they are kept.

        Left out, and left in the folder, are runs without a step, damaged runs, which are named, and those older than
        the newest 20 of the others, which are counted.
        """
        paths = sorted((path.parent for path in folder.glob("*/run.json")), key=_number)
        found: list[tuple[Path, str, list[StepRecord]]] = []
        damaged: list[str] = []
        while paths and len(found) < _MOST_FOUND:
            path = paths.pop()
            if (run := _read(path)) is None:
                damaged.insert(0, path.name)
            elif run[1]:
                found.insert(0, (path, *run))
        with self._lock:
            self._where = kept_words(folder)
            self._left = f" {len(paths)} older ones are there too." if paths else ""
            self._left += f" Not readable: {', '.join(damaged)}." if damaged else ""
            for index, (path, label, records) in enumerate(found):
                self._append(label, records, path, ticked=index >= len(found) - len(SERIES))
            self._show()

    def delete_unticked(self) -> None:
        """Asks, and when called again deletes the runs without a tick; one that is being written stays.

        A folder that holds another run by now, begun there from another page, stays too.

        Raises:
            OSError: If a run is being written, or its folder cannot be deleted.
        """
        with self._lock:
            unticked = [label for label, entry in self._entries.items() if not entry.tick.value]
            if not self._delete.confirmed(f"delete {number_of(len(unticked), 'run')}"):
                return
            try:
                for label in unticked:
                    entry = self._entries[label]
                    if entry.path and entry.identity and entry.identity == _identity(entry.path):
                        Run(entry.path).delete()
                    del self._entries[label]
            finally:
                self._show()

    def _append(
        self, label: str, records: list[StepRecord], path: Path | None, *, ticked: bool, place: int | None = None
    ) -> None:
        label = _unique(label, len(records), self._entries)
        tick = widgets.Checkbox(value=ticked, description=label, indent=False, layout={"width": "auto"})
        tick.observe(self._errors.guard(self._on_tick), "value")
        place = self.free_place if place is None else place
        self._entries[label] = _Entry(records, tick, path, None if path is None else _identity(path), place)

    def _on_tick(self, _change: object) -> None:
        with self._lock:
            self._redraw()

    def _show(self) -> None:
        rows = [in_a_row(entry.tick, widgets.HTML(f"– {escape(_words(entry))}")) for entry in self._entries.values()]
        where = escape(f"{', ' if self._where else ''}{self._where}{'.' if self._where else ''}{self._left}")
        heading = widgets.HTML(f"<b>Runs</b> (tick those to draw){where}")
        self.children = [heading, *rows, self._delete] if rows or self._left else []
        self._redraw()

    def _redraw(self) -> None:
        """Redraws but keeps the rows, so that the keyboard focus stays."""
        self._delete.take_back()
        self._delete.disabled = all(entry.tick.value for entry in self._entries.values())
        self._changed()


def _words(entry: _Entry) -> str:
    """Returns how a run went, and whether it was cut short."""
    wanted = 0 if entry.identity is None else entry.identity[0].wanted_steps
    cut = f"stopped at {len(entry.records):,} of {wanted:,} steps: " if len(entry.records) < wanted else ""
    return cut + outcome(entry.records)


def _number(path: Path) -> tuple[int, str]:
    return int(path.name) if path.name.isdecimal() else 0, path.name


def _identity(path: Path) -> _Identity | None:
    """Returns which run a folder holds, or None if it holds none that can be read."""
    try:
        return Run(path).info, (path / "run.json").stat().st_mtime_ns
    except (OSError, ValueError):
        return None


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
