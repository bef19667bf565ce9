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


CPU_BUILD = machine.TorchBuild("2.13.0")
CUDA_BUILD = machine.TorchBuild("2.13.0", cuda="12.8")
H200_LINE = "NVIDIA H200, 143771 MiB"
ON_CPU = ", and this torch is built for CPUs; everything runs on the CPU"
NOT_TRIED = "whether torch can use it was not tried; `mixlab measure cast --device cuda` does"
UNKNOWN_BUILD = "torch is not installed, or does not say what it is built for"
GET_TORCH = "https://pytorch.org/get-started/locally names the command for one with CUDA"


def test_the_build_of_torch_is_read_from_its_files():
    build = machine.torch_build()
    assert build == machine.TorchBuild(torch.__version__.partition("+")[0], torch.version.cuda, torch.version.hip)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\nhip: Optional[str] = None", "2.13.0, built for CPUs"),
        ("__version__ = '2.13.0+cu128'\ncuda: Optional[str] = '12.8'\nhip = None", "2.13.0, built for CUDA 12.8"),
        ("__version__ = '2.13.0'\ncuda = None\nhip = '6.4'", "2.13.0, built for ROCm 6.4"),
    ],
)
def test_every_build_has_its_words(source: str, words: str):
    assert str(machine.parse_torch_build(source)) == words


def test_a_version_file_without_a_version_is_refused():
    with pytest.raises(ValueError, match="no __version__"):
        machine.parse_torch_build("cuda = None")


@pytest.mark.parametrize(
    ("build", "seen", "words"),
    [
        (CPU_BUILD, "absent", f"none: there is no nvidia-smi{ON_CPU}"),
        (CPU_BUILD, "failed", f"none: nvidia-smi failed{ON_CPU}"),
        (CPU_BUILD, (), f"none: nvidia-smi lists none{ON_CPU}"),
        (CUDA_BUILD, "absent", f"none seen: there is no nvidia-smi; {NOT_TRIED}"),
        (CUDA_BUILD, "silent", f"none seen: nvidia-smi did not answer in time; {NOT_TRIED}"),
        (CUDA_BUILD, (H200_LINE,), f"{H200_LINE} by nvidia-smi; {NOT_TRIED}"),
        (CPU_BUILD, (H200_LINE,) * 2, f"{H200_LINE} by nvidia-smi, but this torch is built for CPUs; {GET_TORCH}"),
        (None, (), f"none seen: nvidia-smi lists none; {UNKNOWN_BUILD}"),
        (None, "absent", f"none seen: there is no nvidia-smi; {UNKNOWN_BUILD}"),
        (None, (H200_LINE,), f"{H200_LINE} by nvidia-smi; {UNKNOWN_BUILD}"),
    ],
)
def test_what_is_said_of_gpus_is_what_was_seen(build, seen, words: str):
    lines = len(seen) if seen and isinstance(seen, tuple) else 1
    assert machine.gpu_lines(build, seen) == [words] * lines


@pytest.mark.parametrize(
    ("script", "seen"),
    [
        ("echo 'NVIDIA H200, 143771 MiB'", ("NVIDIA H200, 143771 MiB",)),
        ("exit 9", "failed"),
        ("true", ()),
        ("exec sleep 60", "silent"),
    ],
)
def test_nvidia_smi_is_asked_for_a_while(script: str, seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(machine.shutil, "which", lambda _name: str(program))
    assert machine.seen_gpus(timeout_s=0.2 if "sleep" in script else 20.0) == seen


def test_nvidia_smi_may_be_absent_or_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine.shutil, "which", lambda _name: None)
    assert machine.seen_gpus() == "absent"
    monkeypatch.setattr(machine.shutil, "which", lambda _name: str(tmp_path))
    assert machine.seen_gpus() == "failed"


def test_a_device_that_cannot_be_there_is_refused_without_torch(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "torch_build", lambda: CPU_BUILD)
    for device in (None, "cpu"):
        machine.check_device(device)
        assert machine.certain_kind(device) == "cpu"
    for device, words in (("tpu", "must be cpu, cuda"), ("cuda:1", "torch sees no CUDA device, since it is built for")):
        with pytest.raises(ValueError, match=words):
            machine.check_device(device)
    for build in (CUDA_BUILD, None):
        monkeypatch.setattr(machine, "torch_build", lambda build=build: build)
        machine.check_device("cuda:1")
        assert (machine.certain_kind("cuda:1"), machine.certain_kind(None)) == ("cuda", None)
