"""Measures optimizers on this machine: time of a step, bytes of states, memory speed; ours and other libraries'."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mixlab.formats import BF16, FP32
from mixlab.machine import usable_device
from mixlab.measure.record import Record, Series, now, this_machine
from mixlab.optimizers import BACKENDS, AdamW, backend, state_bytes
from mixlab.process import THREADS, RandomStream
from mixlab.recipes import STATES, Recipe
from mixlab.training.tasks import storage

# Every pair of formats of m and v beside fp32 weights; the same format for both, rounded stochastically; and every way
# to store bf16 weights, with moments in fp32 and in bf16.
RECIPES: tuple[str, ...] = (
    *(str(Recipe(exp_avg=m, exp_avg_sq=v)) for m, v in product(STATES, STATES)),
    *(str(Recipe(exp_avg=s, exp_avg_sq=s, state_rounding="stochastic")) for s in STATES if s != FP32),
    *(
        str(Recipe(BF16, BF16, gradients=BF16, exp_avg=s, exp_avg_sq=s, **way))
        for s in (FP32, BF16)
        for way in ({"update": "nearest_even"}, {"update": "stochastic"}, {"update": "kahan"}, {"master_weights": True})
    ),
)
_PEER = "torch fused"  # every case's yardstick
_WARM_UP = 2  # steps that are not counted; the first allocates states and compiles


@dataclass(frozen=True)
class _Case:
    """One optimizer to measure: what it is called, its parameters' dtype, and how it is made."""

    name: str
    dtype: torch.dtype
    make: Callable[[list[nn.Parameter]], Optimizer]


def measure_optimizer(
    device: torch.device | str = "cpu",
    *,
    numel: int = 25_000_000,
    recipes: Sequence[str] = RECIPES,
    backends: Sequence[str] | None = None,
    modes: Sequence[str] = ("eager", "compiled"),
    rounds: int = 7,
    threads: int | None = None,
    seed: int = 0,
    command: str = "measure_optimizer",
    progress: Callable[[float], None] = lambda _part: None,
) -> Record:
    """Times a step of AdamW in every way to store it, one after the other, each beside torch's fused one in fp32.

    The yardstick takes a step before each step of the case, so that whatever slows the machine down slows both; "ratio"
    is the case's time over the yardstick's, pair by pair. GB/s are of the bytes that a step cannot but move: weights
    and states read and written, gradients read. A case that does not run here is named in the record's parameters.

    Args:
        device: Where.
        numel: Parameters, in four matrices and a vector, about; too many for any cache.
        recipes: As text; how weights, gradients and states are stored.
        backends: Names of `mixlab.optimizers.backends`; None takes all that are installed.
        modes: "eager" and "compiled", or one of them, of the recipes.
        rounds: Counted steps of each case.
        threads: Of the CPU; None for as many as torch takes.
        seed: Of weights and gradients.
        command: What the record shall say was typed.
        progress: Called with the part done, from 0 to 1.

    Raises:
        ValueError: An unknown recipe, backend, mode or device, or a number out of range.
    """
    for name, value, low in (("numel", numel, 64), ("rounds", rounds, 1), ("threads", threads or 1, 1)):
        if type(value) is not int or value < low:
            raise ValueError(f"measure_optimizer: {name} must be a whole number from {low} up, got {value!r}")
    if unknown := [mode for mode in modes if mode not in ("eager", "compiled")]:
        raise ValueError(f"measure_optimizer: modes must be eager, compiled or both, got {', '.join(unknown)}")
    device = usable_device(device)
    names = [name for name, one in BACKENDS.items() if one.installed] if backends is None else backends
    cases = [*_backend_cases(names), *_recipe_cases(recipes, modes)]
    if not cases:
        raise ValueError("measure_optimizer: nothing to measure; give recipes and modes, or backends")
    date, drawn_on = now(), [device] if device.type == "cuda" else []
    with THREADS.held(threads or torch.get_num_threads()):
        copy = Series("copy_", "GB/s", _copy_speed(device, numel, rounds))
        series, notes = [copy], {}
        for number, case in enumerate(cases):
            try:
                with RandomStream(seed, devices=drawn_on):
                    series += _measure(case, device, numel, rounds, seed)
            except Exception as error:  # whatever a library raises on a machine that it is not made for
                reason = [*str(error).splitlines(), type(error).__name__][0]
                notes[case.name] = f"does not run here: {reason}"
            _free(device)
            progress((number + 1) / len(cases))
        used = torch.get_num_threads()
    return Record(
        kind="optimizer",
        machine=this_machine(),
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
        series=tuple(series),
    )


def _backend_cases(names: Sequence[str]) -> list[_Case]:
    return [_Case(one.name, one.weights, lambda p, one=one: one(p, 1e-3)) for one in map(backend, names)]  # type: ignore[misc]


def _recipe_cases(recipes: Sequence[str], modes: Sequence[str]) -> list[_Case]:
    cases = []
    for text in recipes:
        recipe = Recipe.parse(text)
        kept = storage(recipe)
        for mode in modes:
            assert recipe.weights.dtype is not None  # a recipe takes no others

            def make(parameters: list[nn.Parameter], kept: object = kept, compiled: bool = mode == "compiled") -> AdamW:
                return AdamW(parameters, 1e-3, storage=kept, compiled=compiled)  # type: ignore[arg-type]

            cases.append(_Case(f"{text} {mode}", recipe.weights.dtype, make))
    return cases


def _measure(case: _Case, device: torch.device, numel: int, rounds: int, seed: int) -> list[Series]:
    peer_parameters = _parameters(torch.float32, device, numel, seed)
    peer = backend(_PEER)(peer_parameters, 1e-3)
    parameters = _parameters(case.dtype, device, numel, seed)
    optimizer = case.make(parameters)
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
        Series(f"{case.name}, step", "s", tuple(times)),
        Series(f"{case.name}, ratio", "1", tuple(ratios)),
        Series(f"{case.name}, states", "bytes/parameter", (kept / count,)),
        Series(f"{case.name}, speed", "GB/s", tuple(moved / seconds / 1e9 for seconds in times)),
    ]


def _parameters(dtype: torch.dtype, device: torch.device, numel: int, seed: int) -> list[nn.Parameter]:
    """Returns parameters with gradients of the size that training has."""
    generator = torch.Generator(device).manual_seed(seed)
    made = []
    for shape in _shapes(numel):
        weight, gradient = (torch.randn(shape, device=device, generator=generator) * 0.02 for _ in range(2))
        parameter = nn.Parameter(weight.to(dtype))
        parameter.grad = gradient.to(dtype)
        made.append(parameter)
    return made


def _shapes(numel: int) -> list[tuple[int, ...]]:
    """Returns the shapes of four matrices and a vector that hold about so many elements.

    Large sides are multiples of 256, as models have them: with others some libraries keep states in 32 bits.
    """
    side = round((numel / 4) ** 0.5)
    side = round(side / 256) * 256 if side > 256 else side
    return [*[(side, side)] * 4, (side,)]


def _copy_speed(device: torch.device, numel: int, rounds: int) -> tuple[float, ...]:
    """Returns GB/s, read and written, of the machine's own copy of as many float32 numbers."""
    source = torch.ones(numel, device=device)
    target = torch.empty_like(source)
    seconds = [_timed(lambda: target.copy_(source), device) for _ in range(_WARM_UP + rounds)][_WARM_UP:]
    return tuple(2 * source.nbytes / one / 1e9 for one in seconds)


def _timed(step: Callable[[], Tensor | float | None], device: torch.device) -> float:
    """Returns the seconds of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began_s = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began_s


def _free(device: torch.device) -> None:
    torch._dynamo.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
