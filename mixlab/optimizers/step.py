"""One optimizer step on a flat piece of a parameter: read, compute in float32, round, store; eager or compiled.

An eager step with float32 storage equals torch.optim bit for bit. A compiled step makes one pass over memory, blocks
and their scales included, and may differ in the last bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from mixlab.formats import BF16, FP16, round_to
from mixlab.formats._compile import compiled_variant
from mixlab.formats.random_bits import draw_bits, hashed_bits
from mixlab.optimizers.rules import AdamRule, SGDRule
from mixlab.optimizers.state_formats import StateFormat, at_random

WeightUpdate = Literal["nearest_even", "stochastic", "kahan"]
Tables = Sequence[Sequence[Tensor]]  # of each state

_FORMATS = {torch.float16: FP16, torch.bfloat16: BF16}


@dataclass(frozen=True)
class StepPlan:
    """How a step is computed and stored; each plan has its own compiled step.

    Attributes:
        rule: The mathematics.
        states: Name and format of each moment that the rule uses.
        dtype: The parameter's dtype.
        update: How a new weight is rounded to the dtype.
    """

    rule: SGDRule | AdamRule
    states: tuple[tuple[str, StateFormat], ...]
    dtype: torch.dtype
    update: WeightUpdate

    @property
    def random(self) -> bool:
        """Whether anything is rounded at random."""
        return self.random_streams > 0

    @property
    def random_streams(self) -> int:
        """How many of the weight and its states are rounded at random; each has its own bits."""
        return (self.update == "stochastic") + sum(fmt.rounding == "stochastic" for _, fmt in self.states)

    @property
    def has_narrow_states(self) -> bool:
        """Whether a state is stored in less than float32."""
        return any(fmt.dtype is not torch.float32 for _, fmt in self.states)

    @property
    def in_blocks(self) -> bool:
        """Whether a state has scales."""
        return any(fmt.scaled for _, fmt in self.states)

    @property
    def block_size(self) -> int:
        """How many elements share a scale; 1 if no state has scales. Pieces begin at multiples of it."""
        return max((fmt.block_size for _, fmt in self.states), default=1)


def eager_step_(
    plan: StepPlan, piece: dict[str, Tensor], numbers: Sequence[float], generator: torch.Generator | None
) -> None:
    """Takes one eager step on a piece.

    Args:
        plan: The parameter's plan.
        piece: Flat tensors: "weight", "gradient", each state by name, with its "_scale" if it has one, and "master" or
            "compensation" if the parameter has one.
        numbers: The rule's numbers.
        generator: Draws the bits for stochastic rounding; None means torch's global generator.
    """

    def bits(_stream: int) -> Tensor:
        return draw_bits(piece["weight"], generator)

    _step_(plan, piece, numbers, bits)


@cache
def compiled_step(plan: StepPlan) -> Callable[..., None]:
    """Returns the step of a plan as one compiled function.

    Its arguments are a piece, the rule's numbers as one tensor, two int32 seeds for the random bits, and, if a state
    has scales, the tables of each state's format.

    A piece may also hold float32 copies of the stored tensors. Then stochastic results are already rounded on return;
    round-to-nearest ones are rounded by the caller.
    """

    def step(piece: dict[str, Tensor], numbers: Tensor, seed: Tensor, tables: Tables = ()) -> None:
        weight = piece["weight"]

        def bits(stream: int) -> Tensor:
            index = torch.arange(weight.numel(), dtype=torch.int32, device=weight.device).view(weight.shape)
            number, upper = (stream + 1) // 2, stream % 2 == 0  # two bf16 moments share a hash, 16 bits each
            shared = number > 0 and all(fmt.dtype is torch.bfloat16 for _, fmt in plan.states)
            first, second = seed.unbind()
            hashed = hashed_bits(index, (first, second + (number if shared else stream)))
            return hashed << 16 if shared and upper else hashed

        _step_(plan, piece, numbers.unbind(), bits, tables)

    # 8-bit codes and the dynamic map's cells never leave their tables; on a CPU, checks would take a third of the time
    return compiled_variant(step, checks_indices=False)


def _step_(
    plan: StepPlan,
    piece: dict[str, Tensor],
    numbers: Sequence[Any],
    bits: Callable[[int], Tensor],
    tables: Tables = (),
) -> None:
    kept = {name: [piece[key] for key in fmt.keys(name)] for name, fmt in plan.states}
    for (name, _), table in zip(plan.states, tables, strict=False):
        kept[name] += table
    moments = {name: fmt.read(*kept[name]) for name, fmt in plan.states}
    weight = _weight(piece)
    plan.rule.step_(weight, piece["gradient"].float(), moments, plan.rule.numbers(*numbers))  # type: ignore[arg-type]
    for stream, (name, fmt) in enumerate(plan.states, start=1):
        fmt.write_(moments[name], bits(stream) if fmt.rounding == "stochastic" else None, *kept[name])
    _store_weight_(plan, piece, weight, bits)


def _weight(piece: dict[str, Tensor]) -> Tensor:
    """Returns the weight in float32, to be updated in place."""
    if "master" in piece:
        return piece["master"]
    weight = piece["weight"].float()
    return weight + piece["compensation"].float() if "compensation" in piece else weight


def _store_weight_(plan: StepPlan, piece: dict[str, Tensor], weight: Tensor, bits: Callable[[int], Tensor]) -> None:
    if "master" in piece:
        _copy_(piece["master"], weight)
    elif "compensation" in piece:
        rounded = _rounded(weight, plan.dtype)
        piece["compensation"].copy_(weight - rounded)
        weight = rounded
    elif plan.update == "stochastic":
        weight = at_random(weight, plan.dtype, bits(0))
    _copy_(piece["weight"], weight)


def _rounded(weight: Tensor, dtype: torch.dtype) -> Tensor:
    if torch.compiler.is_compiling():
        return round_to(weight, _FORMATS[dtype], overflow="inf")  # a compiler would remove a cast and back
    return weight.to(dtype).float()


def _copy_(stored: Tensor, value: Tensor) -> None:
    if stored is not value:
        stored.copy_(value)
