"""What students hand in: notebooks, files of answers and folders of both, read without executing anything."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from mixlab.answers import ANSWER_KINDS, ANSWERS_TYPE, require_answers
from mixlab.cli import shipped
from mixlab.cli.lab_files import read_lab
from mixlab.labs import check_parameters, kept_parameters, lab_parameters

MOST_BYTES = 50 * 2**20  # of a notebook with its outputs; a lab's has some 5 MiB, and read it can take 25 times that
MOST_ANSWERS_BYTES = 2**20
MOST_LETTERS = 1000  # of an answer

_UNRECORDED = "was run, but holds no record of answers: run its cell `lab = Lab(...)` and answer, then save it"
_NOTHING = "holds neither notebooks nor answers of labs"
_LAB = re.compile(r"""\bLab\(\s*["'](\w+)["']""")
_ASKS = re.compile(r"""\blab\.(?:predict|exercise)\(""")


class UnreadableError(ValueError):
    """Raised if a file holds no answers of a lab, with the reason in words."""


@dataclass(frozen=True)
class HandedIn:
    """A lab as one student handed it in.

    Attributes:
        student: A name for the student: that of the folder, or of a renamed notebook.
        path: The notebook, or the file of answers.
        lab: The lab's name; "" if it is not known.
        parameters: Parameters by name, as the student set them; others are the lab's own. None if they are not known.
        given: Answers by kind and question, or name of the exercise.
        trouble: What is wrong with it, in words.
        unrecorded: Whether cells were run, but the notebook holds no record of answers.
    """

    student: str
    path: Path
    lab: str = ""
    parameters: Mapping[str, Any] | None = None
    given: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: {kind: {} for kind in ANSWER_KINDS})
    trouble: tuple[str, ...] = ()
    unrecorded: bool = False


def all_handed_in(paths: Iterable[Path]) -> list[HandedIn]:
    """Reads what students handed in. Answers of a notebook and of the file beside it count together.

    Args:
        paths: Notebooks, files of answers, and folders, which are searched.

    Raises:
        FileNotFoundError: If a path does not exist.
    """
    found: list[HandedIn] = []
    seen: set[Path] = set()
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{str(path)!r} does not exist; give notebooks, answers.json files or folders")
        files = _files(path) if path.is_dir() else [path]
        places = {file: _place(file, path) for file in files}
        new = [file for file, place in places.items() if place not in seen]
        seen.update(places.values())
        one_by_one = [read for file in new if (read := _read(file, path)) is not None]
        found += _together(one_by_one)
        if path.is_dir() and len(new) == len(files):
            found += [HandedIn(_name_of(folder), folder, trouble=(_NOTHING,)) for folder in _without(one_by_one, path)]
    return _told_apart(found)


def _without(read: list[HandedIn], folder: Path) -> list[Path]:
    """Returns the folder if nothing of a lab was read in it, else those of its students in which there is nothing."""
    if not read:
        return [folder]
    if (folder / "runs").is_dir() or any(one.path.parent == folder and one.path.stem == one.lab for one in read):
        return []  # one student's own; what lies beside the labs is no student
    below = sorted(one for one in folder.iterdir() if one.is_dir() and one.name[0] not in "._")
    return [one for one in below if not any(each.path.is_relative_to(one) for each in read)]


def _files(folder: Path) -> list[Path]:
    """Returns the notebooks and the files of answers below a folder."""
    found = []
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        place = Path(here)
        for name in sorted(files):
            lab = name.partition(".")[0]  # LAB.DATE.ipynb is what `mixlab reset` laid beside LAB.ipynb
            older = name != f"{lab}.ipynb" and f"{lab}.ipynb" in files and lab in _labs()
            if name.startswith("._"):
                continue  # what macOS keeps of a file beside it, in archives
            if (name.endswith(".ipynb") and not older) or (name == "answers.json" and place.parent.name == "runs"):
                found.append(place / name)
    return found


def _place(file: Path, asked: Path) -> Path:
    """Returns where a file lies. A link in a folder that was asked for is one thing, what it leads to another."""
    return file.parent.resolve() / file.name if asked.is_dir() else file.resolve()


def _read(path: Path, asked: Path) -> HandedIn | None:
    """Returns what a file holds; None for a notebook that is none of the labs, if a folder was asked for."""
    blank = HandedIn("", path)
    try:
        if asked.is_dir() and path.is_symlink():
            raise UnreadableError("is a link, and not followed; it might lead to what another student handed in")
        content = _json(path)
        is_notebook = isinstance(content, dict) and isinstance(content.get("cells"), list)
        if is_notebook and asked.is_dir() and not _lab_of(content, path):
            return None
        read = _notebook(blank, content) if is_notebook else _answers_file(blank, content)
    except UnreadableError as error:
        stem = path.stem if path.stem in _labs() else ""
        read = replace(blank, lab=stem, trouble=(str(error),))
    return replace(read, student=_student(read, asked))


def _json(path: Path) -> Any:
    try:
        if not path.is_file():
            raise UnreadableError("is not a file")
        if (size := path.stat().st_size) > MOST_BYTES:
            raise UnreadableError(f"has {size / 2**20:,.0f} MiB; a lab has {MOST_BYTES / 2**20:.0f} at most")
        content = path.read_bytes()
        return json.loads(content)
    except OSError as error:
        raise UnreadableError(f"cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, UnreadableError):
            raise
        place = f" in line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        what = "is empty" if not content.strip() else f"is not JSON, or was cut off{place}"
        raise UnreadableError(f"{what}; it is no notebook that Jupyter saved") from None


def _notebook(blank: HandedIn, content: dict[str, Any]) -> HandedIn:
    name = _lab_of(content, blank.path)
    if not name:
        raise UnreadableError("is none of mixlab's labs")
    trouble = []
    record, given = None, blank.given
    try:
        record = _record(content)
        given = _checked(record, "its record of answers") if record is not None else given
    except UnreadableError as error:
        trouble.append(str(error))
    was_run = any(cell.get("execution_count") for cell in _code(content))
    if gone := _questions(name) - {str(cell.get("id")) for cell in _code(content)}:
        trouble.append(f"lacks {len(gone)} of its questions, in cell {', '.join(sorted(gone))}")
    parameters, why = _parameters(name, record, blank.path)
    return replace(
        blank,
        lab=name,
        parameters=parameters,
        given=given,
        trouble=(*trouble, *why),
        unrecorded=was_run and record is None,
    )


def _answers_file(blank: HandedIn, content: Any) -> HandedIn:
    if isinstance(content, dict) and "worksheets" in content:
        raise UnreadableError("is a notebook of before 2015; open it in JupyterLab, and save it")
    given = _checked(content, "it")
    name = content.get("lab", blank.path.parent.name)
    if not isinstance(name, str) or name not in _labs():
        raise UnreadableError(f"holds answers of {name!r:.60}, which is none of mixlab's labs")
    parameters, why = _parameters(name, content, None)
    return replace(blank, lab=name, parameters=parameters, given=given, trouble=why)


def _lab_of(content: dict[str, Any], path: Path) -> str:
    """Returns which lab a notebook is, by the cell that makes it, else by the file's name; "" if it is none."""
    made = (_LAB.search(_source(cell)) for cell in _code(content))
    return next((one[1] for one in made if one and one[1] in _labs()), path.stem if path.stem in _labs() else "")


def _code(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (cell for cell in content["cells"] if isinstance(cell, dict) and cell.get("cell_type") == "code")


def _source(cell: dict[str, Any]) -> str:
    source = cell.get("source")
    return source if isinstance(source, str) else "".join(map(str, source)) if isinstance(source, list) else ""


def _record(content: dict[str, Any]) -> Any:
    """Returns the last record of answers among a notebook's outputs, or None."""
    found = None
    for cell in _code(content):
        outputs = cell.get("outputs")
        for output in outputs if isinstance(outputs, list) else []:
            data = output.get("data") if isinstance(output, dict) else None
            if isinstance(data, dict) and ANSWERS_TYPE in data:
                found = data[ANSWERS_TYPE]
    return found


def _checked(record: Any, what: str) -> dict[str, dict[str, str]]:
    """Returns the answers of a record by kind and key."""
    try:
        given = {kind: require_answers(record, what)[kind] for kind in ANSWER_KINDS}
    except ValueError as error:
        raise UnreadableError(f"holds no answers of a lab: {error}") from None
    texts = [text for answers in given.values() for pair in answers.items() for text in pair]
    if not all(isinstance(text, str) and len(text) <= MOST_LETTERS for text in texts):
        raise UnreadableError(f"{what} is damaged: each answer must be a text of at most {MOST_LETTERS} letters")
    if sum(map(len, texts)) > MOST_ANSWERS_BYTES:
        raise UnreadableError(f"{what} is damaged: it holds more than {MOST_ANSWERS_BYTES / 2**20:.0f} MiB of answers")
    return given


def _parameters(name: str, record: Any, notebook: Path | None) -> tuple[Mapping[str, Any] | None, tuple[str, ...]]:
    """Returns the parameters of the record, else those of the notebook's cell; and what is wrong with them."""
    stated = record.get("parameters") if isinstance(record, dict) else None
    if stated is None:
        if notebook is None:
            return {}, ()
        lab = read_lab(notebook)
        if lab is None:
            return None, ("its cell of parameters does more than assign values to names, and is not executed",)
        stated = {one.name: one.default for one in lab.parameters}
    try:
        if not isinstance(stated, dict):
            raise ValueError("its parameters must be an object")
        stated = kept_parameters(name, stated)
        check_parameters(name, stated)
    except ValueError as error:
        return None, (f"has parameters that the lab does not take: {error}",)
    return stated, ()


@cache
def _labs() -> frozenset[str]:
    names = {path.stem for path in shipped.shipped_labs().glob("*.ipynb")}
    return frozenset(name for name in names if lab_parameters(name))


@cache
def _questions(name: str) -> frozenset[str]:
    """Returns the ids of a lab's cells that ask."""
    content = json.loads(shipped.lab_named(name).read_bytes())
    return frozenset(cell["id"] for cell in _code(content) if _ASKS.search(_source(cell)))


def _together(found: list[HandedIn]) -> list[HandedIn]:
    """Returns each notebook with the file of answers beside it; the file holds the later ones."""
    files = {one.path: one for one in found if one.path.name == "answers.json"}
    beside = {one.path.parent / "runs" / one.lab / "answers.json" for one in found if one.path not in files}
    joined = []
    for one in found:
        place = one.path.parent / "runs" / one.lab / "answers.json"
        if one.path in files:
            if one.path not in beside:
                joined.append(one)
            continue
        if (file := files.get(place)) is not None:
            given = {kind: {**one.given[kind], **file.given[kind]} for kind in ANSWER_KINDS}
            trouble = (*one.trouble, *(f"{place.name}: {words}" for words in file.trouble))
            unrecorded = one.unrecorded and bool(file.trouble)
            parameters = file.parameters or one.parameters
            one = replace(one, given=given, parameters=parameters, trouble=trouble, unrecorded=unrecorded)
        if one.unrecorded:
            one = replace(one, trouble=(*one.trouble, _UNRECORDED))
        joined.append(one)
    return joined


def _student(read: HandedIn, asked: Path) -> str:
    """Returns a name for the student: the folder below the one that was asked for, and a notebook's name if changed."""
    folder = read.path.parent
    is_file = read.path.name == "answers.json"
    if is_file and folder.parent.name == "runs":
        folder = folder.parent.parent
    base = asked if asked.is_dir() else Path()
    place = folder.relative_to(base).as_posix() if folder.is_relative_to(base) else folder.as_posix()
    place = "" if place == "." else place
    own = "" if is_file or read.path.stem == read.lab else read.path.stem
    return "/".join(part for part in (place, own) if part) or _name_of(base)


def _name_of(folder: Path) -> str:
    return folder.resolve().name or str(folder)


def _told_apart(found: list[HandedIn]) -> list[HandedIn]:
    """Returns the same, with the whole path as the name of students that could be confused."""
    places: dict[tuple[str, str], int] = {}
    for one in found:
        places[one.student, one.lab] = places.get((one.student, one.lab), 0) + 1
    return [
        replace(one, student=one.path.with_suffix("").as_posix()) if places[one.student, one.lab] > 1 else one
        for one in found
    ]
