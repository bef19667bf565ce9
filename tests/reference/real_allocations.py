"""What a real step on a CPU allocates, without what kernels allocate and free inside themselves.

The profiler's events form a tree: what lies under an op that a dispatch mode would see is that op's kernel. Memory that
is born and dies within one kernel is its scratch, which traces leave out. Arithmetic's is left in, as in traces.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch._C._profiler import _EventType
from torch.autograd.profiler import profile

from mixlab.measure import RealStep, real_steps
from mixlab.measure import step_memory as module

ARITHMETIC = ("add", "sub", "mul", "div", "bitwise_and", "bitwise_or")


@cache
def is_kernel(name: str) -> bool:
    """Whether an op is no composite of other ops."""
    if not name.startswith("aten::") or name.removeprefix("aten::").removesuffix("_") in ARITHMETIC:
        return False
    packet = getattr(torch.ops.aten, name.removeprefix("aten::"), None)
    names = [getattr(packet, one)._name for one in packet.overloads()] if packet is not None else []
    # Not those that TorchScript alone knows, and not those that only write into a tensor that they are given.
    known = [one for one in names if torch._C._dispatch_has_kernel(one) and not one.endswith("out")]
    composite = torch._C._dispatch_has_kernel_for_dispatch_key
    return not all(composite(one, "CompositeImplicitAutograd") for one in known)


def allocations(roots: list[Any]) -> list[tuple[int, int | str, int, int]]:
    """Returns (time, bytes or the name of a phase, address, number of the kernel or 0) in order of time."""
    found: list[tuple[int, int | str, int, int]] = []
    kernels = 0
    ahead = [(root, 0) for root in roots]
    while ahead:
        node, kernel = ahead.pop()
        if node.tag == _EventType.Allocation:
            found.append((node.start_time_ns, node.extra_fields.alloc_size, node.extra_fields.ptr, kernel))
        elif node.tag == _EventType.TorchOp:
            if node.name.startswith(module._MARK):
                found.append((node.start_time_ns, node.name.removeprefix(module._MARK), 0, 0))
            called_again = any(child.name == node.name for child in node.children)  # autocast's wrapper
            if not kernel and is_kernel(node.name) and not called_again:
                kernels += 1
                kernel = kernels
        ahead += [(child, kernel) for child in node.children]
    return sorted(found, key=lambda event: event[0])


class OnCpuWithoutScratch(module._OnCpu):
    """Logged by the profiler that knows which op an allocation is made in."""

    def __enter__(self) -> None:
        self._profile = profile(use_cpu=True, profile_memory=True, acc_events=True)
        self._profile.__enter__()

    def __exit__(self, *error: object) -> None:
        self._profile.__exit__(*error)

    def phases(self) -> Iterator[module._Level]:
        events = allocations(self._profile.kineto_results.experimental_event_tree())
        born: dict[int, tuple[int, int]] = {}
        scratch: set[int] = set()
        for place, (_, what, address, kernel) in enumerate(events):
            if isinstance(what, str):
                continue
            if what > 0:
                born[address] = place, kernel
            elif address in born:
                first, owner = born.pop(address)
                if owner and owner == kernel:
                    scratch |= {first, place}
        deltas, marks = [0], []
        for place, (_, what, _, _) in enumerate(events):
            if isinstance(what, str):
                marks.append((what, len(deltas) - 1))
            elif place not in scratch:
                deltas.append(what)
        levels = np.cumsum(deltas)
        for (phase, first), (_, last) in pairwise(marks):
            if phase != "end":
                yield module._Level(int(levels[first : last + 1].max()), int(levels[last]))


def steps_without_scratch(*arguments: Any, **options: Any) -> list[RealStep]:
    """As `real_steps` on a CPU."""
    with mock.patch.object(module, "_OnCpu", OnCpuWithoutScratch):
        return real_steps(*arguments, **options)
