"""What was laid in a reader's folder of labs, remembered in `.mixlab/laid.json`, and files that are never lost."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from mixlab.cli.shipped import LabError
from mixlab.files import locked, remove_drafts, replacing

_OWN = ".mixlab"
_KIND: dict[str, Any] = {"kind": "mixlab labs", "version": 1}
_LOCK_WAIT_S = 10.0  # laying takes a fraction of a second


@dataclass
class LaidFiles:
    """What was laid in a folder.

    Attributes:
        laid: The SHA-256 of each file as it was laid, by name.
        beside: By a lab's name, the file that holds a newer version beside the reader's own.
    """

    laid: dict[str, str] = field(default_factory=dict)
    beside: dict[str, str] = field(default_factory=dict)

    def has_laid(self, name: str, content: bytes) -> bool:
        """Returns whether this content was laid last under this name, or beside it.

        Args:
            name: A lab's file name.
            content: The content.
        """
        digest = _digest(content)
        return digest in (self.laid.get(name), self.laid.get(self.beside.get(name, "")))

    def is_as_laid(self, path: Path) -> bool:
        """Returns whether a file is, byte for byte, the one that was laid there.

        Args:
            path: The file, which need not exist.
        """
        content = plain_content(path)
        return content is not None and self.laid.get(path.name) == _digest(content)

    def add(self, name: str, content: bytes) -> None:
        """Remembers what was laid.

        Args:
            name: The file's name.
            content: What it holds.
        """
        self.laid[name] = _digest(content)

    def withdraw(self, name: str, folder: Path) -> None:
        """Removes the version that was laid beside a lab, unless somebody changed it.

        Args:
            name: The lab's file name.
            folder: The folder of labs.
        """
        beside = self.beside.pop(name, None)
        if beside is not None:
            if self.is_as_laid(folder / beside):
                (folder / beside).unlink()
            self.laid.pop(beside, None)


def was_laid_in(folder: Path) -> bool:
    """Returns whether labs were laid in a folder.

    Args:
        folder: The folder, which need not exist.
    """
    return _file(folder).exists()


def read_laid(folder: Path) -> LaidFiles:
    """Returns what was laid in a folder.

    Args:
        folder: The folder.

    Raises:
        ValueError: If the file that says so is damaged or holds something else.
        OSError: If it cannot be read.
    """
    try:
        said = json.loads(_file(folder).read_bytes())
    except FileNotFoundError:
        return LaidFiles()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(said, dict) or any(said.get(key) != value for key, value in _KIND.items()):
        raise ValueError(f"it must begin with kind {_KIND['kind']!r}, version {_KIND['version']}")
    for part in ("laid", "beside"):
        names = said.get(part)
        if not isinstance(names, dict) or not all(isinstance(value, str) for value in names.values()):
            raise ValueError(f"{part!r} must be an object of texts")
    if unsafe := [name for name in said["beside"].values() if Path(name).name != name]:
        raise ValueError(f"{unsafe[0]!r:.60} is no file of this folder")
    return LaidFiles(said["laid"], said["beside"])


def read_or_set_aside(folder: Path) -> tuple[LaidFiles, str]:
    """Returns what was laid in a folder, and words about a file that does not say it, which is moved aside.

    Args:
        folder: The folder.
    """
    try:
        return read_laid(folder), ""
    except ValueError as error:
        kept = moved_aside(_file(folder))
        return LaidFiles(), (
            f"{_file(folder)} does not say what was laid ({error!s:.100}) and is kept as {kept.name}; "
            "labs that differ from mixlab's count as changed by you"
        )


def remember(folder: Path, files: LaidFiles) -> None:
    """Keeps what was laid in a folder.

    Args:
        folder: The folder.
        files: What was laid.
    """
    write(_file(folder), json.dumps({**_KIND, **asdict(files)}, indent=1).encode() + b"\n")


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder of labs; waits a while for another process that lays labs there.

    Args:
        folder: The folder.

    Raises:
        LabError: If the other process takes too long.
        OSError: If the folder cannot be written.
    """
    own = _file(folder).parent
    own.mkdir(exist_ok=True)
    end = time.monotonic() + _LOCK_WAIT_S
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(own / "lock"))
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise LabError(f"another mixlab is laying labs in {folder}; try again when it is done") from None
                time.sleep(0.05)
        remove_drafts(folder)
        remove_drafts(own)
        yield


def plain_content(path: Path) -> bytes | None:
    """Returns what a file holds; None for a link, a folder, a file that cannot be read and one that is not there.

    Args:
        path: The file.
    """
    try:
        return path.read_bytes() if path.is_file() and not path.is_symlink() else None
    except OSError:
        return None


def moved_aside(path: Path) -> Path:
    """Moves a file or folder to a dated name beside it, and returns that.

    Args:
        path: The file or folder; a link is moved, not what it leads to.
    """
    kept = next(kept for kept in numbered(path, f"{datetime.now():%Y-%m-%d-%H%M%S}") if not os.path.lexists(kept))
    path.rename(kept)
    return kept


def numbered(path: Path, word: str) -> Iterator[Path]:
    """Yields names beside a file with a word in them: `x.word.ipynb`, `x.word-2.ipynb`, and so on.

    Args:
        path: The file.
        word: The word.
    """
    number = 1
    while True:
        yield path.with_name(f"{path.stem}.{word}{f'-{number}' if number > 1 else ''}{path.suffix}")
        number += 1


def write(path: Path, content: bytes) -> None:
    """Writes a file as a whole.

    Args:
        path: The file.
        content: What it is to hold.
    """
    with replacing(path) as file:
        file.write(content)


def _file(folder: Path) -> Path:
    return folder / _OWN / "laid.json"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
