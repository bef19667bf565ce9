"""The log behind a trace: the birth and death of every storage while fake tensors go through a training step.

Fake tensors have shapes and storages without memory (`torch._subclasses.FakeTensorMode`), and reference counts free
them like real ones. So the log of their storages is the log of a real step, however large.
"""

from __future__ import annotations

import weakref
from bisect import bisect_right
from contextlib import AbstractContextManager
from functools import cache, partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mixlab.emulation.kernels import tensors_in
from mixlab.memory.categories import ACTIVATIONS, CASTS, PARAMETERS, TEMPORARIES, Phase
from mixlab.memory.custom_ops import body_of
from mixlab.memory.eager_ops import overwrites_own
from mixlab.memory.fakes import Results
from mixlab.memory.kept_numbers import is_kept
from mixlab.optimizers.layout import is_dense
from mixlab.process import COLLECTOR

LoggedPhase = Literal["start"] | Phase  # "start": before the first phase, and after the last

MODEL, LOSS, OPTIMIZER = "(model)", "(loss)", "(optimizer)"  # in the place of a module's path

_GRANULE = 512  # bytes
_CAST = torch.ops.aten._to_copy.default
_ADD = torch.ops.aten.add.Tensor
_DEVICE = torch.ops.prim.device.default
_INPLACE = getattr(torch.Tag, "inplace", None)  # from torch 2.13 on


class Allocation(NamedTuple):
    """One allocation of a step.

    Attributes:
        bytes: Its size.
        category: Its content: "parameters", "gradients", a state of the optimizer, "activations", ...
        op: The op that made it.
        phase: The phase in which it was made.
        module: Path of the module whose forward or backward made it: "(model)" for the model itself, "(loss)" or
            "(optimizer)" outside it.
        born, died: Places in the log; died = -1 if it outlives the log.
    """

    bytes: int
    category: str
    op: str
    phase: LoggedPhase
    module: str
    born: int
    died: int


class AllocationLog(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Logs the storages of all results while it is active, on top of a `FakeTensorMode`.

    A tensor is an activation if it is still alive at the end of a forward pass, or at the end of a part that backward
    recomputes. It cannot be told apart from a temporary before that.

    Args:
        mode: The active `FakeTensorMode`.
        as_on: "cuda": sizes are multiples of 512 bytes, as from CUDA's caching allocator. "cpu": sizes to the byte,
            with the tensors that a CPU's arithmetic allocates while it runs: Python's numbers, and copies of operands
            in the dtype of the computation.

    Attributes:
        entries: The events in order: an allocation's number for its birth, ~number for its death.
        spans: (phase, first place in the log) of each phase, in order.
        failed: (op, module) of the last op that raised an error.
        host_scalars: Whether 0-dimensional results of an optimizer step are in the host's memory and left out.
    """

    def __init__(self, mode: FakeTensorMode, *, as_on: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        _holders_of_a_lone_gradient()  # uses fake tensors of its own, so not while others are traced
        self.results = Results(mode, as_on=as_on)
        self.granule = _GRANULE if as_on == "cuda" else 1
        self.copies_operands = as_on == "cpu"
        self._as_on = as_on
        self.host_scalars = False
        self.entries: list[int] = []
        self.spans: list[tuple[LoggedPhase, int]] = [("start", 0)]
        self.failed: tuple[str, str] | None = None
        self._live: dict[int, tuple[int, int, weakref.ref[Any]]] = {}  # by storage: number, bytes, finalizer
        self._allocations: list[list[Any]] = []  # the fields of `Allocation`
        self._young: list[int] = []  # made in the current forward pass, or in its recomputation
        self._modules: list[str] = []
        self._makers: list[int] = []  # by allocation: number of the autograd node whose backward made it, or -1
        self._nodes: tuple[list[int], list[str]] = ([], [])  # first numbers of autograd nodes, and their modules

    @property
    def phase(self) -> LoggedPhase:
        return self.spans[-1][0]

    @property
    def module(self) -> str:
        """The path of the module whose forward or backward is running."""
        if self._modules:
            return self._modules[-1]
        if self.phase == "step":
            return OPTIMIZER
        if self.phase == "backward" and (node := torch._C._current_autograd_node()) is not None:
            place = bisect_right(self._nodes[0], node._sequence_nr()) - 1
            return self._nodes[1][place] if place >= 0 else LOSS
        return LOSS

    def allocations(self) -> tuple[Allocation, ...]:
        return tuple(Allocation(*fields) for fields in self._allocations)

    def begin(self, phase: LoggedPhase) -> None:
        """Ends the current phase, and begins another."""
        self._settle()
        self.spans.append((phase, len(self.entries)))
        if phase == "forward":
            self._nodes = ([], [])

    def close(self) -> None:
        """Stops logging: deaths from now on are left out."""
        self._settle()
        self._live.clear()

    def tag(self, tensor: Tensor, category: str) -> None:
        """Sets the category of a tensor's allocation, which begins now if the tensor is new."""
        number = self._see(tensor, "")
        if number is not None:
            self._allocations[number][1] = category

    def watch(self, model: nn.Module) -> None:
        """Follows which module is running, by hooks that stay in `model`."""
        for path, module in model.named_modules():
            module.register_forward_pre_hook(partial(self._enter, path or MODEL))
            module.register_forward_hook(self._leave, always_call=True)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # one wrapper less; nothing is compiled here

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is _DEVICE:  # the most frequent call of all
            return args[0].fake_device if isinstance(args[0], FakeTensor) else func(*args)
        if self.phase == "step" and not self.copies_operands and _only_writes(func) and _has_dimensions(args):
            return None if isinstance(args[0], list) else args[0]
        body = body_of(func, self._as_on)
        if body is not None:
            try:
                with self:
                    return body(*args, **(kwargs or {}))
            except Exception:  # it is no code of torch's, or reads values: what its fake says is all that is known
                self.failed = None
        # Function modes, such as autocast's lists, must not act on the ops inside an op's fake.
        with torch._C.DisableTorchFunction():
            if self._young and not self._computing:
                self._settle()
            if self.phase == "backward" and not self._computing and self._overwrites(func, args):
                if self.copies_operands and func is not _ADD:
                    self._pass(_copied_bytes(func, args, args[0], in_place=True), func)
                return args[0]
            try:
                result = self.results(func, args, kwargs or {})
                for tensor in tensors_in(result):
                    number = self._see(tensor, func)
                    if func is _CAST and number is not None and self._casts_weight(args[0], tensor):
                        self._allocations[number][1] = CASTS
                copied = (
                    _copied_bytes(func, args, result, in_place=func._schema.is_mutable) if self.copies_operands else 0
                )
                self._pass(copied or _conjugated_bytes(func, args), func)
            except Exception:
                self.failed = (str(func), self.module)
                raise
        return result

    def _overwrites(self, op: Any, args: tuple[Any, ...]) -> bool:
        """Whether autograd writes the op's result over its first operand, as it does for all but tensor subclasses."""
        node = torch._C._current_autograd_node()
        known = self._live.get(args[0].untyped_storage()._cdata) if node and isinstance(args[0], Tensor) else None
        own = known if known is not None and self._makers[known[0]] == node._sequence_nr() else None
        if op is _ADD:
            return _is_lone(args) and (own is None or _meets_itself(node))
        return own is not None and overwrites_own(op, node, self._allocations[own[0]][2])

    @property
    def _computing(self) -> bool:
        """Whether a forward pass runs, or backward recomputes a part of one and records gradients for it."""
        return self.phase == "forward" or (
            self.phase == "backward" and (bool(self._modules) or torch.is_grad_enabled())
        )

    def _casts_weight(self, source: Tensor, cast: Tensor) -> bool:
        known = self._live.get(source.untyped_storage()._cdata)
        narrower = cast.dtype.itemsize < source.dtype.itemsize
        return narrower and self._computing and known is not None and self._allocations[known[0]][1] == PARAMETERS

    def _see(self, tensor: Tensor, op: Any) -> int | None:
        """Returns the number of a tensor's allocation, logging its birth if it is new; None if it needs no memory."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        known = self._live.get(key)
        if known is not None and known[1] == size:
            return known[0]
        if known is not None:  # it was resized
            self._die(key)
        on_host = op and self.host_scalars and self.phase == "step" and tensor.dim() == 0
        if not size or on_host:
            return None
        category = TEMPORARIES if known is None else self._allocations[known[0]][1]
        number = self._bear(size, op, category)
        self._live[key] = (number, size, weakref.ref(storage, partial(self._die, key)))
        torch._C._set_throw_on_mutable_data_ptr(tensor)  # code outside torch would read what is not there
        if self._computing:
            self._young.append(number)
        return number

    def _bear(self, size: int, op: Any, category: str = TEMPORARIES) -> int:
        number = len(self._allocations)
        rounded = -(-size // self.granule) * self.granule
        node = torch._C._current_autograd_node() if self.phase == "backward" else None
        self._makers.append(-1 if node is None else node._sequence_nr())
        self._allocations.append([rounded, category, str(op), self.phase, self.module, len(self.entries), -1])
        self.entries.append(number)
        return number

    def _pass(self, size: int, op: Any) -> None:
        """Logs what an op allocates and frees while it runs."""
        if size:
            self._bear(size, op)
            self._end(len(self._allocations) - 1)

    def _die(self, key: int, _reference: Any = None) -> None:
        if key in self._live:
            self._end(self._live.pop(key)[0])

    def _end(self, number: int) -> None:
        self._allocations[number][-1] = len(self.entries)
        self.entries.append(~number)

    def _settle(self) -> None:
        """Turns the temporaries that survived a forward pass into activations."""
        for number in self._young:
            fields = self._allocations[number]
            if fields[-1] < 0 and fields[1] == TEMPORARIES:
                fields[1] = ACTIVATIONS
        self._young.clear()

    def _enter(self, path: str, _module: nn.Module, _args: Any) -> None:
        self._modules.append(path)
        self._mark(path)

    def _leave(self, _module: nn.Module, _args: Any, _result: Any) -> None:
        self._modules.pop()
        self._mark(self._modules[-1] if self._modules else LOSS)

    def _mark(self, path: str) -> None:
        self._nodes[0].append(torch._C._autograd._get_sequence_nr())
        self._nodes[1].append(path)


def freed_by_reference_counts() -> AbstractContextManager[None]:
    """Returns a context in which only reference counts free tensors: Python's cycle collector runs unpredictably."""
    return COLLECTOR.held(False)


@cache
def _only_writes(op: Any) -> bool:
    """Whether an op changes nothing but values: fake tensors have none, so it need not run."""
    return _INPLACE in op.tags and torch.Tag.inplace_view not in op.tags


def _has_dimensions(args: Any) -> bool:
    """Whether the written tensor is not a step counter: counters have values even among fake tensors."""
    while isinstance(args, list | tuple) and args:
        args = args[0]
    return isinstance(args, Tensor) and args.dim() > 0


def _is_lone(args: tuple[Any, ...]) -> bool:
    """Whether autograd adds a gradient to one that nothing else holds, and so overwrites it with the sum.

    It does so for ordinary tensors, but allocates the sum for subclasses such as fake tensors (PyTorch,
    torch/csrc/autograd/input_buffer.cpp).
    """
    held, other = args[0], args[1]
    return (
        isinstance(held, Tensor)
        and isinstance(other, Tensor)
        and (held.shape, held.dtype) == (other.shape, other.dtype)
        and _holders(held) == _holders_of_a_lone_gradient()
        and is_dense(held)
    )


def _meets_itself(node: Any) -> bool:
    """Whether two gradients of one node are added to each other; what else it adds is part of its formula."""
    following = [edge for edge in node.next_functions if edge[0] is not None]
    return len(set(following)) < len(following)


def _holders(tensor: Tensor) -> tuple[int, int]:
    """Returns the C++ reference counts of a tensor and of its storage."""
    return tensor._use_count(), torch._C._storage_Use_Count(tensor.untyped_storage()._cdata)  # type: ignore[attr-defined]


@cache
def _holders_of_a_lone_gradient() -> tuple[int, int] | None:
    """Returns `_holders` of a gradient that only autograd holds, at the moment when another is added to it."""
    seen: list[tuple[int, int]] = []

    class Look(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is _ADD:
                with torch._C.DisableTorchFunction():
                    seen.append(_holders(args[0]))
            return func(*args, **(kwargs or {}))

    with FakeTensorMode():
        x = torch.empty(1, requires_grad=True)
        y = x.exp()
        total = torch.stack((y.sin(), y.cos())).sum()
        with Look():  # type: ignore[no-untyped-call]
            torch.autograd.backward(total)
    return seen[0] if len(seen) == 1 else None


_ARITHMETIC = frozenset({"add", "sub", "mul", "div", "bitwise_and", "bitwise_or"})


def _copied_bytes(op: Any, args: tuple[Any, ...], result: Any, *, in_place: bool) -> int:
    """Returns the bytes of the copies that a CPU's arithmetic makes of its operands before it computes.

    In-place arithmetic may compute in a wider dtype than that of its result, which then is copied too.
    """
    if not isinstance(result, Tensor) or op._overloadpacket.__name__.removesuffix("_") not in _ARITHMETIC:
        return 0
    dtype = torch.result_type(*args[:2]) if in_place else result.dtype
    copied = 0 if dtype is result.dtype else result.numel() * dtype.itemsize
    for operand in args[:2]:
        if isinstance(operand, Tensor):
            copies = operand.dtype is not dtype or (not operand.dim() and is_kept(operand))
            copied += operand.numel() * dtype.itemsize if copies else 0
        else:
            copied += 8 + (dtype.itemsize if dtype.itemsize < 8 else 0)
    return copied


def _conjugated_bytes(op: Any, args: tuple[Any, ...]) -> int:
    """Returns the bytes of the conjugates that are computed before an op that does not take them as views."""
    views = [arg for arg in args if isinstance(arg, Tensor) and arg.is_conj()]
    return sum(view.numel() * view.dtype.itemsize for view in views) if views and not _takes_conjugates(op) else 0


@cache
def _takes_conjugates(op: Any) -> bool:
    try:
        return torch._C._dispatch_kernel_for_dispatch_key_is_fallthrough(op.name(), "Conjugate")
    except RuntimeError:  # no kernel of its own for them
        return False
