"""Every lab as a notebook on a CUDA device: with its defaults, and with the parameters that the CPU runs have.

Labs train on the device that torch finds, but for those trainings that show a number which a GPU's order of sums would
change: these stay on the CPU. What a lab did on the device, its kernel says in a last cell.
"""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
import torch

from mixlab.cli.notebooks import run_notebook
from tests.labs.test_labs import DIVERGING, NAMES, PARAMETERS, copy_with_last_cell, outputs, pythons

ON_THE_CPU = {"06_adam_in_low_precision", "12_the_claims"}  # whose trainings all stay there

SAY_DEVICE = """\
import json, torch
from pathlib import Path
stats = torch.cuda.memory_stats() if torch.cuda.is_initialized() else {}
said = {"allocations": stats.get("allocation.all.allocated", 0), "name": torch.cuda.get_device_name()}
Path("device").write_text(json.dumps(said))
"""


@pytest.mark.gpu
@pytest.mark.parametrize("number", [None, 0, 1], ids=["defaults", "first", "second"])
@pytest.mark.parametrize("name", NAMES)
def test_the_lab_runs_on_a_gpu(name: str, number: int | None, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    copy = copy_with_last_cell(name, tmp_path / "lab", SAY_DEVICE)
    parameters = {} if number is None else PARAMETERS[name][number]
    run_notebook(copy, parameters, out=tmp_path, progress=False)
    executed = tmp_path / copy.name
    errors = [output for cell in nbformat.read(executed, as_version=4).cells for output in cell.get("outputs", [])]
    assert not [output for output in errors if output.output_type == "error" or output.get("name") == "stderr"]
    assert pythons(executed) == []
    if number is not None:
        assert ("diverged: " in outputs(executed)) == (DIVERGING.get(name) == number)
    said = json.loads((copy.parent / "device").read_text())
    assert said["name"] == torch.cuda.get_device_name()
    assert (said["allocations"] > 1000) == (name not in ON_THE_CPU)  # of tensors; one step of a training takes dozens
    assert not caplog.messages
