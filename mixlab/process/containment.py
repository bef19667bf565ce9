"""Functions that restore all of torch's switches however they end, including by Stop in a notebook.

A KeyboardInterrupt may land between any two instructions: after a mode was entered but before its `with` registers it,
or after its exit was called but before it runs. Context managers written in Python cannot close that gap. So the caller
undoes what they may leave behind, and does it twice, because the interrupt may land there too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch

from mixlab.process import random_streams, settings

P = ParamSpec("P")
R = TypeVar("R")


def contained(function: Callable[P, R]) -> Callable[P, R]:
    """Makes a function restore the thread's earlier state, however it ends.

    This covers dispatch modes and function modes, dispatch keys, grad mode, autocast, random streams, and the
    process-wide settings that mixlab owns.

    Args:
        function: Any function; it keeps its signature.
    """

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        before = _ThreadState()
        try:
            try:
                return function(*args, **kwargs)
            except Exception as error:
                # A context broken by the interrupt may raise its own error instead.
                if (interrupt := _interrupt_behind(error)) is not None:
                    raise interrupt from None
                raise
            finally:
                before.restore()
        finally:
            before.restore()

    return run


def _interrupt_behind(error: BaseException) -> KeyboardInterrupt | None:
    behind: BaseException | None = error
    while behind is not None and not isinstance(behind, KeyboardInterrupt):
        behind = behind.__cause__ or behind.__context__
    return behind


class _ThreadState:
    """The state that torch and mixlab keep for this thread."""

    def __init__(self) -> None:
        self._function_modes = _function_modes()
        self._dispatch_modes = _dispatch_modes()
        self._fake_mode = torch._C._get_dispatch_mode(_FAKE)
        self._keys = torch._C._ForceDispatchKeyGuard(
            torch._C._dispatch_tls_local_include_set(), torch._C._dispatch_tls_local_exclude_set()
        )
        self._functions = torch._C._get_torch_function_state()  # type: ignore[attr-defined]
        self._gradients = torch.is_grad_enabled()
        self._autocast = [(kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in _KINDS]
        self._caches_casts = torch.is_autocast_cache_enabled()
        self._nesting = _autocast_nesting()
        self._stream = random_streams._stream()
        self._holds = {setting: setting.mark() for setting in settings.SETTINGS}
        self._keys.__enter__()  # type: ignore[no-untyped-call]

    def restore(self) -> None:
        """Restores the state. A second call has no effect."""
        if _function_modes() != self._function_modes:  # one may be missing: a mode leaves the stack while it acts
            while torch._C._len_torch_function_stack():
                torch._C._pop_torch_function_stack()
            for mode in self._function_modes:
                torch._C._push_on_torch_function_stack(mode)
        if torch._C._get_dispatch_mode(_FAKE) is not self._fake_mode:
            torch._C._unset_dispatch_mode(_FAKE)
            if self._fake_mode is not None:
                torch._C._set_dispatch_mode(self._fake_mode)
        if _dispatch_modes() != self._dispatch_modes:
            while torch._C._len_torch_dispatch_stack() > _infrastructure():
                torch._C._pop_torch_dispatch_stack(None)
            for mode in self._dispatch_modes:
                torch._C._push_on_torch_dispatch_stack(mode)
        self._keys.__exit__(None, None, None)
        torch._C._set_torch_function_state(self._functions)  # type: ignore[attr-defined]
        torch.set_grad_enabled(self._gradients)
        for kind, enabled, dtype in self._autocast:
            torch.set_autocast_enabled(kind, enabled)
            torch.set_autocast_dtype(kind, dtype)
        torch.set_autocast_cache_enabled(self._caches_casts)
        while _autocast_nesting() > self._nesting:
            if torch.autocast_decrement_nesting() == 0:
                torch.clear_autocast_cache()
        random_streams._set_stream(self._stream)
        for setting in settings.SETTINGS:
            setting.release(self._holds.get(setting, 0))  # some may be newer than this state


_KINDS = ("cpu", "cuda")
_FAKE = torch._C._TorchDispatchModeKey.FAKE


def _function_modes() -> list[Any]:
    return [torch._C._get_function_stack_at(place) for place in range(torch._C._len_torch_function_stack())]


def _dispatch_modes() -> list[Any]:
    """Returns the modes on the stack, without torch's own such as the fake tensor mode."""
    places = range(_infrastructure(), torch._C._len_torch_dispatch_stack())
    return [torch._C._get_dispatch_stack_at(place) for place in places]


def _infrastructure() -> int:
    """Returns how many of torch's own dispatch modes are on; the length of the stack includes them."""
    kinds = torch._C._TorchDispatchModeKey
    return sum(torch._C._get_dispatch_mode(kind) is not None for kind in (kinds.FAKE, kinds.PROXY, kinds.FUNCTIONAL))


def _autocast_nesting() -> int:
    nesting = torch.autocast_increment_nesting() - 1
    torch.autocast_decrement_nesting()
    return nesting
