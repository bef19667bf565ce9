"""A reader's folder of labs: copies of those that mixlab brings. What the reader changed is never overwritten."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mixlab.cli.answerless import as_bytes, was_handed_out, without_answers
from mixlab.cli.laid_files import (
    LaidFiles,
    moved_aside,
    numbered,
    only_writer,
    plain_content,
    read_laid,
    read_or_set_aside,
    remember,
    was_laid_in,
    write,
)
from mixlab.cli.shipped import LabError


@dataclass
class LaidLabs:
    """What `lay_labs` did.

    Attributes:
        folder: The folder of labs.
        new: Labs that were not there, and are now.
        replaced: Labs that nobody had changed, and that are now of this version.
        beside: By a lab that was changed, the file beside it that holds this version.
        remark: What else happened, in words; "" for nothing.
    """

    folder: Path
    new: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    beside: dict[str, str] = field(default_factory=dict)
    remark: str = ""


@dataclass(frozen=True)
class ResetLab:
    """What `reset_lab` did.

    Attributes:
        name: The lab.
        moved: What was moved aside, old and new path, relative to the folder.
        laid: Whether the notebook was laid anew.
        handed_out: Whether it is a copy without answers, as the one before it.
        remark: What else happened, in words; "" for nothing.
    """

    name: str
    moved: tuple[tuple[str, str], ...]
    laid: bool
    handed_out: bool
    remark: str = ""


def usual_folder() -> Path:
    """Returns the folder of labs that a command means without being told: the current one if labs were laid there or
    handed out, else `mixlab-labs` in it."""
    here = Path.cwd()
    return here if was_laid_in(here) or holds_handed_out(here) else here / "mixlab-labs"


def holds_handed_out(folder: Path) -> bool:
    """Returns whether a folder holds copies without answers, and no labs were laid in it.

    Args:
        folder: The folder, which need not exist.

    Raises:
        LabError: If it cannot be read.
    """
    with _in_words(folder):
        return not was_laid_in(folder) and any(_is_handed_out(path) for path in folder.glob("*.ipynb"))


def lay_labs(labs: Path, folder: Path, version: str) -> LaidLabs:
    """Lays a copy of each lab in a folder; a second call changes nothing.

    A lab that is missing is laid, even if its reader deleted it. One that nobody changed is replaced by a new version.
    Beside one that was changed, a new version is laid once, under a name that says so. A copy without answers is left
    as it is.

    Args:
        labs: Folder of the labs that mixlab brings.
        folder: The reader's folder. It is made if missing, and may hold anything else.
        version: mixlab's version, for names.

    Raises:
        LabError: If the folder cannot be made, read or written, or another process is laying labs there.
    """
    with _in_words(folder):
        folder = Path(os.path.realpath(folder))
        if folder.is_relative_to(labs.resolve()):
            raise LabError(f"{folder} is where mixlab keeps its own labs; give a folder of your own")
        folder.mkdir(parents=True, exist_ok=True)
        shipped = {path.name: path.read_bytes() for path in sorted(labs.glob("*.ipynb"))}
        done = LaidLabs(folder)
        if _is_up_to_date(shipped, folder):
            return done
        with only_writer(folder):
            files, done.remark = read_or_set_aside(folder)
            try:
                for name, content in shipped.items():
                    _lay(name, content, version, files, done)
            finally:
                remember(folder, files)
    return done


def reset_lab(lab: Path, folder: Path, *, runs: bool = False) -> ResetLab:
    """Puts a lab back as mixlab brings it and forgets its answers. What was there is moved aside, never deleted.

    In place of a copy without answers, a new one is laid.

    Args:
        lab: The lab that mixlab brings.
        folder: The reader's folder of labs.
        runs: Whether to move the lab's runs aside too.

    Raises:
        LabError: If the folder holds no labs, or cannot be read or written.
    """
    with _in_words(folder):
        if not was_laid_in(folder) and not os.path.lexists(folder / lab.name):
            raise LabError(f"no labs in {str(folder)!r:.200}; `mixlab lab` lays them, --in names another folder")
        folder, content = Path(os.path.realpath(folder)), lab.read_bytes()
        if handed_out := _is_handed_out(folder / lab.name):
            content = as_bytes(without_answers(json.loads(content), lab.stem))
        with only_writer(folder):
            files, remark = read_or_set_aside(folder)
            moved: list[tuple[Path, Path]] = []
            laid = plain_content(folder / lab.name) != content
            if laid:
                moved += _lay_in_place(folder / lab.name, content, files)
            if not handed_out:
                files.add(lab.name, content)
                files.withdraw(lab.name, folder)
                remember(folder, files)
            kept = folder / "runs" / lab.stem
            unwanted = kept if runs else kept / "answers.json"
            if os.path.lexists(unwanted):
                moved.append((unwanted, moved_aside(unwanted)))
    pairs = ((str(old.relative_to(folder)), str(new.relative_to(folder))) for old, new in moved)
    return ResetLab(lab.stem, tuple(pairs), laid, handed_out, remark)


def _is_up_to_date(shipped: dict[str, bytes], folder: Path) -> bool:
    """Returns whether there is nothing to do. Nothing is written for that: the folder may be read-only."""
    try:
        files = read_laid(folder)
    except ValueError:
        return False
    return all(_what_to_do(folder / name, content, files) is None for name, content in shipped.items())


def _what_to_do(
    target: Path, content: bytes, files: LaidFiles
) -> Literal["lay", "remember", "replace", "lay beside"] | None:
    """Returns what is to be done for one lab; None for nothing."""
    if not os.path.lexists(target):
        return "lay"
    if plain_content(target) == content:
        return None if files.is_as_laid(target) and target.name not in files.beside else "remember"
    if files.has_laid(target.name, content) or _is_handed_out(target):
        return None  # changed by the reader, who has this version, or a copy from a teacher
    return "replace" if files.is_as_laid(target) else "lay beside"


def _is_handed_out(path: Path) -> bool:
    content = plain_content(path)
    return content is not None and was_handed_out(content)


def _lay(name: str, content: bytes, version: str, files: LaidFiles, done: LaidLabs) -> None:
    target = done.folder / name
    match _what_to_do(target, content, files):
        case None:
            return
        case "lay beside":
            done.beside[name] = _lay_beside(target, content, version, files)
            return
        case "lay":
            write(target, content)
            done.new.append(name)
        case "replace":
            write(target, content)
            done.replaced.append(name)
    files.add(name, content)
    files.withdraw(name, done.folder)


def _lay_beside(target: Path, content: bytes, version: str, files: LaidFiles) -> str:
    """Lays a version beside the reader's own, in place of an older one that nobody changed; returns its name."""
    files.withdraw(target.name, target.parent)
    for path in numbered(target, f"mixlab-{version}"):
        if not os.path.lexists(path):
            write(path, content)
        if plain_content(path) == content:
            break
    files.beside[target.name] = path.name
    files.add(path.name, content)
    return path.name


def _lay_in_place(target: Path, content: bytes, files: LaidFiles) -> list[tuple[Path, Path]]:
    """Lays a lab where another version stands; returns what was moved aside for it."""
    kept = moved_aside(target) if os.path.lexists(target) and not files.is_as_laid(target) else None
    try:
        write(target, content)
    except OSError:
        if kept is not None:
            kept.rename(target)
        raise
    return [] if kept is None else [(target, kept)]


@contextmanager
def _in_words(folder: Path) -> Iterator[None]:
    """Raises OSError as LabError that names the folder."""
    try:
        yield
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        what = "a file, not a folder" if isinstance(error, FileExistsError) else error.strerror or error
        reason = f"{what}{where:.200}"
        raise LabError(f"labs cannot be laid in {str(folder)!r:.200} ({reason}); give another folder") from error
