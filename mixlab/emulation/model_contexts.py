"""torch.autocast in model code under emulation: it acts as on CUDA, whether written for CUDA or the tensors' device.

On a CPU, `torch.autocast("cuda", ...)` warns and does nothing, and `torch.autocast("cpu", ...)` applies the CPU's own
rules. Inside `emulated`, both act on the emulated device: they switch CUDA's rules off and on or change their format,
and `torch.is_autocast_enabled("cuda")` answers accordingly. The same holds for contexts that torch itself enters in a
backward pass, to recompute checkpoints (torch.utils.checkpoint) or to run a `custom_bwd`, if the forward pass ran
inside `emulated`. Outside, `torch.autocast` is unchanged.
"""

from __future__ import annotations

import functools
import threading
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch.amp import autocast_mode

from mixlab.emulation import kernels


@contextmanager
def emulated(dtype: torch.dtype) -> Iterator[None]:
    """A context in which CPU tensors follow CUDA's autocast.

    Args:
        dtype: float16 or bfloat16.
    """
    _extend_torch()
    with _following(), torch.autocast("cpu", dtype=dtype):
        yield


@contextmanager
def _following() -> Iterator[None]:
    """Switches CUDA's rules on, and records which autograd nodes are created inside."""
    first = torch._C._autograd._get_sequence_nr()
    with kernels.switched_on():
        try:
            yield
        finally:
            _thread.note(first, torch._C._autograd._get_sequence_nr())


class _Nodes(threading.local):
    """The sequence numbers of the autograd nodes that this thread created under CUDA's rules.

    Nodes are numbered in order of creation. Spans are (first, one past the last). Touching spans are merged, and the
    oldest are forgotten, because a graph lives for one step.
    """

    LIMIT = 10_000

    def __init__(self) -> None:
        self.spans: list[tuple[int, int]] = []

    def note(self, first: int, end: int) -> None:
        while self.spans and self.spans[-1][1] >= first:
            first = min(first, self.spans.pop()[0])
        if end > first:
            self.spans.append((first, end))
        if len(self.spans) > self.LIMIT:
            del self.spans[: self.LIMIT // 2]

    def __contains__(self, number: int) -> bool:
        place = bisect_right(self.spans, (number, float("inf"))) - 1
        return place >= 0 and self.spans[place][0] <= number < self.spans[place][1]


_thread = _Nodes()


def _is_emulated() -> bool:
    """Returns whether a context entered here acts on the emulated device."""
    if kernels.is_on():
        return True
    node = torch._C._current_autograd_node()
    return node is not None and node._sequence_nr() in _thread


class _OfEmulatedDevice(torch.autocast):
    """The context that `torch.autocast(...)` returns under emulation."""

    def __init__(
        self,
        device_type: str,
        dtype: torch.dtype | None = None,
        enabled: bool = True,
        cache_enabled: bool | None = None,
    ) -> None:
        if device_type not in _EMULATED:
            super().__init__(device_type, dtype, enabled, cache_enabled)
            return
        dtype = torch.get_autocast_dtype(device_type) if dtype is None else dtype
        super().__init__("cpu", dtype, False, cache_enabled)
        self._enabled = enabled  # for float32 too, which torch refuses on a CPU but not on CUDA


_EMULATED = ("cpu", "cuda")
_extending = threading.Lock()


def _extend_torch() -> None:
    """Wraps the functions that model code calls, once. Outside emulation, the wrappers only call them."""
    with _extending:
        if not hasattr(torch.autocast.__enter__, "__wrapped__"):
            _wrap_autocast(torch.autocast)
            _wrap_functions()


def _wrap_autocast(autocast: Any) -> None:
    enter, leave = autocast.__enter__, autocast.__exit__

    @functools.wraps(autocast.__init__)  # torch.compile reads its signature
    def new(kind: type, *_args: Any, **_kwargs: Any) -> Any:
        return object.__new__(_emulated_kind(kind) if _is_emulated() else kind)

    @functools.wraps(enter)
    def enter_(self: Any) -> Any:
        if self.device not in _EMULATED or not _is_emulated():
            return enter(self)
        with ExitStack() as stack:
            stack.enter_context(_following())
            stack.enter_context(_cuda_state(self._enabled, self.fast_dtype))
            stack.callback(setattr, self, "device", self.device)  # "cuda", if the context was created outside
            self.device = "cpu"
            result = enter(self)
            vars(self).setdefault("_emulated", []).append(stack.pop_all())
        return result

    @functools.wraps(leave)
    def exit_(self: Any, *error: Any) -> Any:
        emulated = vars(self).get("_emulated")
        with emulated.pop() if emulated else nullcontext():
            return leave(self, *error)

    autocast.__new__, autocast.__enter__, autocast.__exit__ = new, enter_, exit_


@functools.cache
def _emulated_kind(kind: type) -> type:
    """Returns the subclass of `torch.autocast`, or of one of its subclasses, for the emulated device."""
    if issubclass(_OfEmulatedDevice, kind):
        return _OfEmulatedDevice
    return type(kind.__name__, (kind, _OfEmulatedDevice), {})


def _wrap_functions() -> None:
    cast_value, clear_cache = autocast_mode._cast, torch.clear_autocast_cache

    @functools.wraps(cast_value)
    def cast(value: Any, device_type: str, dtype: torch.dtype) -> Any:
        emulated = device_type == "cuda" and kernels.is_on()
        return cast_value(value, "cpu" if emulated else device_type, dtype)

    @functools.wraps(clear_cache)
    def clear() -> None:
        kernels.clear_cache()
        clear_cache()

    autocast_mode._cast, torch.clear_autocast_cache = cast, clear


@contextmanager
def _cuda_state(enabled: bool, dtype: torch.dtype) -> Iterator[None]:
    """A context in which questions about CUDA's autocast are answered for the emulated device."""
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", enabled)
    torch.set_autocast_dtype("cuda", dtype)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])
