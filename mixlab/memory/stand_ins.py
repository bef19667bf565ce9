"""Replacements, in the thread that traces, of functions that would read values or the process's state.

Other people's modules call these functions by name, so the names themselves are replaced. That affects all threads;
those that do not trace get the original answers.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from mixlab.memory.known_values import value_of
from mixlab.process import Setting

_RANDOM_STATE_BYTES = len(torch.get_rng_state())  # 5056: `torch.utils.checkpoint` keeps it for each part


class _Thread(threading.local):
    """Whether this thread traces, whether the random state counts as memory, and `passed_through`'s state."""

    traces = False
    counts_random_state = False
    passes = False


_thread = _Thread()


@contextmanager
def answered(*, counts_random_state: bool) -> Iterator[None]:
    """Returns a context in which this thread's calls are answered without values.

    - `torch.get_rng_state` returns a fake tensor of the right size, and `torch.set_rng_state` does nothing, so that a
      trace of checkpoints does not touch the process's random numbers.
    - A function of torch.nn.functional that `passed_through` calls does not ask function modes again.
    - transformers takes fake tensors whose values are known for ordinary ones. It asks before it reads a mask: one
      that masks nothing is skipped, which decides on the kernel of attention. A mask that is not known, such as one on
      "meta", counts as one that masks something.
    - transformers' `find_packed_sequence_indices` finds none in positions that are not known.

    Args:
        counts_random_state: Whether the random state is in the traced memory, as on a CPU; with a GPU, it is in the
            host's.
    """
    before = vars(_thread).copy()
    with ExitStack() as stack:
        for setting, answer in _settings():
            stack.enter_context(setting.held(answer))
        vars(_thread).update(traces=True, counts_random_state=counts_random_state)
        try:
            yield
        finally:
            vars(_thread).clear()
            vars(_thread).update(before)


@contextmanager
def passed_through() -> Iterator[None]:
    """Returns a context in which the next function of torch.nn.functional runs although function modes are on.

    Each of these functions asks first whether a mode would rather handle it. One that already has would be asked
    forever; this context says no, once, so that the mode sees the ops inside the function.
    """
    _thread.passes = True
    try:
        yield
    finally:
        _thread.passes = False


def _settings() -> Iterator[tuple[Setting[Any], Callable[..., Any]]]:
    yield _GET, _get_rng_state
    yield _SET, _set_rng_state
    for (path, name), stand_in in _STAND_INS.items():
        module = sys.modules.get(path)
        if module is not None and hasattr(module, name):
            if (module, name) not in _made:
                _made[module, name] = _replaced(module, name), stand_in(getattr(module, name))
            yield _made[module, name]


def _replaced(module: ModuleType, name: str) -> Setting[Any]:
    """Returns a function of a module as a setting."""
    return Setting(f"{module.__name__}.{name}", lambda: getattr(module, name), lambda f: setattr(module, name, f))


_GET, _SET = _replaced(torch, "get_rng_state"), _replaced(torch, "set_rng_state")
_get, _set = torch.get_rng_state, torch.set_rng_state


def _get_rng_state() -> Tensor:
    if not _thread.traces:
        return _get()
    return torch.empty(_RANDOM_STATE_BYTES if _thread.counts_random_state else 0, dtype=torch.uint8)


def _set_rng_state(new_state: Tensor) -> None:
    if not _thread.traces:
        _set(new_state)


def _not_if_known(original: Callable[[Any], bool]) -> Callable[[Any], bool]:
    def is_fake_tensor(x: Any) -> bool:
        return original(x) and not (_thread.traces and value_of(x) is not None)

    return is_fake_tensor


def _none_if_unknown(original: Callable[[Tensor], Tensor | None]) -> Callable[[Tensor], Tensor | None]:
    def find_packed_sequence_indices(position_ids: Tensor) -> Tensor | None:
        return None if _thread.traces and value_of(position_ids) is None else original(position_ids)

    return find_packed_sequence_indices


def _not_if_passed(original: Callable[..., bool]) -> Callable[..., bool]:
    def has_torch_function(*args: Any) -> bool:
        if _thread.passes:
            _thread.passes = False
            return False
        return original(*args)

    return has_torch_function


_ASKING = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
_STAND_INS: dict[tuple[str, str], Callable[[Any], Callable[..., Any]]] = {
    **{("torch.nn.functional", name): _not_if_passed for name in _ASKING},
    ("transformers.utils.import_utils", "is_fake_tensor"): _not_if_known,
    ("transformers.masking_utils", "find_packed_sequence_indices"): _none_if_unknown,
}
_made: dict[tuple[ModuleType, str], tuple[Setting[Any], Callable[..., Any]]] = {}
