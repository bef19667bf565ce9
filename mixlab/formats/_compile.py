"""torch.compile for a kernel that comes in many variants."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import TypeVar

import torch

F = TypeVar("F", bound=Callable[..., object])
Options = dict[str, str | int | bool | Callable[..., object]]


def compiled_variant(function: F, *, checks_indices: bool = True) -> F:
    """Returns a closure compiled for tensors of any size, separately from other closures of the same source.

    The compiler caches by code object, and falls back to eager operations after eight versions of one. Closures of one
    `def` share their code object, so each variant gets a copy.

    Args:
        function: The closure.
        checks_indices: Whether the kernel checks each index into a table. If not, none may ever be out of range.
    """
    assert isinstance(function, FunctionType)
    own = FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    options = vector_options()
    if not checks_indices:
        options["assert_indirect_indexing"] = False
    return torch.compile(own, dynamic=True, options=options)  # type: ignore[return-value]


def vector_options() -> Options:
    """Returns the options of `torch.compile` that name the width of this CPU's vectors.

    Code for a CPU is written for vectors of one width. Inductor takes the width from the CPU and from the environment
    variable ATEN_CPU_CAPABILITY. It keeps the code on disk, up to torch 2.13 at least by a key that includes neither.
    So processes that share the folder (TORCHINDUCTOR_CACHE_DIR) may get code for another width, which computes wrong
    values. Named as an option, the width stays the same and is part of the key.
    """
    from torch._inductor.cpu_vec_isa import pick_vec_isa
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        return {"cpp.simdlen": pick_vec_isa().bit_width()}
    except InvalidCxxCompiler:  # without a compiler, no code for a CPU is compiled
        return {}
