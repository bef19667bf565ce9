"""Measures the memory of training steps on this machine, beside what `mixlab.memory.tracing` predicts without it."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Sequence

import numpy as np
import torch

from mixlab.machine import usable_device
from mixlab.measure.memory_cases import MemoryCase, cases
from mixlab.measure.record import Record, Series, now, this_machine
from mixlab.measure.step_memory import RealStep, real_steps
from mixlab.memory import Replay, Trace, replay_trace, trace
from mixlab.memory.categories import ACTIVATIONS, BATCH, CASTS, GRADIENTS, PARAMETERS, PHASES, TEMPORARIES
from mixlab.process import RandomStream
from mixlab.recipes import Recipe

# What changes how much memory CUDA takes, and is kept with a record.
_VARIABLES = ("CUBLAS_WORKSPACE_CONFIG", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")


def measure_memory(
    device: torch.device | str = "cpu",
    *,
    names: Sequence[str] | None = None,
    rounds: int = 1,
    seed: int = 0,
    command: str = "measure_memory",
    progress: Callable[[float], None] = lambda _part: None,
) -> Record:
    """Trains models under recipes, a few steps each, and records the memory that was seen and what was predicted.

    For each case and figure there are two series, in bytes: "NAME, peak" and "NAME, predicted peak". The figures are

    - peak, peak in PHASE, after PHASE (forward, backward, step): what was alive at most, and at the phase's end;
    - parameters, gradients, states: counted from the tensors themselves;
    - activations: the rest of what is alive after forward, with the casts of autocast, without the batch.

    On a CPU torch's profiler logs every allocation, and the prediction is a trace as_on="cpu"; oneDNN, whose kernels
    take scratch memory, another amount on each kind of CPU, is off. On CUDA the caching
    allocator is asked, and the prediction is a trace as_on="cuda", replayed through a model of that allocator, whose
    blocks have up to 1 MiB too much. Only CUDA has: peak requested, without what blocks have too much, beside the trace
    itself; reserved, the most that the allocator held; and workspaces, those of cuBLAS, which all but the first of
    these contain, and no prediction does. A case that does not run is named in the record's parameters. Nothing is
    compiled.

    Args:
        device: Where.
        names: Of cases, see `mixlab.measure.memory_cases`; None takes all of the device's kind.
        rounds: Steps that are measured, after a first one, in which the optimizer has no states yet.
        seed: Of weights and batches.
        command: What the record shall say was typed.
        progress: Called with the part done, from 0 to 1.

    Raises:
        ValueError: An unknown device or case, or a number out of range.
    """
    for name, value, low in (("rounds", rounds, 1), ("seed", seed, 0)):
        if type(value) is not int or value < low:
            raise ValueError(f"measure_memory: {name} must be a whole number from {low} up, got {value!r}")
    device = usable_device(device)
    chosen = cases(device.type, names)
    if not chosen:
        raise ValueError("measure_memory: no case to measure; names=None takes all")
    date, series, notes = now(), [], {}
    for number, case in enumerate(chosen):
        try:
            series += _measure(case, device, rounds, seed)
        except torch.OutOfMemoryError:
            notes[case.name] = "out of memory"
        except RuntimeError as error:  # a kernel or a fake kernel that this version of torch lacks
            reason = [*str(error).splitlines(), type(error).__name__][0]
            notes[case.name] = f"does not run here: {reason}"
        _free(device)
        progress((number + 1) / len(chosen))
    return Record(
        kind="memory",
        machine=this_machine(),
        date=date,
        seed=seed,
        command=command,
        parameters={
            "device": str(device),
            "rounds": rounds,
            "threads": torch.get_num_threads(),
            "CUDA": torch.version.cuda or "",
            "torch.compile": "off",
            "oneDNN": "off" if device.type == "cpu" else "",
            **{name: os.environ.get(name, "") for name in _VARIABLES},
            **notes,
        },
        series=tuple(series),
    )


def _measure(case: MemoryCase, device: torch.device, rounds: int, seed: int) -> list[Series]:
    traced = predicted(case, device.type)
    with RandomStream(seed):  # the model is made on the CPU
        steps = real_steps(case.make_model, case.batch(seed), Recipe.parse(case.recipe), device=device, count=rounds)
    seen, series = [seen_bytes(step) for step in steps], []
    if device.type == "cuda":
        series.append(_bytes(f"{case.name}, workspaces", [one["workspaces"] for one in seen]))
    for name, size in predicted_bytes(traced).items():
        series.append(_bytes(f"{case.name}, {name}", [one[name] for one in seen]))
        series.append(_bytes(f"{case.name}, predicted {name}", [size]))
    return series


def _bytes(name: str, sizes: Sequence[int]) -> Series:
    return Series(name, "bytes", tuple(map(float, sizes)))


def predicted(case: MemoryCase, kind: str) -> Trace:
    """Returns the trace of a case, as on a kind of device ("cuda" or "cpu")."""
    with torch.device("meta"):
        model = case.make_model()
    return trace(model, case.batch(), case.recipe, as_on=kind)  # type: ignore[arg-type]


def seen_bytes(step: RealStep) -> dict[str, int]:
    """Returns the figures of a real step by name."""
    return {
        "peak": step.peak_bytes,
        **{f"peak in {phase}": step.phase_peaks[phase] for phase in PHASES},
        **{f"after {phase}": step.after[phase] for phase in PHASES},
        "parameters": step.parameters,
        "gradients": step.gradients,
        "states": step.states,
        "activations": step.after["forward"] - step.parameters - step.states - step.batch - step.workspaces,
        "reserved": step.reserved,
        "peak requested": step.requested - step.workspaces,
        "workspaces": step.workspaces,
    }


def predicted_bytes(traced: Trace) -> dict[str, int]:
    """Returns the same figures of a trace, as on CUDA of its replay, but for the workspaces."""
    allocator = {}
    levels: Trace | Replay = traced
    if traced.as_on == "cuda":
        levels = replayed = replay_trace(traced)
        allocator = {"peak requested": traced.peak_bytes, "reserved": replayed.reserved_bytes}
    content = traced.at_phase_peaks["step"]
    others = (PARAMETERS, GRADIENTS, ACTIVATIONS, TEMPORARIES, BATCH, CASTS)
    states = sum(size for name, size in content.items() if name not in others)
    parameters, batch = content[PARAMETERS], content[BATCH]
    return {
        "peak": max(levels.phase_peaks.values()),
        **{f"peak in {phase}": levels.phase_peaks[phase] for phase in PHASES},
        **{f"after {phase}": levels.after[phase] for phase in PHASES},
        "parameters": parameters,
        "gradients": content[GRADIENTS],
        "states": states,
        "activations": levels.after["forward"] - parameters - states - batch,
        **allocator,
    }


def measured_cases(record: Record) -> list[str]:
    """Returns the names of the cases that ran, in order."""
    return [one.name.removesuffix(_PREDICTED) for one in record.series if one.name.endswith(_PREDICTED)]


_PREDICTED = ", predicted peak"


def differences(record: Record) -> dict[str, float]:
    """Returns for each case how far the predicted peak is from the measured one: 0.01 is 1 % too much.

    Workspaces of cuBLAS count as foretold: they are a setting, CUBLAS_WORKSPACE_CONFIG, and alive all the time.
    """
    values = {series.name: series.median for series in record.series}
    apart = {}
    for name in measured_cases(record):
        seen = values[f"{name}, peak"] - values.get(f"{name}, workspaces", 0)
        apart[name] = values[name + _PREDICTED] / seen - 1
    return apart


def median_and_worst(apart: dict[str, float]) -> tuple[float, float]:
    """Returns the median and the largest of differences, both without their signs."""
    sizes = [abs(difference) for difference in apart.values()]
    return float(np.median(sizes)), max(sizes)


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
