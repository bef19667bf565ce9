"""Measures this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.utils.benchmark import Timer

from mixlab.formats import Format, round_to, round_with_stats
from mixlab.machine import usable_device
from mixlab.measure.record import Record, Series, now, this_machine
from mixlab.process import THREADS, RandomStream


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
