"""Every lab, headless: under nbval, and under papermill with other parameters, some of which make it diverge.

Each run asks its kernel for its peak memory, which the terminal's summary prints.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from typer.testing import CliRunner

from mixlab.cli.commands import app
from mixlab.cli.notebooks import CellError, parameter_names, run_notebook
from mixlab.machine import torch_build
from tests.conftest import PEAK_PROPERTY

LABS = Path(__file__).parents[2] / "labs"
NAMES = [path.stem for path in sorted(LABS.glob("*.ipynb"))]
CELL_TIMEOUT_S = 60
# Three labs at once, which seldom peak together, then fit Binder's 2 GB. A torch for GPUs maps far larger libraries.
PEAK_BYTES = 1300e6 if (build := torch_build()) is not None and build.for_gpus else 700e6

# A last cell, which leaves the kernel's status in `peak`. Only Linux tells a process's own peak; elsewhere it includes
# that of the process which started it.
SAY_PEAK = """\
from pathlib import Path
status = Path("/proc/self/status")
Path("peak").write_text(status.read_text() if status.exists() else "")
"""

# Beside the defaults, which nbval runs.
PARAMETERS = {
    "00_start_here": [{"seed": 3}, {"task": "digits-cnn", "seed": 1}],
    "01_number_formats": [
        {"recipe": "amp-bf16", "loss_scale": 8, "steps": 10, "seed": 1},
        {"recipe": "fp16", "task": "digits-cnn", "steps": 10},
    ],
    "02_underflow_and_loss_scaling": [
        {"recipe": "amp-fp16,scaler=static,scale=2^60", "steps": 50, "seed": 1},
        {"recipe": "fp16", "task": "digits-cnn", "steps": 30},
    ],
    "03_inside_amp": [
        {"recipe": "fp16-master", "loss_scale": 256, "steps": 10, "seed": 2},
        {"task": "chars-gpt", "steps": 3},
    ],
    "04_training_modes": [
        {"recipe": "amp-bf16", "loss_scale": 256, "steps": 10, "seed": 2},
        {"recipe": "fp16", "steps": 8},
    ],
    "05_dynamic_loss_scaling": [
        {"recipe": "amp-fp16,scaler=megatron,growth_interval=5", "task": "chars-gpt", "loss_scale": 4096, "steps": 8},
        {"recipe": "fp16", "task": "digits-cnn", "steps": 20},
    ],
    "06_adam_in_low_precision": [
        {"recipe": "bf16-kahan", "task": "chars-gpt", "loss_scale": 8, "steps": 6, "seed": 2},
        {"recipe": "fp16", "task": "digits-mlp", "steps": 30},
    ],
    "07_memory": [
        {"recipe": "bf16-kahan", "task": "chars-gpt", "loss_scale": 8, "steps": 4, "seed": 2},
        {"recipe": "fp16", "steps": 3},
    ],
    "08_bf16_matmul": [
        {"recipe": "amp-fp16", "loss_scale": 8, "steps": 2, "seed": 3, "m": 1000, "n": 17, "gpu": "v100-16gb"},
        {"recipe": "fp32", "task": "digits-cnn", "m": 1, "k": 50257, "fast_kib": 16, "gpu": "b200", "units": 1},
    ],
    "12_the_claims": [
        {"recipe": "amp-bf16", "task": "digits-mlp", "loss_scale": 8, "steps": 6, "seed": 2},
        {"recipe": "fp16", "steps": 40},
    ],
}
DIVERGING = {  # index of the set
    "01_number_formats": 1,
    "02_underflow_and_loss_scaling": 1,
    "04_training_modes": 1,
    "05_dynamic_loss_scaling": 1,
    "06_adam_in_low_precision": 1,
    "12_the_claims": 1,
}


def outputs(path: Path) -> str:
    """Returns all that the cells of an executed notebook show, as text."""
    cells = nbformat.read(path, as_version=4).cells
    shown = (output for cell in cells for output in cell.get("outputs", []))
    return "\n".join(output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in shown)


def pythons(path: Path) -> list[str]:
    """Returns the outputs that only Python can read: a dict, a tuple, a list, a set, a text in quotes."""
    cells = nbformat.read(path, as_version=4).cells
    results = [output for cell in cells for output in cell.get("outputs", []) if "data" in output]
    plain = [output.data["text/plain"] for output in results if output.data.keys() == {"text/plain"}]
    return [text for text in plain if isinstance(literal(text), dict | tuple | list | set | str | bytes)]


def literal(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None


@pytest.fixture(autouse=True)
def without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """The labs as on a machine without a GPU; `test_on_a_gpu` runs them on one."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def copy_with_last_cell(name: str, folder: Path, source: str) -> Path:
    """Writes a copy of a lab that ends with a cell more, into a new folder, and returns its path."""
    notebook = nbformat.read(LABS / f"{name}.ipynb", as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(source, id="last"))
    folder.mkdir()
    nbformat.write(notebook, folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


def check_peak(folder: Path, label: str, say: Callable[[str, object], None]) -> None:
    """Checks the peak that a copy's kernel left in its folder, and says it for the terminal's summary."""
    status = (folder / "peak").read_text()
    if not status and sys.platform != "linux":
        return
    peak_bytes = 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])
    say(PEAK_PROPERTY, f"{label}: {peak_bytes / 1e6:.0f} MB")
    assert 100e6 < peak_bytes <= PEAK_BYTES, f"{label}: the kernel's peak was {peak_bytes / 1e6:.0f} MB"


def test_every_lab_is_here():
    assert PARAMETERS.keys() == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_lab_is_built_as_labs_are(name):
    """Thin cells without `def`, one early cell of parameters, a title, a link onward."""
    notebook = nbformat.read(LABS / f"{name}.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    lines = sorted(len(cell.source.splitlines()) for cell in code)
    assert lines[len(lines) // 2] <= 4
    assert lines[-1] <= 12
    assert not any(re.search(r"^\s*(def|class)\b|import \*", cell.source, re.MULTILINE) for cell in code)
    assert parameter_names(LABS / f"{name}.ipynb")[:5] == ("recipe", "loss_scale", "steps", "seed", "task")
    assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1
    for link in re.findall(r"\((\w+\.ipynb)\)", text):
        assert (LABS / link).exists()
    assert ".ipynb)" in text


@pytest.mark.parametrize("name", NAMES)
def test_the_lab_runs_under_nbval(name, tmp_path, record_property):
    copy = copy_with_last_cell(name, tmp_path / "lab", SAY_PEAK)
    nbval = ["-p", "no:cacheprovider", "--nbval-lax", f"--nbval-cell-timeout={CELL_TIMEOUT_S}"]
    command = [sys.executable, "-m", "pytest", "-q", *nbval, copy.name]
    environment = {**os.environ, "MIXLAB_HEADLESS": "1", "PYTHONPATH": str(LABS.parent)}
    done = subprocess.run(command, cwd=copy.parent, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-4000:]
    assert re.search(r"\b[1-9]\d* passed", done.stdout)
    check_peak(copy.parent, name, record_property)


@pytest.mark.parametrize(
    ("name", "number"), [(name, number) for name, sets in PARAMETERS.items() for number in range(len(sets))]
)
def test_the_lab_runs_under_papermill(name, number, tmp_path, caplog, record_property):
    copy = copy_with_last_cell(name, tmp_path / "lab", SAY_PEAK)
    run_notebook(copy, PARAMETERS[name][number], out=tmp_path, progress=False)
    shown = outputs(tmp_path / f"{name}.ipynb")
    assert pythons(tmp_path / f"{name}.ipynb") == []
    assert ("diverged: " in shown) == (DIVERGING.get(name) == number)
    assert not caplog.messages  # papermill understood the cell of parameters
    check_peak(copy.parent, f"{name} {PARAMETERS[name][number]}", record_property)


def test_a_wrong_recipe_ends_the_lab_with_the_allowed_ones():
    result = CliRunner().invoke(app, ["run", "02_underflow_and_loss_scaling", "-p", "recipe", "amp-fp17"])
    assert result.exit_code == 2
    assert "unknown recipe 'amp-fp17'" in result.stderr
    assert "start with one of fp32, tf32, amp-fp16, amp-bf16, fp16, bf16" in " ".join(result.stderr.split())


def test_a_training_that_does_not_finish_fails_the_lab(tmp_path):
    """The lab asserts what it says: with a training cut short, it does not end green."""
    notebook = nbformat.read(LABS / "02_underflow_and_loss_scaling.ipynb", as_version=4)
    whole, cut = ".steps(steps)) for name, r in recipes", ".steps(steps // 2)) for name, r in recipes"
    assert any(whole in cell.source for cell in notebook.cells)
    for cell in notebook.cells:
        cell.source = cell.source.replace(whole, cut)
    broken = tmp_path / "broken.ipynb"
    nbformat.write(notebook, broken)
    with pytest.raises(CellError, match="AssertionError"):
        run_notebook(broken, {"steps": 40}, progress=False)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak")
def test_a_kernel_that_grows_too_large_is_seen(tmp_path):
    said = []
    (tmp_path / "peak").write_text(f"Name:\tpython\nVmHWM:\t {1_600_000} kB\nVmRSS:\t 400000 kB\n")
    with pytest.raises(AssertionError, match="lab: the kernel's peak was 1638 MB"):
        check_peak(tmp_path, "lab", lambda name, value: said.append((name, value)))
    assert said == [(PEAK_PROPERTY, "lab: 1638 MB")]
