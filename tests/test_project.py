"""What is committed: labs without outputs, no path of anybody's machine, pins that fit the project."""

from __future__ import annotations

import copy
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
LABS = sorted((ROOT / "labs").glob("*.ipynb"))

# Folders that belong to one machine or one person, never to the repository.
PRIVATE_PATH = re.compile(r"(?<![\w.}])/(?:home|Users|root|work)/\w")
TOP_LEVEL = {"labs", "mixlab", "tests", "binder", "pyproject.toml", "README.md", "Makefile", "LICENSE", "CHANGELOG.md"}


def tracked_files() -> list[Path]:
    """Returns the files that git has, or would take, from this checkout."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def leftovers(notebook: Any) -> list[str]:
    """Returns what an execution has left in a notebook."""
    found = [key for key in ("widgets", "papermill") if key in notebook.metadata]
    for number, cell in enumerate(notebook.cells):
        if cell.get("outputs"):
            found.append(f"outputs of cell {number}")
        if cell.get("execution_count") is not None:
            found.append(f"execution count of cell {number}")
    return found


def private_paths(text: str) -> list[str]:
    named = [path for path in (str(ROOT), f"{Path.home()}/") if path in text]
    return named + PRIVATE_PATH.findall(text)


@pytest.mark.parametrize("path", LABS, ids=lambda path: path.stem)
def test_labs_are_stripped(path: Path):
    assert leftovers(nbformat.read(path, as_version=4)) == []


def test_an_executed_notebook_is_found():
    clean = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")])
    assert leftovers(clean) == []
    executed = copy.deepcopy(clean)
    executed.cells[0].outputs = [nbformat.v4.new_output("stream", text="2")]
    executed.cells[0].execution_count = 1
    executed.metadata["widgets"] = {}
    assert leftovers(executed) == ["widgets", "outputs of cell 0", "execution count of cell 0"]


def test_no_file_names_this_machine():
    found = {}
    for path in tracked_files():
        try:
            found[path.name] = private_paths(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            continue
    assert {name: paths for name, paths in found.items() if paths} == {}


def test_a_planted_path_is_found():
    assert private_paths(f"cd {ROOT}/labs") != []
    assert private_paths("see /ho" + "me/ada/mixlab") != []
    assert private_paths("cd labs; see docs/work/notes and ${HOME}/work/notes") == []


def test_top_level_holds_only_the_rooms():
    names = {path.relative_to(ROOT).parts[0] for path in tracked_files()}
    assert {name for name in names if not name.startswith(".")} <= TOP_LEVEL


def test_pins_are_exact_and_cover_the_extras():
    lines = (ROOT / ".ci" / "constraints.txt").read_text().split()
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    pinned = {canonical(line.partition("==")[0]) for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    stated = [*project["dependencies"], *extras["lab"], *extras["dev"]]
    names = {canonical(re.split(r"[\[>=<]", line)[0]) for line in stated} - {"mixlab"}
    assert names <= pinned


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
