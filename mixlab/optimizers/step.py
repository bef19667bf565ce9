"""One optimizer step on a flat piece of a parameter: read, compute in float32, round, store; eager or compiled.

The eager operations are those of torch.optim, in its order, so that with float32 storage the two are equal bit for bit.
A compiled step fuses everything into one pass over memory, blocks and their scales included; the compiler takes numbers
that change from step to step only as tensors, which torch.optim's operations do not, so its mathematics is written out,
and may differ in last bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from mixlab.formats import BF16, FP16, round_to
from mixlab.formats._compile import compiled_variant
from mixlab.formats.rounding import draw_bits, hashed_bits
from mixlab.optimizers.state_formats import StateFormat, at_random

WeightUpdate = Literal["nearest", "stochastic", "kahan"]
Moments = dict[str, Tensor]
Tables = Sequence[Sequence[Tensor]]  # of each state

_FORMATS = {torch.float16: FP16, torch.bfloat16: BF16}


class SGDNumbers(NamedTuple):
    """What `SGDRule` computes with; 0-dimensional tensors in a compiled step."""

    lr: Any
    momentum: Any
    weight_decay: Any


@dataclass(frozen=True)
class SGDRule:
    """Stochastic gradient descent.

    Attributes:
        has_momentum, decays: Whether the momentum and the weight decay are other than zero.
    """

    has_momentum: bool
    decays: bool
    numbers = SGDNumbers

    def eager_(self, weight: Tensor, gradient: Tensor, moments: Moments, n: SGDNumbers) -> tuple[Tensor, Moments]:
        if self.decays:
            gradient = gradient.add(weight, alpha=n.weight_decay)
        if self.has_momentum:
            gradient = moments["momentum_buffer"].mul_(n.momentum).add_(gradient)
        return weight.add_(gradient, alpha=-n.lr), moments

    def compiled(self, weight: Tensor, gradient: Tensor, moments: Moments, n: SGDNumbers) -> tuple[Tensor, Moments]:
        if self.decays:
            gradient = gradient + n.weight_decay * weight
        if self.has_momentum:
            gradient = moments["momentum_buffer"] * n.momentum + gradient
            moments = {"momentum_buffer": gradient}
        return weight - n.lr * gradient, moments


class AdamNumbers(NamedTuple):
    """What `AdamRule` computes with; 0-dimensional tensors in a compiled step.

    Attributes:
        step_size: The learning rate / (1 - beta1^step).
        shrink: What decoupled weight decay multiplies the weight by.
        weight_decay: Times the weight, added to the gradient where the decay is not decoupled.
        new1, beta2, new2: 1 - beta1, beta2, 1 - beta2.
        root, inverse_root: The square root of 1 - beta2^step, and 1 over it.
        eps: Added to the square root of the second moment.
    """

    step_size: Any
    shrink: Any
    weight_decay: Any
    new1: Any
    beta2: Any
    new2: Any
    root: Any
    inverse_root: Any
    eps: Any


@dataclass(frozen=True)
class AdamRule:
    """Adam.

    Attributes:
        decays: Whether there is weight decay.
        decoupled: Whether the decay is AdamW's.
    """

    decays: bool
    decoupled: bool
    numbers = AdamNumbers

    def eager_(self, weight: Tensor, gradient: Tensor, moments: Moments, n: AdamNumbers) -> tuple[Tensor, Moments]:
        if self.decays:
            if self.decoupled:
                weight.mul_(n.shrink)
            else:
                gradient = gradient.add(weight, alpha=n.weight_decay)
        exp_avg = moments["exp_avg"].lerp_(gradient, n.new1)
        exp_avg_sq = moments["exp_avg_sq"].mul_(n.beta2).addcmul_(gradient, gradient, value=n.new2)
        denominator = exp_avg_sq.sqrt().div_(n.root).add_(n.eps)
        return weight.addcdiv_(exp_avg, denominator, value=-n.step_size), moments

    def compiled(self, weight: Tensor, gradient: Tensor, moments: Moments, n: AdamNumbers) -> tuple[Tensor, Moments]:
        if self.decays:
            if self.decoupled:
                weight = weight * n.shrink
            else:
                gradient = gradient + n.weight_decay * weight
        exp_avg = moments["exp_avg"] + n.new1 * (gradient - moments["exp_avg"])
        exp_avg_sq = moments["exp_avg_sq"] * n.beta2 + n.new2 * gradient * gradient
        weight = weight - n.step_size * exp_avg / (exp_avg_sq.sqrt() * n.inverse_root + n.eps)
        return weight, {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}


@dataclass(frozen=True)
class StepPlan:
    """What decides how a step is computed and stored; a compiled step is made for each.

    Attributes:
        rule: The mathematics.
        states: Name and format of each moment that the rule works on.
        dtype: Of the parameter.
        update: How a new weight is rounded to it.
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
        """How many of the weight and its states are rounded at random, each with bits of its own."""
        return (self.update == "stochastic") + sum(fmt.rounding == "stochastic" for _, fmt in self.states)

    @property
    def has_narrow_states(self) -> bool:
        """Whether a state is stored in less than float32."""
        return any(fmt.dtype is not torch.float32 for _, fmt in self.states)

    @property
    def in_blocks(self) -> bool:
        """Whether a state has scales."""
        return any(fmt.scaled for _, fmt in self.states)


def eager_step_(
    plan: StepPlan, piece: dict[str, Tensor], numbers: Sequence[float], generator: torch.Generator | None
) -> None:
    """Takes one step on a piece.

    Args:
        plan: As for all pieces of the parameter.
        piece: Flat tensors: "weight", "gradient", each state by name with its "_scale" if it has one, and "master" or
            "compensation" if the parameter has one.
        numbers: Of the rule.
        generator: What draws the bits of stochastic rounding.
    """

    def bits(_stream: int) -> Tensor:
        return draw_bits(piece["weight"], generator)

    _step_(plan, piece, plan.rule.eager_, plan.rule.numbers(*numbers), bits)


@cache
def compiled_step(plan: StepPlan) -> Callable[..., None]:
    """Returns the step as one compiled function of a piece, the numbers as a tensor, two int32 seeds, and tables.

    The tables are those of each state's format, if a state has scales.

    The tensors of a piece may also be float32 copies of what is stored; values that are rounded to nearest are then not
    rounded yet when it returns, and all others lie in their formats.
    """

    def step(piece: dict[str, Tensor], numbers: Tensor, seed: Tensor, tables: Tables = ()) -> None:
        weight = piece["weight"]

        def bits(stream: int) -> Tensor:
            index = torch.arange(weight.numel(), dtype=torch.int32, device=weight.device).view(weight.shape)
            number, upper = (stream + 1) // 2, stream % 2 == 0  # two moments share a hash where 16 bits are enough
            shared = number > 0 and all(fmt.dtype is torch.bfloat16 for _, fmt in plan.states)
            first, second = seed.unbind()
            hashed = hashed_bits(index, (first, second + (number if shared else stream)))
            return hashed << 16 if shared and upper else hashed

        _step_(plan, piece, plan.rule.compiled, plan.rule.numbers(*numbers.unbind()), bits, tables)

    # 8-bit codes and the cells of the dynamic map fit their tables, and on a CPU the checks take a third of the time
    return compiled_variant(step, checks_indices=False)


def step_in_blocks_(
    plan: StepPlan, whole: dict[str, Tensor], numbers: Tensor, seed: Tensor, *, at_once: int | None = None
) -> None:
    """Takes a compiled step on flat tensors where states have scales: first on full blocks, then on what is left.

    All but the scales is given as (blocks, block_size), the latter of a size that the compiler knows: so values, amax
    and codes share one loop, and one kernel reads and writes each tensor once. A view made inside, of flat tensors of
    unknown size, would keep pointwise loops and reductions apart.

    Args:
        at_once: About how many elements a call works on; None for all full blocks.
    """
    block_size = max(fmt.block_size for _, fmt in plan.states)
    numel = whole["weight"].numel()
    full = numel // block_size * block_size
    stride = full if at_once is None else -(-at_once // block_size) * block_size
    calls = [(start, min(start + stride, full), block_size) for start in range(0, full, stride or 1)]
    if full < numel:
        calls.append((full, numel, numel - full))
    for start, stop, columns in calls:
        scales = slice(start // block_size, -(-stop // block_size))
        piece = {
            name: part[scales] if name.endswith("_scale") else part[start:stop].view(-1, columns)
            for name, part in whole.items()
        }
        if columns == block_size:
            for part in piece.values():
                if part.dim() == 2:
                    torch._dynamo.mark_static(part, 1)
        here = seed_from(seed, start) if plan.random else seed
        compiled_step(plan)(piece, numbers, here, _tables(plan, seed.device))


def seed_from(seed: Tensor, start: int) -> Tensor:
    """Returns the seed whose first hashed bits are those of element `start`, so that pieces do as the whole would."""
    if start:
        seed = seed.clone()
        seed[0] += (start + 2**31) % 2**32 - 2**31  # int32 wraps around, and so do the indices that are hashed
    return seed


@cache
def _tables(plan: StepPlan, device: torch.device) -> Tables:
    tables = tuple(fmt.tables(device) for _, fmt in plan.states)
    for table in tables:
        for one in table:
            torch._dynamo.mark_static(one)
    return tables


def widened_step_(
    plan: StepPlan, piece: dict[str, Tensor], numbers: Tensor, seed: Tensor, scratch: dict[str, Tensor]
) -> None:
    """Takes a compiled step on float32 copies of a piece's 16-bit tensors, and rounds them back.

    With 512-bit vectors, the compiler loads 16-bit states beside float32 weights by way of the stack, which takes
    longer than all the rest; torch's own casts do not, and a piece stays in the cache. (Beside 16-bit weights, or with
    256-bit vectors, copies cost more: there twice the time of the step.)

    Args:
        scratch: Where the copies lie, to be kept from piece to piece: fresh memory would cost as much again.
    """
    narrow = [name for name, tensor in piece.items() if tensor.dtype is not torch.float32]
    wide = dict(piece)
    for name in narrow:
        if name not in scratch:
            scratch[name] = torch.empty_like(piece[name], dtype=torch.float32)
        wide[name] = scratch[name][: piece[name].numel()].copy_(piece[name])
    compiled_step(plan)(wide, numbers, seed)
    for name in narrow:
        if name != "gradient":
            piece[name].copy_(wide[name])


def _step_(
    plan: StepPlan,
    piece: dict[str, Tensor],
    compute: Callable[..., tuple[Tensor, Moments]],
    numbers: SGDNumbers | AdamNumbers,
    bits: Callable[[int], Tensor],
    tables: Tables = (),
) -> None:
    kept = {name: [piece[key] for key in fmt.keys(name)] for name, fmt in plan.states}
    for (name, _), table in zip(plan.states, tables, strict=False):
        kept[name] += table
    moments = {name: fmt.read(*kept[name]) for name, fmt in plan.states}
    weight, moments = compute(_weight(piece), piece["gradient"].float(), moments, numbers)
    for stream, (name, fmt) in enumerate(plan.states, start=1):
        fmt.write_(moments[name], bits(stream) if fmt.rounding == "stochastic" else None, *kept[name])
    _store_weight_(plan, piece, weight, bits)


def _weight(piece: dict[str, Tensor]) -> Tensor:
    """Returns the weight in float32, a tensor to be changed."""
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
        return round_to(weight, _FORMATS[dtype], overflow="inf")  # a cast and back would be compiled to nothing
    return weight.to(dtype).float()


def _copy_(stored: Tensor, value: Tensor) -> None:
    if stored is not value:
        stored.copy_(value)
