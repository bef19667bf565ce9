"""torch.compile for a kernel that comes in many variants."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import TypeVar

import torch

F = TypeVar("F", bound=Callable[..., object])


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
    options: dict[str, str | int | bool | Callable[..., object]] = (
        {} if checks_indices else {"assert_indirect_indexing": False}
    )
    return torch.compile(own, dynamic=True, options=options)  # type: ignore[return-value]
