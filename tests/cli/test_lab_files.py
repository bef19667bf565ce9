"""What a lab's file says of itself, and the list that `mixlab labs` makes of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nbformat
import pytest
from typer.testing import CliRunner

from mixlab.cli import shipped
from mixlab.cli.commands import app
from mixlab.cli.lab_files import StatedParameter, read_lab

LABS = Path(__file__).parents[2] / "labs"


def write(path: Path, parameters: str, *tags: str) -> Path:
    cells = [
        nbformat.v4.new_markdown_cell("# My page\n\n*Time: 7 minutes. Needs: nothing.*"),
        nbformat.v4.new_code_cell(parameters, metadata={"tags": list(tags)}),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_title_minutes_and_parameters_are_read(tmp_path: Path):
    lab = read_lab(write(tmp_path / "mine.ipynb", "steps: int = -3  # of each run\nrecipe = 'fp32'", "parameters"))
    assert (lab.name, lab.title, lab.minutes) == ("mine", "My page", 7)
    assert lab.parameters == (StatedParameter("steps", -3, "of each run"), StatedParameter("recipe", "fp32", ""))


@pytest.mark.parametrize(
    "source", ["%precision 3\nsteps = 1", "steps = 2 ** 3", "a = b = 1", "print(1)", "x: int", "'''", "steps += 4"]
)
def test_what_only_jupyter_can_read_is_left_to_it(tmp_path: Path, source: str):
    assert read_lab(write(tmp_path / "mine.ipynb", source, "parameters")) is None


@pytest.mark.parametrize(
    "content", ["", "[]", '{"cells": [{}]}', '{"cells": [{"source": 3, "cell_type": "code"}]}', "\0"]
)
def test_a_damaged_file_is_left_to_jupyter(tmp_path: Path, content: str):
    (tmp_path / "x.ipynb").write_text(content)
    assert read_lab(tmp_path / "x.ipynb") is None
    assert read_lab(tmp_path / "missing.ipynb") is None


def test_a_copy_of_a_lab_is_checked_and_a_notebook_of_your_own_is_not(tmp_path: Path):
    shutil.copy(LABS / "04_training_modes.ipynb", tmp_path)
    with pytest.raises(ValueError, match="steps must be a whole number from 1 to 100000, got 0"):
        read_lab(tmp_path / "04_training_modes.ipynb").check({"steps": 0})
    for name in ("04_training_modes", "mine"):  # a lab's name, with other parameters
        write(tmp_path / f"{name}.ipynb", "steps = 1", "parameters")
        read_lab(tmp_path / f"{name}.ipynb").check({"steps": 0})


def test_the_list_has_every_lab_with_its_defaults_and_what_is_allowed():
    shown = json.loads(CliRunner().invoke(app, ["labs", "--json"]).stdout)
    assert [lab["name"] for lab in shown] == [path.stem for path in sorted(LABS.glob("*.ipynb"))]
    assert all(lab["title"] and lab["minutes"] for lab in shown)
    for lab in shown:
        for parameter in lab["parameters"]:
            assert {"name", "default", "meaning", "allowed", "type"} <= parameter.keys()
    (memory,) = json.loads(CliRunner().invoke(app, ["labs", "07", "--json"]).stdout)
    steps = next(one for one in memory["parameters"] if one["name"] == "steps")
    assert (steps["low"], steps["high"], steps["type"]) == (1, 4, "whole number")


def test_the_tables_name_defaults_meanings_and_bounds():
    listed = CliRunner().invoke(app, ["labs"], env={"COLUMNS": "120"}).stdout
    assert all(path.stem in listed for path in LABS.glob("*.ipynb"))
    assert "in lab 07: a whole number from 1 to 4" in listed
    one = CliRunner().invoke(app, ["labs", "02"], env={"COLUMNS": "120"}).stdout
    assert "loss_weight  1e-06" in one
    assert "a number from 1e-12 to 1000" in one


@pytest.mark.parametrize("columns", [80, 100, 140])
def test_the_list_keeps_to_the_width_of_the_terminal(columns: int):
    listed = CliRunner().invoke(app, ["labs"], env={"COLUMNS": str(columns)}).stdout
    assert max(map(len, listed.splitlines())) <= columns
    assert all(path.stem in listed for path in LABS.glob("*.ipynb"))
    assert all(word in listed for word in ("Underflow", "precision", "amp-bf16", "digits-mlp"))


def test_a_notebook_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "labs").mkdir()
    write(tmp_path / "labs" / "01_mine.ipynb", "steps = 1", "parameters")
    (tmp_path / "labs" / "02_broken.ipynb").write_text("{")
    monkeypatch.setattr(shipped, "shipped_labs", lambda: tmp_path / "labs")
    listed = CliRunner().invoke(app, ["labs", "--json"])
    assert listed.exit_code == 0
    assert [lab["name"] for lab in json.loads(listed.stdout)] == ["01_mine"]
    assert listed.stderr.startswith("02_broken.ipynb is left out: it is damaged")
    assert len(listed.stderr.splitlines()) == 1
    alone = CliRunner().invoke(app, ["labs", "02"])
    assert (alone.exit_code, alone.stdout) == (2, "")
    assert "02_broken.ipynb cannot be read: it is damaged" in alone.stderr
