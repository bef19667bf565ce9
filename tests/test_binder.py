"""The Binder folder, as far as it can be checked without docker and without conda's channels."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

import mixlab
from tests.binder_lock import HEADER, LOCK, conda_pins, needed, requirements, versions_there

ROOT = Path(__file__).parent.parent
BINDER = ROOT / "binder"
README = (ROOT / "README.md").read_text()


def test_repo2docker_accepts_the_folder():
    program = Path(sys.executable).with_name("jupyter-repo2docker")
    command = [str(program), "--no-build", "--no-run", "--debug", str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed
    assert "Building conda environment for python=3.12" in printed
    assert '--file "binder/environment.yml"' in printed
    assert "RUN ./binder/postBuild" in printed
    assert 'ENV R2D_ENTRYPOINT="${REPO_DIR}/binder/start"' in printed


def test_the_badge_opens_the_tag_of_this_version():
    links = re.findall(r"mybinder\.org/v2/gh/mixlab/mixlab/([^?]+)\?urlpath=lab/tree/(\S+?)\)", README)
    assert links == [(f"v{mixlab.__version__}", "labs/00_start_here.ipynb")]


def test_conda_and_pip_install_exact_versions():
    assert all(re.fullmatch(r"\d+(\.\d+)+", version) for version in conda_pins().values())
    header, *lines = LOCK.read_text().splitlines(keepends=True)
    assert header == HEADER
    assert all(re.fullmatch(r"[a-z0-9-]+==\d[\w.]*\n", line) for line in lines)


def test_what_is_locked_is_all_that_the_labs_need():
    """If it fails: `python -m tests.binder_lock`."""
    locked = dict(line.strip().split("==") for line in LOCK.read_text().splitlines()[1:])
    there = versions_there("3.12")
    assert locked.keys().isdisjoint({"torch", "numpy", "scikit-learn"})
    assert {one.name for one in needed()} >= {"jupyterlab", "anywidget", "plotly", "typer"}
    for one in needed():
        name = canonicalize_name(one.name)
        assert (locked | there).get(name, "0") in one.specifier, one


def test_torch_of_conda_is_one_that_mixlab_takes():
    stated = {one.name: one.specifier for one in requirements()}
    for name in ("torch", "numpy", "scikit-learn"):
        assert conda_pins()[name] in stated[name]


@pytest.mark.parametrize("name", ["postBuild", "start"])
def test_scripts_are_executable_and_stop_at_an_error(name: str):
    script = BINDER / name
    assert os.access(script, os.X_OK)
    assert "\nset -euo pipefail\n" in script.read_text()


def test_start_hands_over_to_the_command():
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [str(BINDER / "start"), "bash", "-c", 'echo "$1 with $OMP_NUM_THREADS"', "-", "two words"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "two words with 2\n"


def test_post_build_keeps_torch_and_configures_jupyterlab(tmp_path: Path):
    """With stubs for python and pip: what would be installed, and what JupyterLab then reads."""
    stub = tmp_path / "bin" / "python"
    stub.parent.mkdir()
    log = tmp_path / "log"
    stub.write_text(f'#!/bin/sh\n[ "$1" = -c ] && echo 2.12.1 || echo "$@" >> {log}\n')
    stub.chmod(0o755)
    environment = {"PATH": f"{stub.parent}:{os.environ['PATH']}", "NB_PYTHON_PREFIX": str(tmp_path / "prefix")}
    environment["TMPDIR"] = str(tmp_path)
    subprocess.run([str(BINDER / "postBuild")], cwd=ROOT, env=environment, capture_output=True, check=True)
    pins = f"-c {tmp_path}/torch-pin.txt -c binder/constraints.txt"
    assert log.read_text() == f"-m pip install --no-cache-dir {pins} .[lab]\n"
    assert (tmp_path / "torch-pin.txt").read_text() == "torch==2.12.1\n"
    installed, shipped = tmp_path / "prefix/etc/jupyter", ROOT / "mixlab/cli/jupyter_config"
    files = [path.relative_to(shipped) for path in sorted(shipped.rglob("*.json"))]
    assert [path.name for path in files] == [
        *("jupyter_server_config.json", "default_setting_overrides.json", "page_config.json"),
    ]
    for file in files:
        assert json.loads((installed / file).read_text()) == json.loads((shipped / file).read_text())
