"""torch.compile for a kernel that comes in many variants."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import TypeVar

import torch

F = TypeVar("F", bound=Callable[..., object])


def compiled_variant(function: F) -> F:
    """Returns a closure compiled for tensors of any size, apart from the other variants of the same source.

    The compiler keeps what it made by code object, and past eight versions of one it falls back to eager operations.
    Closures of one `def` share their code object; so each variant is given a copy.
    """
    assert isinstance(function, FunctionType)
    own = FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    return torch.compile(own, dynamic=True)  # type: ignore[return-value]
