"""Rounding a tensor to e4m3 side by side with every peer that is installed, as ratios to the machine's own copy.

    python tests/benchmarks/cast_peers.py [NUMEL]

One thread; 2^24 elements unless told. All take turns in one process, so that drift hits all of them; a ratio is that of
medians. Slow general peers (more than a second for a million elements) get a sixteenth of the elements, and their time
is scaled. "exact" compares with mixlab's eager rounding on random values of all magnitudes, subnormals and values out
of range among them.

Peers beside ml_dtypes and gfloat, which the tests need anyway, are installed by hand, without their dependencies:
pip install --no-deps pychop qtorch unit_scaling docstring_parser einops.
"""

from __future__ import annotations

import importlib
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import torch

from mixlab import E4M3FN, Format, round_to, round_with_stats
from mixlab.machine import describe

Cast = Callable[[torch.Tensor], torch.Tensor]
E4M3 = Format.parse("e4m3")


@dataclass(frozen=True)
class Entry:
    """One way to round.

    Attributes:
        fmt: What it rounds to.
        fresh: Whether it allocates its result, and is held against `clone`; else against `copy_`.
        goal: The ratio to stay below, if there is one.
        general: Whether it takes any number of exponent and mantissa bits.
    """

    name: str
    cast: Cast
    fmt: Format = E4M3FN
    fresh: bool = True
    goal: float | None = None
    general: bool = False


def ours(out: torch.Tensor) -> list[Entry]:
    bf16 = Format.parse("bf16")

    def into(**options: object) -> Cast:
        return lambda x: round_to(x, E4M3FN, overflow="saturate", **options)  # type: ignore[arg-type]

    return [
        Entry("mixlab compiled, out=", into(out=out, compiled=True), fresh=False, goal=1.3),
        Entry("mixlab compiled", into(compiled=True), goal=1.3),
        Entry("mixlab eager, out=", into(out=out), fresh=False, goal=8),
        Entry("mixlab eager", into()),
        Entry(
            "mixlab compiled, stochastic, out=",
            into(out=out, compiled=True, rounding="stochastic"),
            fresh=False,
            goal=4,
        ),
        Entry(
            "mixlab compiled, statistics, out=",
            lambda x: round_with_stats(x, E4M3FN, overflow="saturate", out=out, compiled=True)[0],
            fresh=False,
            goal=6,
        ),
        Entry(
            "mixlab compiled, bf16, out=",
            lambda x: round_to(x, bf16, overflow="saturate", out=out, compiled=True),
            fmt=bf16,
            fresh=False,
            goal=1.3,
        ),
    ]


def peers() -> list[Entry]:
    found = [
        Entry("torch", lambda x: x.to(torch.float8_e4m3fn).float()),
        Entry(
            "ml_dtypes",
            lambda x: torch.from_numpy(x.clamp(-448, 448).numpy().astype(ml_dtypes.float8_e4m3fn).astype(np.float32)),
        ),
    ]
    for module, make in (("gfloat", _gfloat), ("pychop", _pychop), ("qtorch.quant", _qtorch), ("unit_scaling", _unit)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found.append(make(importlib.import_module(module)))
        except Exception as error:  # a peer that does not work here is named, and left out
            print(f"left out: {module}: {type(error).__name__}: {str(error).splitlines()[0][:90]}")
    return found


def _gfloat(gfloat: object) -> Entry:
    from gfloat.formats import format_info_ocp_e4m3

    def cast(x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.asarray(gfloat.round_ndarray(format_info_ocp_e4m3, x.double().numpy(), sat=True)))

    return Entry("gfloat", cast, general=True)


def _pychop(pychop: object) -> Entry:
    pychop.backend("torch")
    chop = pychop.Chop(exp_bits=4, sig_bits=3, rmode=1)
    return Entry("pychop", chop, fmt=E4M3, general=True)


def _qtorch(quant: object) -> Entry:
    def cast(x: torch.Tensor) -> torch.Tensor:
        return quant.float_quantize(x, 4, 3, "nearest")

    cast(torch.ones(4))
    return Entry("qtorch", cast, fmt=E4M3, general=True)


def _unit(_module: object) -> Entry:
    from unit_scaling.formats import FPFormat

    return Entry("unit_scaling", FPFormat(4, 3, rounding="nearest").quantise, fmt=E4M3, general=True)


def is_exact(entry: Entry) -> bool:
    generator = torch.Generator().manual_seed(1)
    exponents = torch.randint(-14, 11, (1 << 16,), generator=generator)
    x = torch.randn(1 << 16, generator=generator) * torch.exp2(exponents)
    return torch.equal(entry.cast(x).float(), round_to(x, entry.fmt, overflow="saturate"))


def main(numel: int = 1 << 24) -> None:
    torch.set_num_threads(1)
    x = torch.randn(numel, generator=torch.Generator().manual_seed(0))
    out = torch.empty_like(x)
    entries = [
        Entry("copy_", out.copy_, fresh=False),
        Entry("clone", torch.clone),
        *ours(out),
        *peers(),
    ]
    parts = {entry.name: 16 if entry.general and seconds(entry.cast, x[: 1 << 16]) > 0.06 else 1 for entry in entries}
    for entry in entries:  # warm, and compiled
        entry.cast(x[: numel // parts[entry.name]])
    samples: dict[str, list[float]] = {entry.name: [] for entry in entries}
    for _ in range(7):
        for entry in entries:
            part = parts[entry.name]
            samples[entry.name].append(part * seconds(entry.cast, x[: numel // part]))
    median = {name: float(np.median(times)) for name, times in samples.items()}
    print(f"{describe().summary}; 1 thread, {numel} elements, seed 0")
    exact = {entry.name for entry in entries[2:] if "out=" not in entry.name and is_exact(entry)}
    for entry in entries:
        against = "clone" if entry.fresh else "copy_"
        ratio = median[entry.name] / median[against]
        goal = f"  goal: at most {entry.goal}" if entry.goal else ""
        note = "" if entry.name in ("copy_", "clone") else "  exact" if entry.name in exact else ""
        scaled = f"  (1/{parts[entry.name]} of the elements, scaled)" if parts[entry.name] > 1 else ""
        print(f"{entry.name:36} {median[entry.name] * 1e3:9.1f} ms  {ratio:7.2f} x {against}{goal}{note}{scaled}")
    general = [entry.name for entry in entries if entry.general and entry.name in exact]
    if general:
        fastest = min(general, key=median.__getitem__)
        times = median[fastest] / median["mixlab compiled"]
        print(
            f"the fastest exact general peer is {fastest}; mixlab compiled is {times:.0f} x as fast  goal: at least 10"
        )


def seconds(cast: Cast, x: torch.Tensor) -> float:
    started = time.perf_counter()
    cast(x)
    return time.perf_counter() - started


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
