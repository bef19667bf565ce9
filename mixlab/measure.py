"""Measures this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.benchmark import Timer

from mixlab.formats import BF16, FP16, FP32, TF32, Format
from mixlab.machine import usable_device
from mixlab.process_state import THREADS
from mixlab.random_streams import RandomStream
from mixlab.records import Record, Series, now, this_machine
from mixlab.rounding import round_to
from mixlab.rounding_stats import round_with_stats
from mixlab.tf32_switches import OFF, ON, TF32_SWITCHES


@dataclass(frozen=True)
class MatmulSpeed:
    """How fast one format multiplies matrices.

    Attributes:
        gflops: Median of 10^9 floating-point operations a second, 2 * size^3 a product.
        low, high: Its quartiles.
    """

    format: str
    device: str
    size: int
    gflops: float
    low: float
    high: float


def matmul_speeds(device: torch.device | str, *, size: int = 512) -> tuple[MatmulSpeed, ...]:
    """Measures products of two (size, size) matrices in each format that torch multiplies natively on the device.

    Takes about two seconds on a CPU. The result of a product is in the format of its operands; tf32 is float32 storage
    multiplied in tf32, on GPUs only.
    """
    device = torch.device(device)
    formats = (FP32, TF32, BF16, FP16) if device.type == "cuda" else (FP32, BF16, FP16)
    return tuple(_matmul_speed(fmt, device, size) for fmt in formats)


def _matmul_speed(fmt: Format, device: torch.device, size: int) -> MatmulSpeed:
    generator = torch.Generator(device).manual_seed(0)
    draw = partial(torch.randn, size, size, device=device, generator=generator)
    a, b = (draw().to(fmt.dtype or torch.float32) for _ in range(2))
    with TF32_SWITCHES.held(ON if fmt == TF32 else OFF):
        timer = Timer("a @ b", globals={"a": a, "b": b}, num_threads=torch.get_num_threads())
        seconds = timer.blocked_autorange(min_run_time=0.2).times
    gflops = 2 * size**3 / np.array(seconds) / 1e9
    low, median, high = (float(value) for value in np.quantile(gflops, [0.25, 0.5, 0.75]))
    return MatmulSpeed(fmt.name, str(device), size, median, low, high)


def measure_cast(
    device: torch.device | str = "cpu",
    *,
    numel: int = 1 << 24,
    formats: Sequence[str] = ("fp16", "bf16", "e4m3fn", "e5m2", "e2m1fn"),
    rounds: int = 7,
    threads: int | None = None,
    seed: int = 0,
    command: str = "measure_cast",
    progress: Callable[[float], None] = lambda _part: None,
) -> Record:
    """Measures how fast float32 tensors are rounded to formats, by every path, beside the machine's own copy.

    A series is in GB/s of the 8 bytes an element that must be read and written; more is only moved by slower paths.
    The paths take turns, so that whatever slows the machine down slows all of them. Compiled paths are left out, and
    the record's parameters say so, where torch.compile does not work.

    Args:
        device: Where.
        numel: Elements of the tensor; large enough not to fit in any cache.
        formats: Names; the round trip through a torch dtype is measured where the format has one.
        rounds: How many samples of each path.
        threads: Of the CPU; None for as many as torch takes.
        seed: Of the tensor, which is normally distributed.
        command: What the record shall say was typed.
        progress: Called with the part done, from 0 to 1.

    Raises:
        ValueError: An unknown format or a number out of range.
    """
    for name, value in (("numel", numel), ("rounds", rounds), ("threads", 1 if threads is None else threads)):
        if type(value) is not int or value < 1:
            raise ValueError(f"measure_cast: {name} must be a whole number from 1 up, got {value!r}")
    device = usable_device(device)
    date = now()
    generator = torch.Generator(device).manual_seed(seed)
    x = torch.randn(numel, device=device, generator=generator)
    paths = _cast_paths(x, [Format.parse(name) for name in formats])
    threads = threads or torch.get_num_threads()
    drawn_on = [device] if device.type == "cuda" else []
    with RandomStream(seed, devices=drawn_on):
        skipped = [name for name, path in paths.items() if not _runs(path)]
    paths = {name: path for name, path in paths.items() if name not in skipped}
    samples: dict[str, list[float]] = {name: [] for name in paths}
    with THREADS.held(threads):
        for round_ in range(rounds):
            for number, (name, path) in enumerate(paths.items()):
                timer = Timer("path()", globals={"path": path}, num_threads=threads)
                with RandomStream(seed, devices=drawn_on):  # of stochastic rounding
                    seconds = timer.timeit(20 if device.type == "cuda" else 1).median
                samples[name].append(8 * numel / seconds / 1e9)
                progress((round_ + (number + 1) / len(paths)) / rounds)
    return Record(
        kind="cast",
        machine=this_machine(),
        date=date,
        seed=seed,
        command=command,
        parameters={
            "device": str(device),
            "numel": numel,
            "threads": threads,
            "rounds": rounds,
            "skipped, torch.compile does not work here": ", ".join(skipped),
        },
        series=tuple(Series(name, "GB/s", tuple(values)) for name, values in samples.items()),
    )


def _cast_paths(x: Tensor, formats: Sequence[Format]) -> dict[str, Callable[[], object]]:
    out = torch.empty_like(x)
    paths: dict[str, Callable[[], object]] = {"copy_": lambda: out.copy_(x), "clone": x.clone}
    for fmt in formats:
        into = partial(round_to, x, fmt, overflow="saturate")
        if fmt.dtype is not None:
            paths[f"{fmt} torch"] = lambda dtype=fmt.dtype: x.to(dtype).float()  # type: ignore[misc]
        paths[f"{fmt} eager"] = into
        paths[f"{fmt} eager, out="] = partial(into, out=out)
        paths[f"{fmt} compiled"] = partial(into, compiled=True)
        paths[f"{fmt} compiled, out="] = partial(into, compiled=True, out=out)
        paths[f"{fmt} stochastic, compiled, out="] = partial(into, rounding="stochastic", compiled=True, out=out)
        paths[f"{fmt} statistics, compiled, out="] = partial(
            round_with_stats, x, fmt, overflow="saturate", compiled=True, out=out
        )
    return paths


def _runs(path: Callable[[], object]) -> bool:
    """Whether the path works here; compiles it."""
    try:
        path()
    except torch._dynamo.exc.BackendCompilerFailed:
        return False
    return True
