"""A step on a whole parameter, in pieces of a size that suits the machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import torch
from torch import Tensor

from mixlab.optimizers.step import StepPlan, Tables, compiled_step, eager_step_

_PIECE = 1 << 17  # elements of an eager step, or one in blocks, on a CPU thread: what it computes stays in the cache
_WIDE_PIECE = 1 << 19  # of a compiled step that works on copies: fewer calls, and its copies still fit
_VECTORS = torch.backends.cpu.get_cpu_capability()  # of this CPU, as torch names them


def step_eagerly_(
    plan: StepPlan, parts: dict[str, Tensor], numbers: Sequence[float], generator: torch.Generator | None
) -> None:
    """Takes an eager step on flat tensors, piece by piece; the arguments are those of `eager_step_`."""
    # Two streams of random bits take turns with the pieces, which then are those of one thread.
    threads = 1 if plan.random_streams > 1 else torch.get_num_threads()
    for piece in _pieces(parts, plan.block_size, size=_PIECE * threads):
        eager_step_(plan, piece, numbers, generator)


def step_compiled_(plan: StepPlan, parts: dict[str, Tensor], numbers: Tensor, seed: Tensor) -> None:
    """Takes a compiled step on flat tensors; the arguments are those of `compiled_step`."""
    on_cpu = parts["weight"].is_cpu
    if plan.in_blocks:
        step_in_blocks_(plan, parts, numbers, seed, at_once=_PIECE * torch.get_num_threads() if on_cpu else None)
        return
    widened = _VECTORS == "AVX512" and plan.dtype is torch.float32 and plan.has_narrow_states
    if not (on_cpu and widened):
        compiled_step(plan)(parts, numbers, seed)
        return
    scratch: dict[str, Tensor] = {}
    start = 0
    for piece in _pieces(parts, 1, size=_WIDE_PIECE * torch.get_num_threads()):
        here = seed_from(seed, start) if plan.random else seed
        widened_step_(plan, piece, numbers, here, scratch)
        start += piece["weight"].numel()


def _pieces(parts: dict[str, Tensor], block_size: int, *, size: int) -> Iterator[dict[str, Tensor]]:
    """Yields parts that belong together and begin at a block's first element; on a CPU they are small."""
    numel = parts["weight"].numel()
    size = size if parts["weight"].is_cpu else numel
    blocks = -(-size // block_size)
    lengths = {name: blocks if name.endswith("_scale") else blocks * block_size for name in parts}
    cut = {name: torch.split(part, lengths[name]) for name, part in parts.items()}
    yield from (dict(zip(cut, piece, strict=True)) for piece in zip(*cut.values(), strict=True))


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
    block_size = plan.block_size
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
