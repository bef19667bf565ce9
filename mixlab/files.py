"""Files that are never half written, and that one writer at a time writes."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Opens a draft that takes the place of `path` once it is on the disk, if the block ends without an error.

    Drafts have names of their own, so that several writers do not mix. A symbolic link stays one, and the file that it
    names is replaced.

    Raises:
        OSError: The folder cannot be written, or `path` is no file, but a folder or a device.
    """
    path, draft = _with_draft(path)
    try:
        with draft.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
        sync_folder(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def refuse_unwritable(path: Path) -> None:
    """Finds out before hours of work whether `replacing(path)` will be possible.

    Raises:
        OSError: It is not.
    """
    _, draft = _with_draft(path)
    draft.touch(exist_ok=False)
    draft.unlink()


def _with_draft(path: Path) -> tuple[Path, Path]:
    path = path.resolve()
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is no file that could be replaced; choose another name")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to keep {path.name} in; make it, or choose another")
    return path, path.with_name(f".mixlab-{uuid.uuid4().hex}.part")


def remove_drafts(folder: Path) -> None:
    """Removes the drafts that killed writers left behind; for whoever holds the folder's lock."""
    for draft in folder.glob(".mixlab-*.part"):
        draft.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Brings new, replaced and removed names in a folder to the disk, so that a power cut does not undo them."""
    if os.name == "nt":  # has no file descriptor of a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that syncs no folders
            raise
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock on a file, which is made when missing and stays; a process that is killed leaves no lock behind.

    Raises:
        BlockingIOError: Another process, or another thread of this one, holds it.
        OSError: The file cannot be opened for writing, or its file system has no locks.
    """
    with path.open("ab") as file:
        _lock(file, path)
        try:
            yield
        finally:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_UN)  # a forked process may hold the file open longer


def _lock(file: IO[Any], path: Path) -> None:
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except (BlockingIOError, PermissionError) as error:  # Windows has the latter for a lock that is held
        raise BlockingIOError(f"{path} is locked by another writer") from error
    except OSError as error:
        raise OSError(f"{path} cannot be locked ({error.strerror}); choose a folder on another file system") from error
