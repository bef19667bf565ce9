"""This machine: its processor, GPUs and versions, and which of the notebooks' packages are installed.

`describe` and `usable_device` ask torch, which takes a second or two to import. `torch_build` and `seen_gpus` do not.
"""

from __future__ import annotations

import ast
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mixlab import __version__

if TYPE_CHECKING:
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
        mixlab: mixlab's version.
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
class TorchBuild:
    """What the installed torch was built for, read from its files.

    Attributes:
        version: Torch's version, without the build.
        cuda: The CUDA version that it was built for, such as "12.8", or None.
        hip: The ROCm version that it was built for, or None.
    """

    version: str
    cuda: str | None = None
    hip: str | None = None

    @property
    def for_gpus(self) -> bool:
        """Whether it can use a GPU at all."""
        return self.cuda is not None or self.hip is not None

    def __str__(self) -> str:
        if not self.for_gpus:
            return f"{self.version}, built for CPUs"
        return f"{self.version}, built for {f'CUDA {self.cuda}' if self.cuda else f'ROCm {self.hip}'}"


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
    import torch

    return Machine(
        cpu=_cpu_name(),
        cores=_usable_cores(),
        gpus=tuple(_gpu(index) for index in range(torch.cuda.device_count())),
        python=platform.python_version(),
        torch=torch.__version__.partition("+")[0],
        numpy=metadata.version("numpy"),
        mixlab=__version__,
    )


def widget_stack() -> tuple[Package, ...]:
    """Returns the packages that the labs need in Jupyter, installed or not."""
    requirements = _lab_requirements()
    return tuple(Package(name, requirements.get(name, name), installed_version(name)) for name in WIDGET_STACK)


def usable_device(device: torch.device | str | None) -> torch.device:
    """Resolves a device argument: None means CUDA if available, else the CPU.

    Args:
        device: "cpu", "cuda" or "cuda:<number>", the same as a torch device, or None.

    Raises:
        ValueError: If it is any other device, or a CUDA device on a machine where torch cannot use CUDA.
    """
    import torch

    chosen = str(device) if device is not None else "cuda" if torch.cuda.is_available() else "cpu"
    _require_device_name(chosen)
    if chosen.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {chosen!r} was asked for, but torch sees no CUDA device; use device='cpu'")
    return torch.device(chosen)


def check_device(device: str | None) -> None:
    """Checks, without torch, that there may be such a device. Whether there is one, `usable_device` finds out.

    Args:
        device: As for `usable_device`.

    Raises:
        ValueError: If the name is none of a device, or a CUDA device is meant and torch was built without CUDA.
    """
    if device is None:
        return
    _require_device_name(device)
    build = torch_build()
    if device.startswith("cuda") and build is not None and not build.for_gpus:
        raise ValueError(
            f"device {device!r} was asked for, but torch sees no CUDA device, since it is built for CPUs; "
            "use device='cpu', or install a torch with CUDA"
        )


def certain_kind(device: str | None) -> Literal["cpu", "cuda"] | None:
    """Returns the kind of device that `usable_device` would choose, or None if only torch can tell.

    Args:
        device: As for `usable_device`, and checked by `check_device`.
    """
    if device is not None:
        return "cuda" if device.startswith("cuda") else "cpu"
    build = torch_build()
    return "cpu" if build is not None and not build.for_gpus else None


def _require_device_name(device: str) -> None:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ValueError(f"device must be cpu, cuda or cuda:<number>, got {device!r:.60}")


def torch_build() -> TorchBuild | None:
    """Returns what the installed torch was built for, or None if there is no torch, or its version file is unusual."""
    found = util.find_spec("torch")
    if found is None or found.origin is None:
        return None
    try:
        return parse_torch_build((Path(found.origin).parent / "version.py").read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return None


def parse_torch_build(source: str) -> TorchBuild:
    """Reads the text of torch's version.py.

    >>> print(parse_torch_build("__version__ = '2.13.0+cpu'\\ncuda: Optional[str] = None\\nhip = None"))
    2.13.0, built for CPUs

    Args:
        source: The text of the file.

    Raises:
        SyntaxError, ValueError: If it does not assign these names.
    """
    said: dict[str, Any] = {}
    for statement in ast.parse(source).body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        value = getattr(statement, "value", None)
        if isinstance(value, ast.Constant):
            said.update({target.id: value.value for target in targets if isinstance(target, ast.Name)})
    if not isinstance(said.get("__version__"), str):
        raise ValueError("no __version__ in torch's version.py")
    return TorchBuild(said["__version__"].partition("+")[0], said.get("cuda"), said.get("hip"))


def cpu_summary() -> str:
    """Returns the processor's name and how many cores this process may use."""
    return f"{_cpu_name()}, {_usable_cores()} usable cores"


NvidiaSmi = tuple[str, ...] | Literal["absent", "failed", "silent"]

_WITHOUT_LIST = {
    "absent": "there is no nvidia-smi",
    "failed": "nvidia-smi failed",
    "silent": "nvidia-smi did not answer in time",
}


def gpu_lines(build: TorchBuild | None, seen: NvidiaSmi) -> list[str]:
    """Returns what can be said of GPUs without trying them, a line for each, or one for none.

    >>> gpu_lines(TorchBuild("2.13.0"), "absent")
    ['none: there is no nvidia-smi, and this torch is built for CPUs; everything runs on the CPU']

    Args:
        build: From `torch_build`.
        seen: From `seen_gpus`.
    """
    try_it = "whether torch can use it was not tried; `mixlab measure cast --device cuda` does"
    unknown = "torch is not installed, or does not say what it is built for"
    listed = seen if isinstance(seen, tuple) else ()
    missing = "nvidia-smi lists none" if isinstance(seen, tuple) else _WITHOUT_LIST[seen]
    if build is None:
        return [f"{line} by nvidia-smi; {unknown}" for line in listed] or [f"none seen: {missing}; {unknown}"]
    if build.for_gpus:
        return [f"{line} by nvidia-smi; {try_it}" for line in listed] or [f"none seen: {missing}; {try_it}"]
    other = f"but this torch is built for CPUs; {_GET_TORCH}"
    none = f"none: {missing}, and this torch is built for CPUs; everything runs on the CPU"
    return [f"{line} by nvidia-smi, {other}" for line in listed] or [none]


_GET_TORCH = "https://pytorch.org/get-started/locally names the command for one with CUDA"


def seen_gpus(timeout_s: float = 2.0) -> NvidiaSmi:
    """Returns a line for each GPU that nvidia-smi lists, without torch.

    Args:
        timeout_s: How long to wait for nvidia-smi.

    Returns:
        () if it lists none; "absent" if there is no nvidia-smi, "failed" if it fails or cannot be started, "silent" if
        it does not answer in time.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return "absent"
    query = [program, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return "silent"
    except OSError:
        return "failed"
    if done.returncode != 0:
        return "failed"
    return tuple(line.strip() for line in done.stdout.splitlines() if line.strip())


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
    import torch

    properties = torch.cuda.get_device_properties(index)
    return Gpu(properties.name, properties.total_memory, (properties.major, properties.minor))


def installed_version(name: str) -> str | None:
    """Returns the installed version of a package, or None if it is missing.

    Args:
        name: As pip knows it.
    """
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
