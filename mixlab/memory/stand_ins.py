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

from mixlab.process import Setting

_RANDOM_STATE_BYTES = len(torch.get_rng_state())  # 5056: `torch.utils.checkpoint` keeps it for each part
_MASKS = "transformers.masking_utils"


class _Thread(threading.local):
    """Whether this thread traces, and whether the random state counts as memory."""

    traces = False
    counts_random_state = False


_thread = _Thread()


@contextmanager
def answered(*, counts_random_state: bool) -> Iterator[None]:
    """Returns a context in which this thread's calls are answered without values.

    - `torch.get_rng_state` returns a fake tensor of the right size, and `torch.set_rng_state` does nothing, so that a
      trace of checkpoints does not touch the process's random numbers.
    - transformers' `find_packed_sequence_indices` finds none. It checks whether a row holds several texts, which never
      happens if a model numbers the positions itself; with fake tensors it would create a mask for all scores.

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


def _settings() -> Iterator[tuple[Setting[Any], Callable[..., Any]]]:
    yield _GET, _get_rng_state
    yield _SET, _set_rng_state
    masks = sys.modules.get(_MASKS)
    if masks is not None and hasattr(masks, _PACKED):
        if _MASKS not in _of_transformers:
            _of_transformers[_MASKS] = _replaced(masks, _PACKED), _no_packing(getattr(masks, _PACKED))
        yield _of_transformers[_MASKS]


def _replaced(module: ModuleType, name: str) -> Setting[Any]:
    """Returns a function of a module as a setting."""
    return Setting(f"{module.__name__}.{name}", lambda: getattr(module, name), lambda f: setattr(module, name, f))


_PACKED = "find_packed_sequence_indices"
_GET, _SET = _replaced(torch, "get_rng_state"), _replaced(torch, "set_rng_state")
_get, _set = torch.get_rng_state, torch.set_rng_state
_of_transformers: dict[str, tuple[Setting[Any], Callable[..., Any]]] = {}


def _get_rng_state() -> Tensor:
    if not _thread.traces:
        return _get()
    return torch.empty(_RANDOM_STATE_BYTES if _thread.counts_random_state else 0, dtype=torch.uint8)


def _set_rng_state(new_state: Tensor) -> None:
    if not _thread.traces:
        _set(new_state)


def _no_packing(original: Callable[[Tensor], Tensor | None]) -> Callable[[Tensor], Tensor | None]:
    def find_packed_sequence_indices(position_ids: Tensor) -> Tensor | None:
        return None if _thread.traces else original(position_ids)

    return find_packed_sequence_indices
