"""torch.compile for a kernel that comes in many variants."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import TypeVar

import torch

F = TypeVar("F", bound=Callable[..., object])
Options = dict[str, str | int | bool | Callable[..., object]]


def compiled_variant(function: F, *, checks_indices: bool = True) -> F:
    """Returns a closure compiled for tensors of any size, apart from the other variants of the same source.

    The compiler keeps what it made by code object, and past eight versions of one it falls back to eager operations.
    Closures of one `def` share their code object; so each variant is given a copy.

    Args:
        function: The closure.
        checks_indices: Whether the kernel checks each index into a table; without, none may ever be out of range.
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
    variable ATEN_CPU_CAPABILITY; and what it has written it keeps on disk, up to torch 2.13 at least by a key without
    either, so that one who shares the folder (TORCHINDUCTOR_CACHE_DIR) is answered with code for another width, which
    computes wrong values. Named, the width is the same and part of the key.
    """
    from torch._inductor.cpu_vec_isa import pick_vec_isa
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        return {"cpp.simdlen": pick_vec_isa().bit_width()}
    except InvalidCxxCompiler:  # so nothing is compiled for a CPU
        return {}
