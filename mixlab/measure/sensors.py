"""What the system says of its hardware beside a measurement: caches, free memory, and a GPU's clock and power."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import torch

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
_FALLBACK_CACHE_BYTES = 32 * 2**20  # where the system does not say


def last_cache_bytes(device: torch.device) -> int:
    """Returns the bytes of the device's largest cache; 32 MiB where the system does not say."""
    if device.type == "cuda":
        return int(getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0)) or _FALLBACK_CACHE_BYTES
    sizes = [parsed_size(path.read_text()) for path in _CACHES.glob("index*/size")]
    return max(sizes, default=0) or _FALLBACK_CACHE_BYTES


def parsed_size(text: str) -> int:
    """Returns the bytes of a size such as "2048K"; 0 for anything else."""
    found = re.fullmatch(r"\s*(\d+)([KMG]?)\s*", text)
    return int(found[1]) * _UNITS[found[2]] if found else 0


def free_bytes(device: torch.device) -> int | None:
    """Returns the bytes that can be allocated on the device; None where the system does not say.

    On a CPU it is the smaller of the machine's available memory and what the control group still allows.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    known = [size for size in (_available_bytes(), _group_bytes()) if size is not None]
    return min(known, default=None)


def _available_bytes() -> int | None:
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _group_bytes() -> int | None:
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            return max(int(Path(limit).read_text()) - int(Path(used).read_text()), 0)
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return None


def clock_and_power(device: torch.device) -> dict[str, float]:
    """Returns a GPU's "clock" in MHz and "power" in W, as far as nvidia-smi reports them.

    Args:
        device: Any device; a CPU has neither.
    """
    if device.type != "cuda":
        return {}
    try:
        properties = torch.cuda.get_device_properties(device)
        place = f"--id=GPU-{properties.uuid}"
        done = subprocess.run(
            ["nvidia-smi", place, "--query-gpu=clocks.sm,power.draw", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, AttributeError, subprocess.SubprocessError):
        return {}
    return parsed_clock_and_power(done.stdout)


def parsed_clock_and_power(text: str) -> dict[str, float]:
    """Returns the numbers of a line such as "1980, 512.30", which is what nvidia-smi prints; "[N/A]" is left out."""
    cells = text.strip().splitlines()[:1]
    values = cells[0].split(",") if cells else []
    found = {}
    for name, value in zip(("clock", "power"), values, strict=False):
        if re.fullmatch(r"\s*\d+(\.\d+)?\s*", value):
            found[name] = float(value)
    return found
