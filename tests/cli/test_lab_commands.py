"""`mixlab lab` and `mixlab reset`: which folder they mean, and what they say."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mixlab import __version__
from mixlab.cli import commands, lab_commands, shipped
from mixlab.cli.answerless import is_untouched

Started = list[tuple[list[str], dict[str, str]]]


@pytest.fixture
def labs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The labs that mixlab brings, small ones; the current folder is a new one."""
    folder = tmp_path / "shipped"
    for place in (folder, tmp_path / "here"):
        place.mkdir()
    for name in ("01_formats", "02_underflow", "02_windows"):
        (folder / f"{name}.ipynb").write_text(name)
    monkeypatch.setattr(shipped, "shipped_labs", lambda: folder)
    monkeypatch.chdir(tmp_path / "here")
    return folder


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    """What would have become JupyterLab: commands and environments."""
    found: Started = []

    def execve(program: str, command: list[str], environment: dict[str, str]) -> None:
        assert program == sys.executable
        found.append((command, environment))

    monkeypatch.setattr(os, "execve", execve)
    return found


def mixlab(*arguments: str) -> Any:
    return CliRunner().invoke(commands.app, arguments)


@pytest.mark.usefixtures("labs")
def test_lab_opens_copies_and_says_where_they_are(tmp_path: Path, started: Started):
    first = mixlab("lab", "--port", "9999", "--no-browser", "--ServerApp.token=abc")
    assert first.exit_code == 0, first.stderr
    mine = tmp_path / "here" / "mixlab-labs"
    assert first.stdout.splitlines() == [f"Your labs: {mine}", "New there: 01_formats, 02_underflow, 02_windows"]
    command, environment = started[0]
    assert command[1:4] == ["-m", "jupyterlab", str(mine)]
    assert {"--ServerApp.port=9999", "--no-browser"} <= {*command}
    assert ("--allow-root" in command) == (os.geteuid() == 0)
    assert command[-1] == "--ServerApp.token=abc"
    assert environment["JUPYTER_CONFIG_PATH"].endswith("jupyter_config")
    assert mixlab("lab").stdout.splitlines() == [f"Your labs: {mine}"]


def test_a_new_version_is_told_lab_by_lab(labs: Path, started: Started):
    mixlab("lab", "mine")
    Path("mine/01_formats.ipynb").write_text("my work")
    for path in labs.iterdir():
        path.write_text("new")
    assert mixlab("lab", "mine").stdout.splitlines()[1:] == [
        f"Replaced by mixlab {__version__}'s, as you had not changed them: 02_underflow, 02_windows",
        f"01_formats stays as you have it; mixlab {__version__}'s is beside it: 01_formats.mixlab-{__version__}.ipynb",
    ]
    Path("mine/.mixlab/laid.json").write_text("{")
    damaged = mixlab("lab", "mine")
    assert damaged.exit_code == 0
    assert "laid.json does not say what was laid" in damaged.stderr
    assert len(started) == 3


@pytest.mark.usefixtures("labs")
@pytest.mark.parametrize(
    ("typed", "folder", "extra"),
    [
        (["mine"], "mine", []),
        (["mine", "--ServerApp.ip=::"], "mine", ["--ServerApp.ip=::"]),
        (["--no-browser", "mine", "--debug", "x"], "mine", ["--debug", "x"]),
        (["--debug", "x"], "mixlab-labs", ["--debug", "x"]),
        (["ä b/{c}"], "ä b/{c}", []),
    ],
)
def test_the_folder_stands_before_what_goes_to_jupyterlab(started: Started, typed, folder, extra):
    result = mixlab("lab", *typed)
    assert result.exit_code == 0, result.stderr
    command, _ = started[0]
    assert command[3] == str(Path.cwd() / folder)
    assert [word for word in command[4:] if word not in ("--no-browser", "--allow-root")] == extra
    assert [path.name for path in Path.cwd().iterdir()] == [folder.split("/")[0]]


@pytest.mark.usefixtures("labs")
def test_within_the_folder_the_same_folder_is_meant(started: Started, monkeypatch: pytest.MonkeyPatch):
    mixlab("lab")
    monkeypatch.chdir("mixlab-labs")
    assert mixlab("lab").stdout.splitlines() == [f"Your labs: {Path.cwd()}"]
    assert not Path("mixlab-labs").exists()
    Path("01_formats.ipynb").write_text("my work")
    assert "01_formats is as mixlab" in mixlab("reset", "01").stdout


def test_authors_open_the_labs_themselves_and_nobody_opens_those_of_an_installation(
    labs: Path, started: Started, monkeypatch: pytest.MonkeyPatch
):
    refused = mixlab("lab", str(labs))
    assert refused.exit_code == 2
    assert "is where mixlab keeps its own labs; give a folder of your own" in refused.stderr
    monkeypatch.setattr(shipped, "_BESIDE_SOURCE", labs)
    assert mixlab("lab", str(labs)).stdout.startswith("These are mixlab's own labs, not copies")
    assert [command[3] for command, _ in started] == [str(labs)]
    assert len(list(labs.iterdir())) == 3


@pytest.mark.usefixtures("labs")
@pytest.mark.parametrize("place", ["file", "file/below", "/dev/null", "/proc/none", "a" * 300, "", "loop"])
def test_a_folder_that_cannot_be_is_refused_in_a_sentence(started: Started, place: str):
    Path("file").write_text("mine")
    Path("loop").symlink_to("loop")
    for arguments in (["lab", place], ["reset", "01", "--in", place]):
        result = mixlab(*arguments)
        assert result.exit_code == 2
        assert len(result.stderr.strip().splitlines()) == 1
    assert started == []
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["file", "loop"]


@pytest.mark.usefixtures("labs")
@pytest.mark.parametrize("name", ["01", "01_formats", "mine.ipynb"])
def test_a_lab_is_no_folder(started: Started, name: str):
    result = mixlab("lab", name)
    assert result.exit_code == 2
    assert f"'{name}' is a lab, and `mixlab lab` takes a folder: it opens all labs" in result.stderr
    assert list(Path.cwd().iterdir()) == []
    Path(name).mkdir()
    assert mixlab("lab", name).exit_code == 0
    assert [command[3] for command, _ in started] == [str(Path.cwd() / name)]


@pytest.mark.usefixtures("labs")
def test_lab_without_jupyterlab_lays_nothing(monkeypatch: pytest.MonkeyPatch):
    missing = lab_commands.machine.Package("jupyterlab", "jupyterlab>=4.4", None)
    monkeypatch.setattr(lab_commands.machine, "widget_stack", lambda: (missing,))
    result = mixlab("lab")
    assert result.exit_code == 1
    assert "jupyterlab missing" in result.stderr
    assert missing.install_command in result.stderr
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.usefixtures("labs", "started")
def test_reset_says_what_it_did():
    mixlab("lab", "mine")
    Path("mine/01_formats.ipynb").write_text("my work")
    answers = Path("mine/runs/01_formats/answers.json")
    answers.parent.mkdir(parents=True)
    answers.write_text("my answers")
    done = mixlab("reset", "01", "--in", "mine").stdout.splitlines()
    assert done[0] == f"01_formats is as mixlab {__version__} brings it; reload its page if it is open"
    assert done[1].startswith("  your 01_formats.ipynb is now 01_formats.2")
    assert done[2].startswith("  your runs/01_formats/answers.json is now runs/01_formats/answers.2")
    every = mixlab("reset", "--all", "--in", "mine").stdout.splitlines()
    assert every == [
        f"{name} is as mixlab {__version__} brings it; there are no answers"
        for name in ("01_formats", "02_underflow", "02_windows")
    ]


@pytest.mark.usefixtures("labs", "started")
@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["99"], "unknown lab '99'; choose one of: 01_formats, 02_underflow, 02_windows"),
        (["02"], "lab '02' is not unique; choose one of: 02_underflow, 02_windows"),
        (["01", "99"], "unknown lab '99'"),
        ([], "name the labs to reset, such as 02, or give --all, not both"),
        (["01", "--all"], "name the labs to reset, such as 02, or give --all, not both"),
        (["01", "--in", "other"], "no labs in 'other'; `mixlab lab` lays them, --in names another folder"),
    ],
)
def test_a_reset_of_what_is_not_there_is_refused_and_changes_nothing(typed: list[str], words: str):
    mixlab("lab")
    Path("mixlab-labs/01_formats.ipynb").write_text("my work")
    result = mixlab("reset", *typed)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr
    assert Path("mixlab-labs/01_formats.ipynb").read_text() == "my work"


@pytest.fixture
def handed_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The current folder: a student's, with two copies without answers, one of them worked on."""
    monkeypatch.chdir(tmp_path)
    mixlab("hand-out", "mine", "02", "05")
    worked_on = tmp_path / "mine" / "02_underflow_and_loss_scaling.ipynb"
    worked_on.write_bytes(worked_on.read_bytes().replace(b"# Underflow", b"# My underflow"))
    return tmp_path / "mine"


@pytest.mark.parametrize("arguments", [["mine"], []])
def test_copies_that_a_teacher_handed_out_are_opened_and_none_with_answers_is_laid_beside(
    handed_out: Path, started: Started, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
):
    before = {path.name: path.read_bytes() for path in handed_out.iterdir()}
    if not arguments:
        monkeypatch.chdir(handed_out)
    assert mixlab("lab", *arguments).stdout == f"Your copies, as they were handed out: {handed_out}\n"
    assert [command[3] for command, _ in started] == [str(handed_out)]
    assert {path.name: path.read_bytes() for path in handed_out.iterdir()} == before


@pytest.mark.parametrize("arguments", [["02"], ["--all"]])
def test_a_reset_copy_has_no_answers_either(handed_out: Path, started: Started, arguments: list[str]):
    done = mixlab("reset", *arguments, "--in", "mine").stdout.splitlines()
    assert done[0] == (
        f"02_underflow_and_loss_scaling is as mixlab {__version__} hands it out; reload its page if it is open"
    )
    copies = sorted(handed_out.glob("*.ipynb"))
    assert len(copies) == 3
    assert b"# My underflow" in copies[0].read_bytes()  # the one with the date in its name
    assert [is_untouched(copy.read_bytes()) for copy in copies] == [False, True, True]
    assert mixlab("lab", "mine").stdout.startswith("Your copies")
    assert len(started) == 1


def test_a_copy_from_a_teacher_among_labs_of_ones_own_gets_no_lab_beside_it(handed_out: Path, started: Started):
    name = "02_underflow_and_loss_scaling.ipynb"
    mixlab("lab", "own")
    (handed_out / name).replace(handed_out.parent / "own" / name)
    Path("own/.mixlab/laid.json").unlink()
    Path("own/05_dynamic_loss_scaling.ipynb").unlink()
    assert mixlab("lab", "own").stdout.startswith("Your copies")
    assert not [path for path in Path("own").iterdir() if ".mixlab-" in path.name]
