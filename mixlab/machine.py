"""This machine: its processor, GPUs and versions, and which of the notebooks' packages are installed."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import torch

WIDGET_STACK = ("jupyterlab", "ipykernel", "ipywidgets", "anywidget", "plotly", "papermill")

HEADLESS_VARIABLE = "MIXLAB_HEADLESS"  # an environment variable: anything but "" and "0" means headless


@dataclass(frozen=True)
class Gpu:
    """One CUDA device.

    Attributes:
        name: As torch reports it, such as "NVIDIA H200".
        memory_bytes: Its total memory.
        capability: CUDA's compute capability, (major, minor).
    """

    name: str
    memory_bytes: int
    capability: tuple[int, int]

    def __str__(self) -> str:
        major, minor = self.capability
        return f"{self.name}, {self.memory_bytes / 2**30:.0f} GiB, capability {major}.{minor}"


@dataclass(frozen=True)
class Machine:
    """The facts to report with every number measured here.

    Attributes:
        cpu: The processor's name, or its architecture where the system does not report a name.
        cores: Cores that this process may use; the machine may have more.
        gpus: The CUDA devices that torch sees, in torch's order.
        python: Python's version.
        torch: Torch's version, without the build.
        numpy: NumPy's version.
        mixlab: mixlab's version, or a remark if it is not installed.
    """

    cpu: str
    cores: int
    gpus: tuple[Gpu, ...]
    python: str
    torch: str
    numpy: str
    mixlab: str

    @property
    def summary(self) -> str:
        """One line, such as "AMD EPYC 7B13, 2 cores, no GPU; Python 3.11.7, torch 2.13.0"."""
        cores = f"{self.cores} core" + ("" if self.cores == 1 else "s")
        gpus = " + ".join(gpu.name for gpu in self.gpus) or "no GPU"
        return f"{self.cpu}, {cores}, {gpus}; Python {self.python}, torch {self.torch}"


@dataclass(frozen=True)
class Package:
    """A package that the notebooks need.

    Attributes:
        name: As pip knows it.
        requirement: Name and version bound from mixlab's `lab` extra, such as "plotly>=6.1".
        version: The installed version, or None if it is missing.
    """

    name: str
    requirement: str
    version: str | None

    @property
    def install_command(self) -> str:
        """The shell command that installs it for the running Python."""
        return f"{shlex.quote(sys.executable)} -m pip install {shlex.quote(self.requirement)}"


@lru_cache(maxsize=1)
def describe() -> Machine:
    """Returns the machine that this process runs on. The first call collects the facts; later calls reuse them."""
    return Machine(
        cpu=_cpu_name(),
        cores=_usable_cores(),
        gpus=tuple(_gpu(index) for index in range(torch.cuda.device_count())),
        python=platform.python_version(),
        torch=torch.__version__.partition("+")[0],
        numpy=metadata.version("numpy"),
        mixlab=_installed_version("mixlab") or "not installed, run from its source",
    )


def widget_stack() -> tuple[Package, ...]:
    """Returns the packages that the labs need in Jupyter, installed or not."""
    requirements = _lab_requirements()
    return tuple(Package(name, requirements.get(name, name), _installed_version(name)) for name in WIDGET_STACK)


def usable_device(device: torch.device | str | None) -> torch.device:
    """Resolves a device argument: None means CUDA if available, else the CPU.

    Args:
        device: "cpu", "cuda" or "cuda:<number>", the same as a torch device, or None.

    Raises:
        ValueError: If it is any other device, or a CUDA device on a machine where torch cannot use CUDA.
    """
    chosen = str(device) if device is not None else "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", chosen):
        raise ValueError(f"device must be cpu, cuda or cuda:<number>, got {chosen!r}")
    if chosen.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {chosen!r} was asked for, but torch sees no CUDA device; use device='cpu'")
    return torch.device(chosen)


def is_headless() -> bool:
    """Returns whether this process runs a notebook unattended, so that nobody can press a button."""
    return os.environ.get(HEADLESS_VARIABLE, "") not in ("", "0")


def parse_cpu_name(cpuinfo: str) -> str | None:
    """Returns the first "model name" in the text of /proc/cpuinfo, or None if there is none, as on ARM."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return " ".join(value.split())
    return None


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        return parse_cpu_name(cpuinfo.read_text()) or platform.machine()
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or platform.machine()
    return platform.processor() or platform.machine()


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _gpu(index: int) -> Gpu:
    properties = torch.cuda.get_device_properties(index)
    return Gpu(properties.name, properties.total_memory, (properties.major, properties.minor))


def _installed_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _lab_requirements() -> dict[str, str]:
    """Maps the name of each package in the `lab` extra to its requirement, such as plotly to "plotly>=6.1"."""
    try:
        stated = metadata.requires("mixlab") or []
    except metadata.PackageNotFoundError:
        return {}
    requirements = [line.partition(";")[0].strip() for line in stated if "extra == 'lab'" in line.replace('"', "'")]
    return {name: line for name in WIDGET_STACK for line in requirements if line.startswith(name)}
