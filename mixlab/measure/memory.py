"""Measures the memory of training steps on this machine, beside the prediction of `mixlab.memory.trace`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np
import torch

from mixlab.machine import usable_device
from mixlab.measure.devices import free
from mixlab.measure.memory_cases import MemoryCase, cases
from mixlab.measure.record import Record, Series, now, record_here
from mixlab.measure.requests import check_memory
from mixlab.measure.step_memory import RealStep, real_steps
from mixlab.memory import Replay, Trace, replay_trace, trace
from mixlab.memory.categories import ACTIVATIONS, BATCH, CASTS, GRADIENTS, PARAMETERS, PHASES, TEMPORARIES
from mixlab.process import RandomStream
from mixlab.recipes import Recipe

# Environment variables that change how much memory CUDA takes; a record keeps them.
_VARIABLES = ("CUBLAS_WORKSPACE_CONFIG", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")


def measure_memory(
    device: torch.device | str | None = None,
    *,
    names: Sequence[str] | None = None,
    rounds: int = 1,
    seed: int = 0,
    command: str = "measure_memory",
    progress: Callable[[float], None] = lambda _part: None,
) -> Record:
    """Trains models under recipes for a few steps each, and records measured and predicted memory.

    Each case has two series in bytes for each figure, such as "NAME, peak" and "NAME, predicted peak". The figures are

    - peak, peak in PHASE, after PHASE (forward, backward, step): the most bytes alive, and those at the phase's end;
    - parameters, gradients, states: counted from the tensors themselves;
    - activations: the rest of the bytes alive after forward, autocast's casts included, the batch excluded.

    On a CPU torch's profiler logs every allocation, and the prediction is a trace as_on="cpu". oneDNN is off, since its
    kernels take scratch memory that depends on the CPU. On CUDA the caching allocator reports the memory, and the
    prediction is a trace as_on="cuda", replayed through a model of that allocator; its blocks may be up to 1 MiB larger
    than asked for. CUDA only: "peak requested", in requested sizes, beside the trace itself; "reserved", the most
    that the allocator held; and "workspaces", those of cuBLAS. Workspaces are part of every measured figure but "peak
    requested", and of no prediction. A case that does not run is named in the record's parameters. Nothing is compiled.

    Args:
        device: Device to measure; None takes CUDA if available, else the CPU.
        names: Names of cases, see `mixlab.measure.memory_cases`; None takes all for the device.
        rounds: Measured steps of each case, after a first one in which the optimizer has no states yet.
        seed: Seed of weights and batches.
        command: Command line to store in the record.
        progress: Called with the completed fraction, from 0 to 1.

    Raises:
        ValueError: If a device or case is unknown, or a number is out of range.
    """
    check_memory(rounds=rounds, seed=seed)
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
        free(device)
        progress((number + 1) / len(chosen))
    return record_here(
        "memory",
        series,
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
    """Returns the trace of a case, as on "cuda" or "cpu"."""
    with torch.device("meta"):
        model = case.make_model()
    return trace(model, case.batch(), case.recipe, as_on=kind)  # type: ignore[arg-type]


def seen_bytes(step: RealStep) -> dict[str, int]:
    """Returns the measured figures of a step by name, in bytes."""
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
    """Returns the same figures as a trace predicts them, without workspaces; as on CUDA, they come from its replay."""
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
    """Returns the names of the cases that ran, in the order of the record."""
    return [one.name.removesuffix(_PREDICTED) for one in record.series if one.name.endswith(_PREDICTED)]


_PREDICTED = ", predicted peak"


def differences(record: Record) -> dict[str, float]:
    """Returns by case how far the predicted peak is from the measured one: 0.01 means predicted 1 % too high.

    cuBLAS's workspaces are subtracted from the measured peak: CUBLAS_WORKSPACE_CONFIG sets their size, and they live
    all the time.

    Args:
        record: A record of `measure_memory`.
    """
    values = {series.name: series.median for series in record.series}
    apart = {}
    for name in measured_cases(record):
        seen = values[f"{name}, peak"] - values.get(f"{name}, workspaces", 0)
        apart[name] = values[name + _PREDICTED] / seen - 1
    return apart


def median_and_worst(apart: dict[str, float]) -> tuple[float, float]:
    """Returns the median and the largest of the differences' absolute values.

    Args:
        apart: Differences by case, as `differences` returns them; at least one.
    """
    sizes = [abs(difference) for difference in apart.values()]
    return float(np.median(sizes)), max(sizes)
