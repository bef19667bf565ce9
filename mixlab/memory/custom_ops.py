"""Bodies of custom ops (`torch.library.custom_op`): Python code, whose ops a trace must see.

The fake that is registered for a custom op says what its results are, not what its body allocates on the way.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch._library.custom_ops import OPDEFS


def body_of(op: Any, as_on: str) -> Callable[..., Any] | None:
    """Returns the Python code of a custom op on a device, None if there is none.

    Args:
        op: An overload of any library.
        as_on: "cuda" or "cpu".
    """
    definition = None if op.namespace == "aten" else OPDEFS.get(op._schema.name)
    if definition is None:
        return None
    kernels = definition._backend_fns
    body = kernels.get(as_on, kernels.get(None))
    return None if body is None else inspect.unwrap(body)  # the wrapper would import torch's compiler
