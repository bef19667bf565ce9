"""What may be asked of a measurement: checked by the measurements, and by their commands before torch is imported."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product

from mixlab.arguments import LARGEST_SEED, did_you_mean, require_whole
from mixlab.formats import BF16, FP16, FP32, Format
from mixlab.optimizers.choices import require_backend
from mixlab.recipes import STATES, Recipe

KINDS = ("matmul", "cast", "emulation", "optimizer", "train", "memory", "states")
MATMUL_FORMATS = ("fp32", "tf32", "fp16", "bf16", "e4m3fn", "int8")
MODES = ("eager", "compiled")
LARGEST = 2**31 - 1  # elements, or a size of a product

# Every pair of formats for both moments with fp32 weights; one format for both, rounded stochastically; and every way
# to store bf16 weights, with moments in fp32 and in bf16.
STORAGE_RECIPES: tuple[str, ...] = (
    *(str(Recipe(exp_avg=m, exp_avg_sq=v)) for m, v in product(STATES, STATES)),
    *(str(Recipe(exp_avg=s, exp_avg_sq=s, state_rounding="stochastic")) for s in STATES if s != FP32),
    *(
        str(Recipe(BF16, BF16, gradients=BF16, exp_avg=s, exp_avg_sq=s, **way))
        for s in (FP32, BF16)
        for way in ({"update": "nearest_even"}, {"update": "stochastic"}, {"update": "kahan"}, {"master_weights": True})
    ),
)


def check_cast(*, formats: Sequence[Format | str], numel: int, rounds: int, threads: int | None, seed: int) -> None:
    """Raises TypeError or ValueError if `measure_cast` does not take such arguments."""
    require_seed("measure_cast", seed)
    _require_counts("measure_cast", numel=numel, rounds=rounds, threads=threads)
    for fmt in formats:
        Format.of(fmt)


def check_matmul(
    *,
    formats: Sequence[str] | None,
    shapes: Sequence[str] | None,
    numel: int | None,
    budget_s: float,
    threads: int | None,
    seed: int,
    rounds: int = 1,
) -> None:
    """Raises ValueError if `measure_matmul` does not take such arguments."""
    _require_counts("measure_matmul", rounds=rounds, threads=threads)
    require_seed("measure_matmul", seed)
    require_budget("measure_matmul", budget_s)
    if numel is not None:
        require_whole("measure_matmul: numel", numel, 1, LARGEST)
    if formats is not None:
        parsed_formats(formats)
    if isinstance(shapes, str):
        raise ValueError(f"measure_matmul: shapes must be a list such as ['1024x1024x512'], got {shapes!r:.60}")
    for shape in shapes or ():
        parsed_shape(shape)


def check_train(*, recipes: Sequence[Recipe | str] | None, modes: Sequence[str], steps: int, seed: int) -> None:
    """Raises TypeError or ValueError if `measure_train` does not take such arguments."""
    require_seed("measure_train", seed)
    for recipe in recipes or ():
        Recipe.of(recipe)
    unknown = [mode for mode in modes if mode not in MODES]
    if unknown or not modes or (recipes is not None and not recipes):
        raise ValueError(f"measure_train: modes must be eager, compiled or both, and recipes not empty; got {modes!r}")
    require_whole("measure_train: steps", steps, 1)


def check_emulation(*, formats: Sequence[Format | str], seed: int) -> None:
    """Raises TypeError or ValueError if `measure_emulation` does not take such arguments."""
    require_seed("measure_emulation", seed)
    for fmt in map(Format.of, formats):
        if fmt not in (FP16, BF16):
            raise ValueError(f"measure_emulation: formats must be fp16 or bf16, got {fmt}")


def check_optimizer(
    *,
    numel: int,
    recipes: Sequence[Recipe | str],
    backends: Sequence[str] | None,
    modes: Sequence[str],
    rounds: int,
    threads: int | None,
    seed: int,
) -> None:
    """Raises TypeError or ValueError if `measure_optimizer` does not take such arguments."""
    require_seed("measure_optimizer", seed)
    require_whole("measure_optimizer: numel", numel, 64)
    _require_counts("measure_optimizer", rounds=rounds, threads=threads)
    if unknown := [mode for mode in modes if mode not in MODES]:
        raise ValueError(f"measure_optimizer: modes must be eager, compiled or both, got {', '.join(unknown)}")
    for recipe in recipes:
        Recipe.of(recipe)
    for name in backends or ():
        require_backend(name)


def check_states(*, steps: int, spike_at: int, seeds: int, seed: int) -> None:
    """Raises ValueError if `measure_states` does not take such numbers."""
    require_seed("measure_states", seed)
    _require_counts("measure_states", seeds=seeds, steps=steps)
    require_whole("measure_states: spike_at", spike_at, 0)


def check_memory(*, rounds: int, seed: int) -> None:
    """Raises ValueError if `measure_memory` does not take such numbers."""
    _require_counts("measure_memory", rounds=rounds)
    require_seed("measure_memory", seed)


def require_budget(owner: str, budget_s: float) -> None:
    """Raises ValueError, beginning with `owner`, if `budget_s` is not a number of seconds."""
    number = isinstance(budget_s, int | float) and not isinstance(budget_s, bool)
    if not number or not 0 < budget_s < 1e9:
        raise ValueError(f"{owner}: budget_s must be a number of seconds above 0, got {budget_s!r:.60}")


def require_seed(owner: str, seed: int) -> None:
    """Raises ValueError, beginning with `owner`, if `seed` is not a whole number that torch takes as a seed."""
    require_whole(f"{owner}: seed", seed, 0, LARGEST_SEED)


def _require_counts(owner: str, **counts: int | None) -> None:
    """Raises ValueError if a count is not a whole number from 1 up; None is a default."""
    for name, value in counts.items():
        if value is not None:
            require_whole(f"{owner}: {name}", value, 1)


def parsed_formats(formats: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of formats, each once.

    Args:
        formats: Names of `MATMUL_FORMATS`.

    Raises:
        ValueError: If a name is unknown, or there is none.
    """
    if not formats or isinstance(formats, str):
        raise ValueError(f"measure_matmul: formats must be a list of {', '.join(MATMUL_FORMATS)}, got {formats!r}")
    for name in formats:
        if name not in MATMUL_FORMATS:
            known = ", ".join(MATMUL_FORMATS)
            hint = did_you_mean(name, MATMUL_FORMATS)
            raise ValueError(f"measure_matmul: unknown format {str(name)!r}: {hint}formats must be of {known}")
    return tuple(dict.fromkeys(map(str, formats)))


def parsed_shape(shape: str) -> tuple[int, int, int, int]:
    """Returns (batch, m, n, k) of a shape such as "1024x1024x512"; batch is 0 where three sizes are given.

    >>> parsed_shape("16x4096x1024"), parsed_shape("8x64x64x32")
    ((0, 16, 4096, 1024), (8, 64, 64, 32))

    Args:
        shape: M x N x K, or BATCH x M x N x K, each from 1 to 2^31 - 1.

    Raises:
        ValueError: If it is anything else.
    """
    if not isinstance(shape, str) or not re.fullmatch(r"-?\d{1,20}(x-?\d{1,20}){2,3}", shape):
        raise ValueError(
            f"measure_matmul: a shape must be MxNxK or BATCHxMxNxK, such as 1024x1024x512, got {shape!r:.60}"
        )
    sizes = tuple(map(int, shape.split("x")))
    for name, size in zip(("batch", "m", "n", "k")[-len(sizes) :], sizes, strict=True):
        require_whole(f"measure_matmul: {name} of {shape}", size, 1, LARGEST)
    batch, m, n, k = sizes if len(sizes) == 4 else (0, *sizes)
    return batch, m, n, k
