from __future__ import annotations

import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from mixlab import files
from mixlab.files import locked, refuse_unwritable, remove_drafts, replacing


def test_two_writers_of_one_file_do_not_mix(tmp_path):
    target = tmp_path / "file"
    with replacing(target) as first, replacing(target) as second:
        first.write(b"first")
        second.write(b"second")
    assert target.read_bytes() == b"first"  # replaced last
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_folder_is_brought_to_the_disk_after_the_file(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))
    with replacing(tmp_path / "file") as file:
        file.write(b"x")
    assert synced[0].startswith(f"{tmp_path}/.mixlab-")
    assert synced[1:] == [str(tmp_path)]


def test_names_as_long_as_a_file_system_takes_and_symbolic_links_work(tmp_path):
    (tmp_path / "link").symlink_to("x" * 255)
    with replacing(tmp_path / "link") as file:
        file.write(b"content")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / ("x" * 255)).read_bytes() == b"content"


def test_what_is_no_file_is_never_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", files.Path("/dev/null")):
        for write in (refuse_unwritable, lambda path: replacing(path).__enter__()):
            with pytest.raises(OSError, match="is not a file and cannot be replaced; choose another name"):
                write(path)
    for folder in (tmp_path / "none", files.Path("/proc/self")):
        with pytest.raises(OSError, match=r"there is no folder|No such file"):
            refuse_unwritable(folder / "file")
    refuse_unwritable(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_drafts_of_killed_writers_are_removed(tmp_path):
    program = "import os, sys, pathlib; from mixlab.files import replacing\n"
    program += "with replacing(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "file")], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    remove_drafts(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_lock_has_one_holder_in_a_process_and_among_them(tmp_path):
    program = "import sys, pathlib; from mixlab.files import locked\n"
    program += "with locked(pathlib.Path(sys.argv[1])): print('held', flush=True); input()"
    command = [sys.executable, "-c", program, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError, match="lock is locked by another writer"), locked(tmp_path / "lock"):
            pass
        other.kill()
    refused = []

    def hold():
        try:
            with locked(tmp_path / "lock"):
                pass
        except BlockingIOError as error:
            refused.append(error)

    with locked(tmp_path / "lock"):  # the killed process left none behind
        thread = threading.Thread(target=hold)
        thread.start()
        thread.join()
    assert len(refused) == 1
    hold()
    assert len(refused) == 1


def test_windows_has_a_lock_too(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(files, "fcntl", None)
    module = SimpleNamespace(LK_NBLCK=2, locking=lambda fd, mode, count: calls.append((mode, count)))
    monkeypatch.setitem(sys.modules, "msvcrt", module)
    with locked(tmp_path / "lock"):
        assert calls == [(2, 1)]

    def held(*_arguments):
        raise PermissionError(13, "Permission denied")

    module.locking = held
    with pytest.raises(BlockingIOError), locked(tmp_path / "lock"):
        pass


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def none(*_arguments):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(files.fcntl, "flock", none)
    with pytest.raises(OSError, match="cannot be locked .Operation not supported.; choose a folder on another"):
        locked(tmp_path / "lock").__enter__()
