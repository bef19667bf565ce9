"""Writes binder/constraints.txt: the exact versions that pip installs on Binder. `python -m tests.binder_lock`

repo2docker begins with an environment of its own, and binder/environment.yml adds torch, numpy and scikit-learn. What
pip has to add to these is solved here, for Binder's Python, so that nothing that is there already gets replaced.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from importlib import util
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "binder" / "constraints.txt"
HEADER = "# Written by `python -m tests.binder_lock`: what pip adds to repo2docker's packages and to environment.yml.\n"

# Where conda-forge and pip name a package differently.
PIP_NAMES = {"python-fastjsonschema": "fastjsonschema", "nbconvert-core": "nbconvert", "pytorch-cpu": "torch"}


def conda_pins() -> dict[str, str]:
    """Returns the versions in binder/environment.yml, by pip's names."""
    stated = yaml.safe_load((ROOT / "binder" / "environment.yml").read_text())["dependencies"]
    pins = dict(line.split("=") for line in stated)
    return {PIP_NAMES.get(name, name): version for name, version in pins.items()}


def versions_there(python: str) -> dict[str, str]:
    """Returns the versions in repo2docker's environment for a Python such as "3.12", by pip's names."""
    (package,) = util.find_spec("repo2docker").submodule_search_locations
    file = Path(package) / "buildpacks" / "conda" / f"environment.py-{python}-linux-64.lock"
    found = re.findall(r"/([a-z][\w.-]*?)-(\d[\w.]*)-\w+\.(?:conda|tar\.bz2)", file.read_text())
    return {canonicalize_name(PIP_NAMES.get(name, name)): version for name, version in found}


def requirements() -> list[Requirement]:
    """Returns what `pip install '.[lab]'` asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [Requirement(line) for line in [*project["dependencies"], *project["optional-dependencies"]["lab"]]]


def needed() -> list[Requirement]:
    """Returns those of them that environment.yml does not have."""
    return [one for one in requirements() if one.name not in conda_pins()]


def solved() -> dict[str, str]:
    """Returns name and version of all that pip would add on Binder."""
    python = ".".join(conda_pins()["python"].split(".")[:2])
    there = versions_there(python)
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "there.txt"
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in there.items()))
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-"]
        for_binder = ["--only-binary", ":all:", "--python-version", python, "--target", folder]
        command = [*pip, *for_binder, "-c", str(constraints), *map(str, needed())]
        report = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    found = {canonicalize_name(one["metadata"]["name"]): one["metadata"]["version"] for one in report["install"]}
    return {name: version for name, version in sorted(found.items()) if there.get(name) != version}


if __name__ == "__main__":
    LOCK.write_text(HEADER + "".join(f"{name}=={version}\n" for name, version in solved().items()))
