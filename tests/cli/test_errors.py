"""No command shows a traceback for what somebody typed, or for the files that are there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from mixlab.cli import commands, notebooks, shipped

FIXTURE = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
WORDS = st.sampled_from(
    [
        "",
        " ",
        "fp16",
        "bf16",
        "e4m3fn",
        "e5m3",
        "e99m99",
        "e0m0",
        "e8m0",
        "amp-fp16",
        "amp-fp16,scale=0^-1",
        "nan",
        "-1",
        "0",
        "1",
        "2",
        "1e400",
        "-inf",
        "9" * 400,
        "2^-1",
        "cpu",
        "cuda:99",
        "tpu",
        "gpt2",
        "h200",
        "x.json",
        "/",
        "/dev/null",
        "/proc/none",
        "a" * 300,
        "a\x00b",
        "fused",
        "none",
        "saturate",
        "--json",
        "--",
        "-p",
        "ü",
        "�",
    ]
) | st.text(max_size=6)
OPTIONS = {
    ("formats",): ["--json"],
    ("explain",): ["--overflow", "--json"],
    ("memory",): [
        "--model",
        "--recipe",
        "--batch",
        "--seq",
        "--attention",
        "--gpus",
        "--zero",
        "--fsdp",
        "--tensor",
        "--pipeline",
        "--microbatches",
        "--gpu",
        "--check",
        "--optimizer",
        "--step",
        "--accumulation",
        "--json",
    ],
    ("train", "--steps", "0", "--task", "digits-mlp", "--device", "cpu"): [
        "--recipe",
        "--seed",
        "--loss-weight",
        "--probe-every",
        "--run",
        "--task",
        "--device",
    ],
    ("measure", "cast", "--device", "none"): ["--numel", "--rounds", "--threads", "--seed", "--out", "--formats"],
    ("measure", "train", "--steps", "0"): ["--recipes", "--modes", "--width", "--heads", "--device", "--out"],
    ("measure", "optimizer", "--rounds", "0"): ["--recipes", "--backends", "--modes", "--numel", "--threads", "--out"],
    ("measure", "memory", "--rounds", "0"): ["--device", "--cases", "--seed", "--out"],
    ("measure", "states", "--steps", "0"): ["--seeds", "--out"],
    ("measure", "emulation", "--formats", "none"): ["--device", "--seed", "--out"],
    ("claims", "--verdict", "none"): ["--json"],
    ("claims", "none"): ["--verdict", "--json"],
    ("lab", "--port", "0"): ["--no-browser"],
    ("labs",): ["--json"],
    ("reset", "--in", "nowhere"): ["--in", "--all", "--runs"],
    ("run",): ["-p", "--out"],
    (): ["--version", "--help"],
}


@st.composite
def typed(draw: st.DrawFn) -> list[str]:
    command = draw(st.sampled_from(list(OPTIONS)))
    given_ = draw(st.lists(st.tuples(st.sampled_from([*OPTIONS[command], ""]), WORDS), max_size=3))
    return [*command, *(word for pair in given_ for word in pair if word != "")]


def assert_answered(arguments: list[str]) -> Any:
    result = CliRunner().invoke(commands.app, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), (arguments, result.exc_info)
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new current folder. What a test writes to `labs` in it are the labs that mixlab brings."""
    own, there = tmp_path / "labs", shipped.shipped_labs()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shipped, "shipped_labs", lambda: own if own.exists() else there)
    return tmp_path


@settings(max_examples=60, suppress_health_check=FIXTURE)
@given(typed())
def test_whatever_is_typed_is_answered_in_words(folder, arguments):
    assert_answered(arguments)


@pytest.mark.slow
@settings(max_examples=1500, suppress_health_check=FIXTURE)
@given(typed())
def test_whatever_is_typed_is_answered_in_words_at_length(folder, arguments):
    assert_answered(arguments)


def test_a_power_of_zero_is_no_scale():
    result = assert_answered(["train", "--recipe", "amp-fp16,scale=0^-1"])
    assert result.exit_code == 2
    assert "'0^-1' is not a number such as 1024, 1e-3 or 2^10" in result.stderr


@pytest.mark.parametrize("command", [["train", "--steps", "1", "--run"], ["measure", "states", "--out"]])
@pytest.mark.parametrize("place", ["file/x", "/proc/x/y", "/proc/self/x", "/dev/null", "a" * 300, "folder"])
def test_what_cannot_be_written_is_named_at_once(folder, command, place):
    (folder / "file").write_text("")
    (folder / "folder").mkdir()
    (folder / "folder" / "x").write_text("")
    result = assert_answered([*command, place])
    assert result.exit_code == 2
    assert result.stderr.strip()
    assert sorted(path.name for path in folder.iterdir()) == ["file", "folder"]


def write(path: Path, *cells: Any, **metadata: Any) -> Path:
    notebook = nbformat.v4.new_notebook(cells=list(cells), metadata=metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


def code(source: str, *tags: str) -> Any:
    return nbformat.v4.new_code_cell(source, metadata={"tags": list(tags)})


@pytest.mark.parametrize(
    ("cell", "names"),
    [
        (code("%precision 3\nsteps = 1\n!ls\nwhere = %pwd", "parameters"), ("steps", "where")),
        (code("%%time\nsteps: int = 1", "parameters"), ("steps",)),
        (code("a = b = 1\na = 2\nf(c=3)", "parameters"), ("a", "b")),
        (nbformat.v4.new_markdown_cell("not python", metadata={"tags": ["parameters"]}), ()),
        (code("", "parameters"), ()),
    ],
)
def test_parameters_of_odd_cells_are_found(tmp_path, cell, names):
    assert notebooks.parameter_names(write(tmp_path / "x.ipynb", cell)) == names


@pytest.mark.parametrize("source", ["steps = ", "def", "\x00", "'''", "%%bash\nif true; then ls; fi", "  x = 1\n y"])
def test_a_cell_of_parameters_that_is_no_python_is_named(tmp_path, source):
    notebook = write(tmp_path / "x.ipynb", code(source, "parameters"))
    result = assert_answered(["run", str(notebook), "-p", "steps", "1"])
    assert result.exit_code == 2
    assert "x.ipynb" in result.stderr or "x has no parameter 'steps'" in result.stderr


def test_a_notebook_without_a_kernel_or_with_expected_errors_runs(tmp_path):
    """No kernelspec, no language, a magic among the parameters, an exception that is tagged."""
    cells = code("%precision 3\nsteps = 1", "parameters"), code("1 / 0", "raises-exception"), code("print(steps)")
    notebook = write(tmp_path / "x.ipynb", *cells)
    result = assert_answered(["run", str(notebook), "-p", "steps", "7", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    kept = (tmp_path / "out" / "x.ipynb").read_text()
    assert '"7\\n"' in kept
    assert "An Exception was encountered" not in kept
    cells = code("1 / 0", "raises-exception"), code("undefined"), code("print(1)")
    result = assert_answered(["run", str(write(notebook, *cells))])
    assert result.exit_code == 1
    assert "x, cell 2: NameError: name 'undefined' is not defined" in result.stderr


@pytest.mark.parametrize("out", [".", "labs", "labs/../labs", "link", "hard"])
def test_a_lab_is_never_overwritten(folder, out):
    lab = write(folder / "labs" / "01.ipynb", code("1"))
    (folder / "link").symlink_to("labs")
    (folder / "hard").mkdir()
    os.link(lab, folder / "hard" / "01.ipynb")
    os.symlink(lab, folder / "01.ipynb")
    before = lab.read_bytes()
    for name in ("01", "labs/01.ipynb", "link/01.ipynb"):
        result = assert_answered(["run", name, "--out", out])
        assert result.exit_code == 2
        assert "would be overwritten; give another folder with --out" in result.stderr
    assert lab.read_bytes() == before


def test_neither_is_another_lab_but_an_executed_one_is(folder):
    write(folder / "labs" / "01.ipynb", code("1"))
    other = write(folder / "mine" / "01.ipynb", code("2"))
    assert assert_answered(["run", str(other), "--out", "labs"]).exit_code == 2
    with pytest.raises(shipped.LabError, match="would be overwritten"):
        notebooks.run_notebook(other, {}, out=folder / "labs", progress=False)
    write(folder / "out" / "01.ipynb", code("3"), papermill={})
    notebooks._refuse_to_lose(folder / "out" / "01.ipynb", other)


@pytest.mark.parametrize("place", ["run_notebook", "_read", "_refuse_to_lose", "_execute", "_publish"])
def test_control_c_is_answered_wherever_it_comes(folder, monkeypatch, place):
    def interrupted(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    write(folder / "labs" / "01.ipynb", code("1"))
    monkeypatch.setattr(notebooks, place, interrupted)
    if place == "_publish":
        monkeypatch.setattr(notebooks, "_execute", lambda _notebook, executed, *_: executed.write_text("{}"))
    result = assert_answered(["run", "01", "--out", "out"])
    assert result.exit_code == 130
    assert "01: stopped" in result.stderr


def test_root_is_told_what_is_added(folder, monkeypatch):
    write(folder / "labs" / "01.ipynb", code("1"))
    monkeypatch.setattr(os, "execve", lambda *_: None)
    for user, said in ((0, True), (1000, False)):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        assert ("--allow-root" in assert_answered(["lab"]).stderr) == said


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"nbformat": 4}', "\udcff", json.dumps({"cells": [{}], "nbformat": 4})]
)
def test_a_file_that_is_no_notebook_is_named(tmp_path, content):
    (tmp_path / "x.ipynb").write_text(content, errors="surrogateescape")
    result = assert_answered(["run", str(tmp_path / "x.ipynb"), "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "x.ipynb is not a notebook that Jupyter can read" in result.stderr


def test_the_command_itself_shows_no_traceback(tmp_path):
    arguments = ["train", "--recipe", "amp-fp16,scale=0^-1", "--run", "/dev/null/x"]
    done = subprocess.run([sys.executable, "-m", "mixlab", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
