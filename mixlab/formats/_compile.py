"""torch.compile for a kernel that comes in many variants."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import TypeVar

import torch

F = TypeVar("F", bound=Callable[..., object])
Options = dict[str, str | int | bool | Callable[..., object]]


def compiled_variant(function: F, *, checks_indices: bool = True) -> F:
    """Returns a closure compiled for tensors of any size, separately from other closures of the same `def`.

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
    """Returns the `torch.compile` options that fix the width of this CPU's vectors.

    Inductor generates CPU code for one vector width, which it takes from the CPU and from the environment variable
    ATEN_CPU_CAPABILITY. It caches the code on disk, under a key that includes neither, up to torch 2.13 at least. So
    processes that share the folder (TORCHINDUCTOR_CACHE_DIR) may get code for another width, which computes wrong
    values. Given as an option, the width is fixed and part of the key.
    """
    from torch._inductor.cpu_vec_isa import pick_vec_isa
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        return {"cpp.simdlen": pick_vec_isa().bit_width()}
    except InvalidCxxCompiler:  # without a compiler, no CPU code is compiled
        return {}
