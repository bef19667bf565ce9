"""Measures optimizers, mixlab's and other libraries': seconds per step, bytes of states, memory speed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mixlab.machine import usable_device
from mixlab.measure.devices import clock_s, free
from mixlab.measure.record import Record, Series, now, record_here
from mixlab.measure.requests import STORAGE_RECIPES, check_optimizer
from mixlab.optimizers import BACKENDS, AdamW, backend, state_bytes
from mixlab.process import THREADS, RandomStream, measuring_threads
from mixlab.recipes import Recipe
from mixlab.training.optimizers import storage_of

_PEER = "torch fused"  # the optimizer that all others are compared with
_WARM_UP = 2  # steps before the measured ones; the first allocates states and compiles


@dataclass(frozen=True)
class _Stepper:
    """An optimizer to measure: its name in the record, its parameters' dtype, and how it is made."""

    name: str
    dtype: torch.dtype
    make: Callable[[list[nn.Parameter]], Optimizer]


def measure_optimizer(
    device: torch.device | str | None = None,
    *,
    numel: int = 25_000_000,
    recipes: Sequence[Recipe | str] = STORAGE_RECIPES,
    backends: Sequence[str] | None = None,
    modes: Sequence[str] = ("eager", "compiled"),
    rounds: int = 7,
    threads: int | None = None,
    seed: int = 0,
    command: str = "measure_optimizer",
    progress: Callable[[float], None] = lambda _part: None,
) -> Record:
    """Times a step of AdamW with each way to store it, paired with a step of torch's fused AdamW in fp32.

    The fused optimizer takes a step before each step of the measured one, so that anything that slows the machine down
    slows both; "ratio" is the quotient of the two times, pair by pair. GB/s count the bytes that a step must move:
    weights and states read and written, gradients read. An optimizer that does not run on this machine is named in the
    record's parameters.

    Args:
        device: Device to measure; None takes CUDA if available, else the CPU.
        numel: Approximate number of parameters, in four matrices and a vector. The default is too many for any cache.
        recipes: Recipes, or their texts; they say how weights, gradients and states are stored.
        backends: Names of `mixlab.optimizers.BACKENDS`; None takes all that are installed.
        modes: "eager", "compiled" or both, for the recipes.
        rounds: Measured steps of each optimizer.
        threads: CPU threads; None keeps torch's number.
        seed: Seed of weights and gradients.
        command: Command line to store in the record.
        progress: Called with the completed fraction, from 0 to 1.

    Raises:
        ValueError: If a recipe, backend, mode or device is unknown, or a number is out of range.
    """
    check_optimizer(
        numel=numel, recipes=recipes, backends=backends, modes=modes, rounds=rounds, threads=threads, seed=seed
    )
    threads = measuring_threads() if threads is None else threads
    device = usable_device(device)
    names = [name for name, one in BACKENDS.items() if one.installed] if backends is None else backends
    steppers = [*_of_backends(names), *_of_recipes(recipes, modes)]
    if not steppers:
        raise ValueError("measure_optimizer: nothing to measure; give recipes and modes, or backends")
    date = now()
    with THREADS.held(threads):
        series = [Series("copy_", "GB/s", _copy_speed(device, numel, rounds))]
        more, notes = _measured(steppers, device, numel, rounds, seed, progress)
        used = torch.get_num_threads()
    return record_here(
        "optimizer",
        [*series, *more],
        date=date,
        seed=seed,
        command=command,
        parameters={
            "device": str(device),
            "numel": sum(map(math.prod, _shapes(numel))),
            "rounds": rounds,
            "threads": used,
            **notes,
        },
    )


def _of_backends(names: Sequence[str]) -> list[_Stepper]:
    return [_Stepper(one.name, one.weights, partial(one, lr=1e-3)) for one in map(backend, names)]


def _of_recipes(recipes: Sequence[Recipe | str], modes: Sequence[str]) -> Iterator[_Stepper]:
    for given in recipes:
        recipe = Recipe.of(given)
        assert recipe.weights.dtype is not None  # Recipe takes no other formats
        for mode in modes:
            make = partial(AdamW, lr=1e-3, storage=storage_of(recipe), compiled=mode == "compiled")
            yield _Stepper(f"{given} {mode}", recipe.weights.dtype, make)


def _measured(
    steppers: Sequence[_Stepper],
    device: torch.device,
    numel: int,
    rounds: int,
    seed: int,
    progress: Callable[[float], None],
) -> tuple[list[Series], dict[str, str]]:
    """Returns the series of all that run here, and a note for each that does not."""
    series: list[Series] = []
    notes: dict[str, str] = {}
    drawn_on = [device] if device.type == "cuda" else []
    for number, stepper in enumerate(steppers):
        try:
            with RandomStream(seed, devices=drawn_on):
                series += _measure(stepper, device, numel, rounds, seed)
        except Exception as error:  # whatever a library raises on a machine that it is not made for
            reason = [*str(error).splitlines(), type(error).__name__][0]
            notes[stepper.name] = f"does not run here: {reason}"
        torch._dynamo.reset()
        free(device)
        progress((number + 1) / len(steppers))
    return series, notes


def _measure(stepper: _Stepper, device: torch.device, numel: int, rounds: int, seed: int) -> list[Series]:
    peer_parameters = _parameters(torch.float32, device, numel, seed)
    peer = backend(_PEER)(peer_parameters, 1e-3)
    parameters = _parameters(stepper.dtype, device, numel, seed)
    optimizer = stepper.make(parameters)
    times, ratios = [], []
    for round_ in range(_WARM_UP + rounds):
        peer_s, own_s = _timed(peer.step, device), _timed(optimizer.step, device)
        if round_ >= _WARM_UP:
            times.append(own_s)
            ratios.append(own_s / peer_s)
    count = sum(p.numel() for p in parameters)
    kept = state_bytes(optimizer)
    moved = 3 * sum(p.nbytes for p in parameters) + 2 * kept
    return [
        Series(f"{stepper.name}, step", "s", tuple(times)),
        Series(f"{stepper.name}, ratio", "1", tuple(ratios)),
        Series(f"{stepper.name}, states", "bytes/parameter", (kept / count,)),
        Series(f"{stepper.name}, speed", "GB/s", tuple(moved / seconds / 1e9 for seconds in times)),
    ]


def _parameters(dtype: torch.dtype, device: torch.device, numel: int, seed: int) -> list[nn.Parameter]:
    """Returns parameters and gradients with magnitudes as in a training."""
    generator = torch.Generator(device).manual_seed(seed)
    made = []
    for shape in _shapes(numel):
        weight, gradient = (torch.randn(shape, device=device, generator=generator) * 0.02 for _ in range(2))
        parameter = nn.Parameter(weight.to(dtype))
        parameter.grad = gradient.to(dtype)
        made.append(parameter)
    return made


def _shapes(numel: int) -> list[tuple[int, ...]]:
    """Returns the shapes of four matrices and a vector with about `numel` elements in all.

    Large sides are multiples of 256, as in most models: with other sides some libraries keep states in 32 bits.
    """
    side = round((numel / 4) ** 0.5)
    side = round(side / 256) * 256 if side > 256 else side
    return [*[(side, side)] * 4, (side,)]


def _copy_speed(device: torch.device, numel: int, rounds: int) -> tuple[float, ...]:
    """Returns the GB/s, read and written, of a plain copy of `numel` float32 numbers."""
    source = torch.ones(numel, device=device)
    target = torch.empty_like(source)
    seconds = [_timed(lambda: target.copy_(source), device) for _ in range(_WARM_UP + rounds)][_WARM_UP:]
    return tuple(2 * source.nbytes / one / 1e9 for one in seconds)


def _timed(step: Callable[[], Tensor | float | None], device: torch.device) -> float:
    """Returns the seconds that one call takes."""
    began_s = clock_s(device)
    step()
    return clock_s(device) - began_s
