"""A step on a whole parameter, in pieces that fit the CPU's cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import torch
from torch import Tensor

from mixlab.optimizers.step import StepPlan, Tables, compiled_step, eager_step_

_PIECE = 1 << 17  # elements per CPU thread, for eager steps and steps in blocks: the temporaries stay in the cache
_WIDE_PIECE = 1 << 19  # elements per CPU thread, for compiled steps on copies: fewer calls, and the copies still fit
_VECTORS = torch.backends.cpu.get_cpu_capability()  # torch's name for the width of this CPU's vectors


def step_eagerly_(
    plan: StepPlan, parts: dict[str, Tensor], numbers: Sequence[float], generator: torch.Generator | None
) -> None:
    """Takes an eager step on flat tensors, piece by piece; see `eager_step_` for the arguments."""
    # Streams of random bits alternate from piece to piece, so pieces must not depend on the number of threads.
    threads = 1 if plan.random_streams > 1 else torch.get_num_threads()
    for piece in _pieces(parts, plan.block_size, size=_PIECE * threads):
        eager_step_(plan, piece, numbers, generator)


def step_compiled_(plan: StepPlan, parts: dict[str, Tensor], numbers: Tensor, seed: Tensor) -> None:
    """Takes a compiled step on flat tensors; see `compiled_step` for the arguments."""
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
    """Yields matching pieces of all parts, each from the start of a block; on a GPU, the whole is one piece."""
    numel = parts["weight"].numel()
    size = size if parts["weight"].is_cpu else numel
    blocks = -(-size // block_size)
    lengths = {name: blocks if name.endswith("_scale") else blocks * block_size for name in parts}
    cut = {name: torch.split(part, lengths[name]) for name, part in parts.items()}
    yield from (dict(zip(cut, piece, strict=True)) for piece in zip(*cut.values(), strict=True))


def step_in_blocks_(
    plan: StepPlan, whole: dict[str, Tensor], numbers: Tensor, seed: Tensor, *, at_once: int | None = None
) -> None:
    """Takes a compiled step of a plan whose states have scales: first on full blocks, then on the rest.

    All tensors except the scales are passed as (blocks, block_size), and the compiler knows block_size. So values, amax
    and codes share one loop, and one kernel reads and writes each tensor once. If the view were made inside, from flat
    tensors of unknown size, pointwise loops and reductions would stay separate.

    Args:
        plan: The parameter's plan.
        whole: The parameter's flat tensors; see `eager_step_`.
        numbers: The rule's numbers.
        seed: Two int32 seeds for the random bits.
        at_once: About how many elements to pass per call; None means all full blocks.
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
    """Returns the seed with which a piece that begins at element `start` gets the same bits as within the whole."""
    if start:
        seed = seed.clone()
        seed[0] += (start + 2**31) % 2**32 - 2**31  # int32 wraps around, like the hashed indices
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
    """Takes a compiled step on float32 copies of a piece's 16-bit tensors, then rounds the copies back.

    With 512-bit vectors and float32 weights, compiled code loads 16-bit states through the stack, which takes longer
    than the rest of the step. torch's own casts avoid that, and a piece stays in the cache. (With 16-bit weights or
    256-bit vectors, the copies cost more than they save: they double the time of the step.)

    Args:
        plan: The parameter's plan.
        piece: Flat tensors; see `eager_step_`.
        numbers: The rule's numbers.
        seed: Two int32 seeds for the random bits.
        scratch: Memory for the copies, reused from piece to piece: allocating it each time would double their cost.
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
