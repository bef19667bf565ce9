"""Files that are replaced as a whole, and locks that admit one writer at a time."""

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
    """Opens a draft file. If the block ends without an error, the draft is flushed to disk and then replaces `path`.

    Drafts have unique names, so that several writers do not mix. If `path` is a symbolic link, it stays one, and the
    file behind it is replaced.

    Args:
        path: The file to replace; it need not exist.

    Raises:
        OSError: If the folder cannot be written, or `path` is a folder or a device.
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
    """Checks, before hours of work, that `replacing(path)` can succeed.

    Raises:
        OSError: If it cannot.
    """
    _, draft = _with_draft(path)
    draft.touch(exist_ok=False)
    draft.unlink()


def _with_draft(path: Path) -> tuple[Path, Path]:
    path = path.resolve()
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is not a file and cannot be replaced; choose another name")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} for {path.name}; create it, or choose another")
    return path, path.with_name(f".mixlab-{uuid.uuid4().hex}.part")


def remove_drafts(folder: Path) -> None:
    """Removes the drafts that killed writers left behind. The caller must hold the folder's lock."""
    for draft in folder.glob(".mixlab-*.part"):
        draft.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flushes a folder's new, replaced and removed names to disk, so that a power cut does not undo them."""
    if os.name == "nt":  # Windows has no file descriptors for folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems do not sync folders
            raise
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock on a file. A process that is killed leaves no lock behind.

    Args:
        path: The file; it is created if missing, and never removed.

    Raises:
        BlockingIOError: If another process, or another thread of this one, holds the lock.
        OSError: If the file cannot be opened for writing, or its file system has no locks.
    """
    with path.open("ab") as file:
        _lock(file, path)
        try:
            yield
        finally:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_UN)  # a forked process may keep the file open longer


def _lock(file: IO[Any], path: Path) -> None:
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except (BlockingIOError, PermissionError) as error:  # Windows raises the latter for a held lock
        raise BlockingIOError(f"{path} is locked by another writer") from error
    except OSError as error:
        raise OSError(f"{path} cannot be locked ({error.strerror}); choose a folder on another file system") from error
