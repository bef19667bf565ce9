"""How `mixlab grade` shows grades: a table, a file for spreadsheets, JSON."""

from __future__ import annotations

import csv
import io
import re
import shutil
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from mixlab import __version__
from mixlab.cli.grades import Grade, Grades
from mixlab.files import refuse_unwritable, replacing

COLUMNS = ("student", "lab", "file", "parameters", "kind", "question", "answer", "right", "expected", "trouble")
HOW = "computed on {}, mixlab {}. No question asks for a measured time or speed."

_PLAIN_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")
_NARROWEST = 100  # columns; a narrower terminal wraps the lines of the table
_YES_NO = {True: "yes", False: "no", None: ""}


def shown(grades: Grades, *, questions: bool) -> Group:
    """Returns the grades as a table, and on request question by question.

    Args:
        grades: The grades.
        questions: Whether to add a table of all questions.
    """
    parts: list[RenderableType] = [_overview(grades.grades)]
    if questions:
        parts += ["", _by_question(grades.grades)]
    if grades.machine:
        parts += ["", Text(f"Right answers: {HOW.format(grades.machine, __version__)}")]
    return Group(*parts)


def print_shown(grades: Grades, *, questions: bool) -> None:
    """Prints the grades to stdout."""
    width = max(shutil.get_terminal_size((120, 24)).columns, _NARROWEST)
    Console(width=width).print(shown(grades, questions=questions))


def as_json(grades: Grades) -> dict[str, Any]:
    """Returns the grades for JSON."""
    rows = [one.to_dict() for one in grades.grades]
    return {"kind": "mixlab grades", "version": 1, "machine": grades.machine, "mixlab": __version__, "grades": rows}


def refuse_csv(path: Path) -> None:
    """Refuses a file for the grades, before any lab is run, that cannot be written or holds anything else.

    Raises:
        ValueError, OSError: If it is so.
    """
    refuse_unwritable(path)
    if path.exists() and path.stat().st_size:
        with path.open("rb") as file:
            begins = file.read(200)
        if not begins.startswith(_lines([COLUMNS])):
            raise ValueError(f"{path} holds something else than grades and is not replaced; give another name")


def write_csv(grades: Grades, path: Path) -> None:
    """Writes one line for each student, lab and question; the file appears as a whole.

    Cells that a spreadsheet would take for a formula get an apostrophe in front.

    Raises:
        OSError: If the file cannot be written.
    """
    with replacing(path) as file:
        file.write(_lines([COLUMNS, *(row for one in grades.grades for row in _rows(one))]))


def harmless(text: str) -> str:
    """Returns a cell that no spreadsheet takes for a formula: all but plain numbers are marked as text.

    >>> [harmless(text) for text in ("=1+1", "-24", "@A1", "8, 3")]
    ["'=1+1", '-24', "'@A1", '8, 3']
    """
    begins = text.lstrip()[:1]
    is_formula = bool(begins) and begins in "=+-@\uff1d\uff0b\uff0d\uff20" and not _PLAIN_NUMBER.fullmatch(text)
    return f"'{text}" if is_formula or text[:1] in ("\t", "\r", "\n") else text


def readable(text: str, most: int = 200) -> str:
    """Returns a student's text for a terminal: on one line, without characters that steer it."""
    steers = {letter for letter in text if unicodedata.category(letter).startswith("C")}
    plain = "".join("\N{REPLACEMENT CHARACTER}" if letter in steers else letter for letter in " ".join(text.split()))
    return plain if len(plain) <= most else f"{plain[:most]}…"


def _overview(grades: Iterable[Grade]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("student", "lab", "predictions", "exercises", "remarks"):
        right = name in ("predictions", "exercises")
        table.add_column(
            f"{name}\nright / made / asked" if right else name,
            justify="right" if right else "left",
            overflow="fold",
            no_wrap=right or name == "lab",
        )
    for one in grades:
        lab = readable(one.handed_in.lab) or "?"
        scores = ["–" if score is None else str(score) for score in (one.predictions, one.exercises)]
        changed = [f"{name} {value}" for name, value in one.changed.items()]
        remarks = "; ".join(map(readable, [*one.trouble, *([f"with {', '.join(changed)}"] if changed else [])]))
        table.add_row(
            Text(readable(one.handed_in.student)),
            Text(lab),
            *scores,
            Text(remarks, style="red" if one.trouble else ""),
        )
    return table


def _by_question(grades: Iterable[Grade]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("student", "lab", "question", "answer", "right", "expected"):
        table.add_column(name, overflow="fold")
    for one in grades:
        for each in one.questions:
            cells = (each.question, each.answer or "", _YES_NO[each.right], each.expected)
            number = one.handed_in.lab.partition("_")[0]
            table.add_row(*map(Text, map(readable, (one.handed_in.student, number, *cells))))
    return table


def _rows(one: Grade) -> Iterator[tuple[str, ...]]:
    changed = " ".join(f"{name}={value}" for name, value in one.changed.items())
    place = (one.handed_in.student, one.handed_in.lab, str(one.handed_in.path), changed)
    trouble = "; ".join(one.trouble)
    for each in one.questions:
        yield (*place, each.kind, each.question, each.answer or "", _YES_NO[each.right], each.expected, trouble)
    if not one.questions:
        yield (*place, *("" for _ in range(5)), trouble)


def _lines(rows: Iterable[Iterable[str]]) -> bytes:
    """Returns rows as CSV: every cell quoted, as spreadsheets expect it: with a mark that says UTF-8."""
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerows([harmless(cell) for cell in row] for row in rows)
    return text.getvalue().encode("utf-8-sig", "replace")
