"""How mixlab is installed and checked elsewhere: its lowest versions, and the workflows with what they call."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import mixlab

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
STATED = [Requirement(line) for line in [*PROJECT["dependencies"], *EXTRAS["lab"], *EXTRAS["dev"]]]
NEEDED = [one for one in STATED if one.name != "mixlab"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def pins(file: str) -> dict[str, Version]:
    """Returns the versions of a file of pins by canonical name; every line is a comment or an exact pin."""
    lines = [line for line in (ROOT / file).read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    pairs = [line.split("==") for line in lines]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def jobs() -> list[tuple[str, str, dict[str, Any]]]:
    """Returns (workflow, name, job) of all jobs."""
    read = [(path.name, yaml.safe_load(path.read_text())) for path in WORKFLOWS]
    return [(file, name, job) for file, workflow in read for name, job in workflow["jobs"].items()]


def commands() -> list[str]:
    return [step["run"] for _, _, job in jobs() for step in job.get("steps", []) if "run" in step]


def pythons_of(job: dict[str, Any]) -> list[str]:
    """Returns the versions of Python that a job runs on."""
    listed = job.get("strategy", {}).get("matrix", {}).get("python-version", [])
    set_up = [step.get("with", {}).get("python-version", "") for step in job.get("steps", [])]
    return [*listed, *(version for version in set_up if version and "$" not in version)]


@pytest.mark.parametrize("one", NEEDED, ids=str)
def test_the_lowest_version_is_the_one_that_is_tested(one: Requirement):
    """Each requirement has a lower bound and nothing else, and `make lowest` installs that version."""
    (bound,) = one.specifier
    assert bound.operator == ">="
    lowest, usual = (pins(f".ci/{file}.txt")[canonicalize_name(one.name)] for file in ("lowest", "constraints"))
    assert lowest == Version(bound.version) <= usual


@pytest.mark.parametrize("one", [Requirement(line) for line in EXTRAS["models"]], ids=str)
def test_models_of_others_are_tested_with_a_version_that_is_allowed(one: Requirement):
    assert pins(".ci/constraints.txt")[canonicalize_name(one.name)] in one.specifier


def test_the_lowest_python_is_the_one_that_is_tested():
    lowest = PROJECT["requires-python"].removeprefix(">=")
    found = {(file, name): pythons_of(job) for file, name, job in jobs()}
    assert found["test.yml", "lowest"] == [lowest]
    assert found["test.yml", "test"][0] == lowest
    assert Version(found["test.yml", "test"][-1]) > Version(lowest)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_fits_the_schema_of_workflows(path: Path):
    program = Path(sys.executable).with_name("check-jsonschema")
    command = [str(program), "--builtin-schema", "vendor.github-workflows", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_broken_workflow_is_found(tmp_path: Path):
    broken = tmp_path / "broken.yml"
    broken.write_text((ROOT / ".github/workflows/test.yml").read_text().replace("runs-on:", "run-on:"))
    program = Path(sys.executable).with_name("check-jsonschema")
    command = [str(program), "--builtin-schema", "vendor.github-workflows", str(broken)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "run-on" in done.stdout


def test_workflows_call_what_is_here():
    """A target of Makefile, or a script that can be executed; every job that runs something ends within an hour."""
    targets = set(re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for command in commands():
        program, *words = command.split()
        if program == "make":
            assert set(words) <= targets, command
        elif program.startswith("."):
            assert os.access(ROOT / program, os.X_OK), command
    assert {"make docs", "make lowest", "make dist", ".ci/run"} <= set(commands())
    assert all(job.get("timeout-minutes", 99) <= 60 for _, _, job in jobs() if "steps" in job)


def test_a_release_is_published_by_a_tag_alone_and_only_with_its_version():
    release = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
    assert release[True] == {"push": {"tags": ["v*"]}}  # YAML reads the key "on" as true
    assert release["jobs"]["publish"]["needs"] == "test"
    (check,) = [step["run"] for step in release["jobs"]["publish"]["steps"] if "run" in step]
    tags = {f"v{mixlab.__version__}": 0, "v9.9.9": 1, "v": 1}
    for tag, code in tags.items():
        done = subprocess.run(["bash", "-c", check], cwd=ROOT, env={**os.environ, "GITHUB_REF_NAME": tag}, check=False)
        assert done.returncode == code, tag


@pytest.mark.parametrize("script", ["dist", "install-chromium", "other-cpus", "run"])
def test_scripts_are_bash_that_stops_at_an_error(script: str):
    path = ROOT / ".ci" / script
    assert os.access(path, os.X_OK)
    assert "\nset -euo pipefail\n" in path.read_text()
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_make_lowest_installs_the_lowest_versions_elsewhere():
    printed = subprocess.run(["make", "-n", "lowest"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "-c .ci/lowest.txt" in printed
    assert "build/lowest/bin/python -m pytest" in printed
    assert ".venv/bin" not in printed
    assert "constraints.txt" not in printed
