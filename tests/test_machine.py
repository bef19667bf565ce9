from __future__ import annotations

import dataclasses
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from mixlab import machine
from mixlab.machine import Gpu, Machine, Package

ROOT = Path(__file__).parent.parent
H200 = Gpu("NVIDIA H200", 141 * 2**30, (9, 0))
LAPTOP = Machine(cpu="AMD EPYC 7B13", cores=2, gpus=(), python="3.11.7", torch="2.13.0", numpy="2.4.6", mixlab="0.1.0")


def test_summary_names_processor_gpus_and_versions():
    assert LAPTOP.summary == "AMD EPYC 7B13, 2 cores, no GPU; Python 3.11.7, torch 2.13.0"
    assert dataclasses.replace(LAPTOP, cores=1, gpus=(H200, H200)).summary == (
        "AMD EPYC 7B13, 1 core, NVIDIA H200 + NVIDIA H200; Python 3.11.7, torch 2.13.0"
    )


def test_gpu_text_has_memory_and_capability():
    assert str(H200) == "NVIDIA H200, 141 GiB, capability 9.0"


def test_describe_is_this_machine():
    here = machine.describe()
    assert here.python == ".".join(map(str, sys.version_info[:3]))
    assert torch.__version__.startswith(here.torch)
    assert here.cores >= 1
    assert here.cpu
    assert len(here.gpus) == torch.cuda.device_count()
    assert machine.describe() is here
    assert "\n" not in here.summary


def test_machine_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        LAPTOP.cores = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        ("processor\t: 0\nmodel name\t: AMD  EPYC 7B13\nmodel name\t: other\n", "AMD EPYC 7B13"),
        ("processor\t: 0\nBogoMIPS\t: 50.00\n", None),
        ("", None),
    ],
)
def test_cpu_name_comes_from_the_first_model_name(cpuinfo: str, name: str | None):
    assert machine.parse_cpu_name(cpuinfo) == name


def test_widget_stack_is_the_lab_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    stated = project["optional-dependencies"]["lab"]
    assert [package.name for package in machine.widget_stack()] == [line.partition(">=")[0] for line in stated]


def test_widget_stack_reports_what_is_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "WIDGET_STACK", ("jupyterlab", "no-such-widgets"))
    present, missing = machine.widget_stack()
    assert present.version is not None
    assert missing.version is None


def test_install_command_is_for_this_python_and_safe_to_paste():
    words = shlex.split(Package("plotly", "plotly>=6.1", None).install_command)
    assert words == [sys.executable, "-m", "pip", "install", "plotly>=6.1"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_describe_lists_cuda_devices():
    gpu = machine.describe().gpus[0]
    assert gpu.name == torch.cuda.get_device_name(0)
    assert gpu.capability == torch.cuda.get_device_capability(0)
    assert gpu.memory_bytes == torch.cuda.mem_get_info(0)[1]
