"""Measures how fast tensors are rounded to formats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.utils.benchmark import Timer

from mixlab.formats import Format, round_to, round_with_stats
from mixlab.machine import usable_device
from mixlab.measure.record import Record, Series, now, record_here
from mixlab.measure.requests import check_cast
from mixlab.process import THREADS, RandomStream, measuring_threads


def measure_cast(
    device: torch.device | str | None = None,
    *,
    numel: int = 1 << 24,
    formats: Sequence[Format | str] = ("fp16", "bf16", "e4m3fn", "e5m2", "e2m1fn"),
    rounds: int = 7,
    threads: int | None = None,
    seed: int = 0,
    command: str = "measure_cast",
    progress: Callable[[float], None] = lambda _part: None,
) -> Record:
    """Measures how fast float32 tensors are rounded to formats, by every code path, and how fast they are copied.

    Each series is in GB/s, counting the 8 bytes per element that any path must read and write; slower paths move more.
    The paths take turns, so that anything that slows the machine down slows them all. Where torch.compile does not
    work, the compiled paths are left out and named in the record's parameters.

    Args:
        device: Device to measure; None takes CUDA if available, else the CPU.
        numel: Elements of the tensor. The default is too large for any cache.
        formats: Formats, or their names. The round trip through a torch dtype is measured too if the format has one.
        rounds: Samples of each path.
        threads: CPU threads; None keeps torch's number.
        seed: Seed of the tensor, which is normally distributed, and of stochastic rounding.
        command: Command line to store in the record.
        progress: Called with the completed fraction, from 0 to 1.

    Raises:
        ValueError: If a format or device is unknown, or a number is out of range.
    """
    check_cast(formats=formats, numel=numel, rounds=rounds, threads=threads, seed=seed)
    threads = measuring_threads() if threads is None else threads
    device = usable_device(device)
    date = now()
    generator = torch.Generator(device).manual_seed(seed)
    x = torch.randn(numel, device=device, generator=generator)
    paths = _cast_paths(x, [Format.of(fmt) for fmt in formats])
    random_stream = partial(RandomStream, seed, devices=[device] if device.type == "cuda" else [])
    with random_stream():
        skipped = [name for name, path in paths.items() if not _runs(path)]
    paths = {name: path for name, path in paths.items() if name not in skipped}
    seconds: dict[str, list[float]] = {name: [] for name in paths}
    with THREADS.held(threads):
        for round_ in range(rounds):
            for number, (name, path) in enumerate(paths.items()):
                timer = Timer("path()", globals={"path": path}, num_threads=threads)
                with random_stream():  # for stochastic rounding
                    seconds[name].append(timer.timeit(20 if device.type == "cuda" else 1).median)
                progress((round_ + (number + 1) / len(paths)) / rounds)
    return record_here(
        "cast",
        (Series(name, "GB/s", tuple(8 * numel / one / 1e9 for one in taken)) for name, taken in seconds.items()),
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
    )


def _cast_paths(x: Tensor, formats: Sequence[Format]) -> dict[str, Callable[[], object]]:
    """Returns the ways to copy `x` and to round it, by name."""
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
    """Whether the path works on this machine; the call also compiles it."""
    try:
        path()
    except torch._dynamo.exc.BackendCompilerFailed:
        return False
    return True
