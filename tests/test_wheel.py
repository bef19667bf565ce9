"""The built wheel, installed where nothing of the checkout is seen: all that a user without git needs."""

from __future__ import annotations

import email
import json
import os
import re
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from mixlab import __version__
from tests.test_project import tracked_files

ROOT = Path(__file__).parent.parent
LABS = sorted((ROOT / "labs").glob("*.ipynb"))
STARTED_S = 120.0  # on a machine that does other things too


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    (built,) = folder.iterdir()
    return built


@dataclass(frozen=True)
class Installed:
    """A Python environment with the wheel in it, and a user's folder outside of any checkout."""

    prefix: Path
    home: Path

    @property
    def package(self) -> Path:
        (found,) = self.prefix.glob("lib/python*/site-packages/mixlab")
        return found

    def command(self, *arguments: str) -> list[str]:
        return [str(self.prefix / "bin" / "mixlab"), *arguments]

    @property
    def environment(self) -> dict[str, str]:
        others = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "JUPYTER"))}
        return {**others, "HOME": str(self.home), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200"}

    def mixlab(self, *arguments: str, exit_code: int = 0) -> str:
        """Returns what the command prints; it must exit with 0, or the code that is given."""
        done = subprocess.run(
            self.command(*arguments), cwd=self.home, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == exit_code, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel in an environment that has the other packages from this one, and not the checkout."""
    root = tmp_path_factory.mktemp("user")
    prefix, home = root / "environment", root / "home"
    home.mkdir()
    venv.create(prefix, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(prefix / "bin" / "python")]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], capture_output=True, check=True)
    found = Installed(prefix, home)
    # A .pth file that stands in a folder named by another one is not read: an editable mixlab stays unseen.
    (found.package.parent / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for data in ("share", "etc"):  # JupyterLab's pages and its extensions' settings
        if (Path(sys.prefix) / data).exists():
            (prefix / data).symlink_to(Path(sys.prefix) / data)
    return found


def test_the_wheel_has_the_labs_and_pictures_as_they_are(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    shipped = {path for path in tracked_files() if path.relative_to(ROOT).parts[0] == "labs"}
    assert len(shipped) > len(LABS)
    assert {name: content for name, content in held.items() if name.startswith("mixlab/cli/labs/")} == {
        f"mixlab/cli/{path.relative_to(ROOT)}": path.read_bytes() for path in shipped
    }
    assert {Path(name).suffix for name in held} >= {".py", ".pyi", ".js", ".css", ".json"}
    assert not [name for name in held if name.startswith(("tests/", "labs/")) or "runs/" in name]


def test_the_page_on_a_package_index_stands_alone(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        said = email.message_from_bytes(archive.read(f"mixlab-{__version__}.dist-info/METADATA"))
    assert said["Version"] == __version__
    page = str(said.get_payload())
    assert re.findall(r"\]\((?!https://)", page) == []
    assert page.count(f"https://raw.githubusercontent.com/mixlab/mixlab/v{__version__}/labs/img/") == 8
    assert f"(https://github.com/mixlab/mixlab/blob/v{__version__}/labs/00_start_here.ipynb)" in page


def test_nothing_of_the_checkout_is_seen(installed: Installed):
    program = "import mixlab; import mixlab.cli.shipped as s; print(s.__file__, s.shipped_labs(), mixlab.__version__)"
    command = [str(installed.prefix / "bin" / "python"), "-c", program]
    done = subprocess.run(
        command, cwd=installed.home, env=installed.environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [
        *(str(installed.package / "cli" / "shipped.py"), str(installed.package / "cli" / "labs"), __version__)
    ]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_lab_serves_copies_the_second_start_changes_nothing_and_reset_loses_nothing(installed: Installed):
    port, log = free_port(), installed.home / "log"
    options = ["--ServerApp.ip=127.0.0.1", "--IdentityProvider.token=", "--ServerApp.allow_root=True"]
    command = installed.command("lab", "--no-browser", "--port", str(port), *options)
    with log.open("wb") as out:
        server = subprocess.Popen(command, cwd=installed.home, env=installed.environment, stdout=out, stderr=out)
    try:
        listed = answer(f"http://127.0.0.1:{port}/api/contents", server, log)
        assert sorted(entry["name"] for entry in json.loads(listed)["content"]) == [path.name for path in LABS]
        assert b"JupyterLab" in answer(f"http://127.0.0.1:{port}/lab", server, log)
    finally:
        server.terminate()
        server.wait(timeout=30)
    mine = installed.home / "mixlab-labs"
    assert {name: content for name, content in contents(mine).items() if name.endswith(".ipynb")} == {
        path.name: path.read_bytes() for path in LABS
    }
    (mine / LABS[0].name).write_text("my work")
    (mine / LABS[1].name).unlink()
    before = contents(mine)
    # JupyterLab, asked for its version, ends.
    assert f"Your labs: {mine}\nNew there: {LABS[1].stem}\n" in installed.mixlab("lab", "--version")
    after = contents(mine)
    assert after == before | {LABS[1].name: LABS[1].read_bytes()}
    assert f"{LABS[0].stem} is as mixlab {__version__} brings it" in installed.mixlab("reset", "00")
    assert (mine / LABS[0].name).read_bytes() == LABS[0].read_bytes()
    assert {*after.values()} - {*contents(mine).values()} == set()


def answer(address: str, server: subprocess.Popen[bytes], log: Path) -> bytes:
    end = time.monotonic() + STARTED_S
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(address, timeout=10) as reply:
                return reply.read()
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"no answer within {STARTED_S} s\n{log.read_text()}")


def test_a_lab_runs_and_writes_nothing_where_mixlab_is_installed(installed: Installed):
    before = contents(installed.package)
    installed.mixlab("run", "02", "-p", "steps", "10")
    assert contents(installed.package) == before


def test_the_list_is_of_the_labs_in_the_package(installed: Installed):
    assert [lab["name"] for lab in json.loads(installed.mixlab("labs", "--json"))] == [path.stem for path in LABS]


def test_copies_without_answers_are_handed_out_and_graded(installed: Installed):
    """One student's copy is untouched, one right, one broken; the right one was also run as it was handed out."""
    lab = "05_dynamic_loss_scaling"
    before = contents(installed.package)
    for name in ("anna", "ben", "carl"):
        installed.mixlab("hand-out", f"class/{name}", "05")
    anna, ben, carl = (installed.home / "class" / name / f"{lab}.ipynb" for name in ("anna", "ben", "carl"))
    assert b"expected=" not in anna.read_bytes()
    installed.mixlab("run", str(ben), "-p", "steps", "1")
    question = "Two single overflows, far apart, with hysteresis 2. Which scalers halve their scale at both?"
    answers = {
        "kind": "mixlab answers",
        "version": 1,
        "lab": lab,
        "parameters": {"recipe": "", "loss_scale": 0, "steps": 1, "seed": 0, "task": "digits-mlp"},
        "predictions": {question: "torch and apex"},
        "answers": {"1": "5", "2": "=4+4"},
    }
    (ben.parent / "runs" / lab).mkdir(parents=True)
    (ben.parent / "runs" / lab / "answers.json").write_text(json.dumps(answers))
    text = anna.read_text()
    assert text.count('"steps = 120') == 1
    anna.write_text(text.replace('"steps = 120', '"steps = 1'))  # as ben's: one run grades both
    carl.write_bytes(carl.read_bytes()[:3000])
    found = json.loads(installed.mixlab("grade", "class", "--json", "--csv", "grades.csv", exit_code=1))["grades"]
    assert [one["student"] for one in found] == ["anna", "ben", "carl"]
    assert [one["predictions"] and one["predictions"]["right"] for one in found] == [0, 1, None]
    assert [one["exercises"] and tuple(one["exercises"].values()) for one in found] == [(0, 0, 2), (1, 2, 2), None]
    assert "was cut off" in found[2]["trouble"][0]
    assert '"\'=4+4"' in (installed.home / "grades.csv").read_text()
    assert contents(installed.package) == before
