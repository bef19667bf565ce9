"""What autocast does to each op of a forward pass: the formats of inputs, computation and output, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mixlab.batches import (
    Batch,
    Loss,
    call_model,
    is_pair,
    loss_of,
    own_loss,
    require_batch,
    require_dense,
    require_loss,
    require_real,
    tensors_of,
)
from mixlab.emulation.contexts import arithmetic, autocast
from mixlab.emulation.lists import ROUNDED_ONCE_OPS, RULES
from mixlab.formats import BF16, FP16, Format, dtype_name
from mixlab.layers import require_values, scripted_part, storage_address
from mixlab.process import RandomStream
from mixlab.tables import html_table, text_table

_COLUMNS = ("module", "op", "inputs", "computed in", "output", "casts", "why")

_SPELLING = {"__matmul__": "matmul", "__rmatmul__": "matmul", "__pow__": "pow", "__rpow__": "pow"}  # as aten's ops
_WHY = {
    "compute": "{compute} by list",
    "float32": "fp32 by list",
    "float32 result": "fp32 by list",
    "float32 overload": "fp32 by list",
    "widest": "widest of its inputs, by list",
    "banned": "not allowed under autocast",
}
_FOLLOW_DATA = frozenset({"batch_norm", "instance_norm"})  # whatever the format of their weights
_aten = torch.ops.aten
_COPIES = frozenset({_aten.clone.default, _aten.detach.default, _aten.alias.default, _aten.copy_.default})


@dataclass(frozen=True)
class TracedOp:
    """One call of an op on floating tensors.

    Attributes:
        op: Its name in Python, e.g. "linear" or "softmax".
        module: The innermost module that was running; "" outside of all modules.
        inputs: The formats of its floating input tensors.
        computed: The widest format among operands and result after autocast; several if it is made of several ops.
        output: The format of its first floating result; "" if there is none.
        casts: How many tensors autocast converted for it.
        why: The rule, in words.
    """

    op: str
    module: str
    inputs: tuple[str, ...]
    computed: str
    output: str
    casts: int
    why: str


@dataclass(frozen=True)
class WeightCast:
    """A parameter that autocast converted.

    Attributes:
        name: Its qualified name.
        numel: How many elements it has.
        times: How often it was converted in this forward pass: once, if autocast's cache is on.
        bytes: Size of the 16-bit copy.
    """

    name: str
    numel: int
    times: int
    bytes: int


@dataclass(frozen=True)
class CastTrace(Sequence[TracedOp]):
    """The ops of a forward pass in order. Its repr and its HTML are a table.

    Attributes:
        ops: The ops, in call order.
        weight_casts: The parameters that were converted, in order of first use.
    """

    ops: tuple[TracedOp, ...]
    weight_casts: tuple[WeightCast, ...]

    @property
    def cache_bytes(self) -> int:
        """Size of all 16-bit copies of weights, which the cache holds when forward ends."""
        return sum(cast.bytes for cast in self.weight_casts)

    def __len__(self) -> int:
        return len(self.ops)

    def __getitem__(self, index: Any) -> Any:
        return self.ops[index]

    def __repr__(self) -> str:
        return f"{text_table(_COLUMNS, self._rows())}\n{self._cache_line()}"

    def _repr_html_(self) -> str:
        return f"{html_table(_COLUMNS, self._rows())}<p>{self._cache_line()}</p>"

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (op.module, op.op, " ".join(op.inputs), op.computed, op.output, str(op.casts or ""), op.why)
            for op in self.ops
        ]

    def _cache_line(self) -> str:
        return f"weights cast: {len(self.weight_casts)}, {self.cache_bytes:,} bytes of 16-bit copies"


def cast_trace(
    model: nn.Module,
    batch: Batch,
    *,
    compute: Format | str = "fp16",
    loss: Loss | None = None,
) -> CastTrace:
    """Runs a forward pass and its loss under autocast, and returns what happened to each op.

    On a CPU it emulates CUDA's rules; on CUDA it watches torch's own autocast. The model's buffers and torch's random
    numbers are left as they were. Views, copies and ops without floating operands are left out.

    >>> trace = cast_trace(nn.Sequential(nn.Linear(4, 3), nn.Softmax(-1)), torch.ones(2, 4))
    >>> [(op.op, op.computed, op.why) for op in trace]
    [('linear', 'fp16', 'fp16 by list'), ('softmax', 'fp32', 'fp32 by list')]

    With targets, the loss follows; by default it is cross-entropy:

    >>> trace = cast_trace(nn.Linear(4, 3), (torch.ones(2, 4), torch.zeros(2, 3)), loss=nn.MSELoss())
    >>> [(op.op, op.inputs, op.computed) for op in trace]
    [('linear', ('fp32', 'fp32', 'fp32'), 'fp16'), ('mse_loss', ('fp16', 'fp32'), 'fp32')]

    Args:
        model: The model, in float32. It runs on its own device, or without parameters on its input's.
        batch: What one call of the model takes, or (inputs, targets); see `mixlab.batches`.
        compute: fp16 or bf16, or its name.
        loss: Function of (output, targets), or of (output, batch) for a batch without targets. None takes cross-entropy
            for (inputs, targets), unless the output has a loss of its own; other batches then trace the model alone.

    Raises:
        TypeError: If `model` is not a module, or is a TorchScript one, `batch` no batch of dense tensors, `loss` no
            function, or `compute` not a format.
        ValueError: If `compute` is another format, the batch is empty, or a tensor has no values.
        BatchError: If the model does not take the batch, the batch is on another device, or the loss is not one
            floating number; it is a TypeError and a ValueError.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"cast_trace: model must be a torch.nn.Module, got {type(model).__name__}")
    if scripted := scripted_part(model):
        raise TypeError(
            f"cast_trace: {scripted}, whose ops cannot be traced; pass the original module, without torch.jit"
        )
    require_values(model, "cast_trace")
    compute = Format.of(compute)
    if compute not in (FP16, BF16):
        raise ValueError(f"cast_trace: compute must be fp16 or bf16, got {compute}")
    require_batch("cast_trace", batch)
    require_dense("cast_trace", batch)
    require_loss("cast_trace", loss)
    require_real("cast_trace", batch)
    device = next((tensor.device for tensor in (*model.parameters(), *tensors_of(batch))), torch.device("cpu"))
    calls = _Calls(compute)
    ran = _Ran(calls, model)
    with (
        _unchanged(model),
        _module_names(model, calls.modules),
        torch.enable_grad(),
        arithmetic(device, compute),
        autocast(device, compute),
        ran,
        calls,
    ):
        output = call_model(model, batch, owner="cast_trace")
        if loss is not None or is_pair(batch) or own_loss(output) is not None:
            loss_of(output, batch, loss, owner="cast_trace")
    return CastTrace(tuple(calls.traced), tuple(ran.weight_casts()))


class _Call:
    """What is known about one call while it runs."""

    def __init__(self) -> None:
        self.casts = 0
        self.computed: set[str] = set()


class _Calls(TorchFunctionMode):
    """Watches ops as Python calls them, before autocast."""

    def __init__(self, compute: Format) -> None:
        super().__init__()
        self.compute = compute
        self.modules: list[str] = []
        self.traced: list[TracedOp] = []
        self.running: _Call | None = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.running = call = _Call()
        try:
            result = func(*args, **(kwargs or {}))
        finally:
            self.running = None
        if call.computed:
            inputs = _formats((args, kwargs))
            computed = ", ".join(sorted(call.computed))
            op = TracedOp(
                func.__name__,
                self.modules[-1] if self.modules else "",
                inputs,
                computed,
                next(iter(_formats(result)), ""),
                call.casts,
                _why(func.__name__, kwargs or {}, inputs, call, self.compute),
            )
            self.traced.append(op)
        return result


class _Ran(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Watches ops as they run, after autocast."""

    def __init__(self, calls: _Calls, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._calls = calls
        self._names = {storage_address(parameter): name for name, parameter in model.named_parameters()}
        self._sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
        self._times: dict[str, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        call = self._calls.running
        if call is None or func.is_view or func in _COPIES:
            return result
        operands = [leaf for leaf in tree_leaves((args, kwargs)) if _is_floating(leaf)]
        results = [leaf for leaf in tree_leaves(result) if _is_floating(leaf)]
        if func is _aten._to_copy.default:
            if operands and result.dtype != operands[0].dtype:
                call.casts += 1
                self._note_weight(operands[0])
        elif operands:
            dtypes = [operand.dtype for operand in operands if operand.dim() > 0] or [operands[0].dtype]
            dtypes += [
                result.dtype for result in results[:1]
            ]  # a sum of 16-bit values with dtype=float32 is computed in fp32
            call.computed.add(dtype_name(max(dtypes, key=lambda dtype: dtype.itemsize)))
        return result

    def weight_casts(self) -> Iterator[WeightCast]:
        return (WeightCast(name, self._sizes[name], n, 2 * self._sizes[name]) for name, n in self._times.items())

    def _note_weight(self, tensor: Tensor) -> None:
        name = self._names.get(storage_address(tensor))
        if name is not None:
            self._times[name] = self._times.get(name, 0) + 1


def _why(op: str, arguments: dict[str, Any], inputs: tuple[str, ...], call: _Call, compute: Format) -> str:
    rule = None if arguments.get("out") is not None else _rule(op)
    if rule == "float32 result" and arguments.get("dtype") is not None:
        return "the caller asks for this format"
    if rule is not None:
        return _WHY[rule].format(compute=compute)
    if op in ROUNDED_ONCE_OPS and call.casts:
        return "on no list: rounded once, as on CUDA"
    if call.casts or not call.computed <= set(inputs):
        return "the ops it is made of are on a list"
    if len(set(inputs)) > 1:
        return "on no list: follows its data input" if op in _FOLLOW_DATA else "on no list: the widest input wins"
    return "on no list: follows its inputs"


def _rule(op: str) -> str | None:
    """Returns the rule of the first of CUDA's lists with an overload of this op, or None."""
    name = _SPELLING.get(op, op)
    return next((rule for rule, ops in RULES.items() if any(name == one.partition(".")[0] for one in ops)), None)


@contextmanager
def _module_names(model: nn.Module, stack: list[str]) -> Iterator[None]:
    """Keeps the names of the running modules on `stack`."""
    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda _m, _i, name=name: stack.append(name)))
        handles.append(module.register_forward_hook(lambda _m, _i, _o: _drop_last(stack), always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Restores the model's buffers and torch's random numbers at the end."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = sorted({p.device for p in model.parameters() if p.is_cuda}, key=str)
    with RandomStream(None, devices=devices):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)


def _drop_last(stack: list[str]) -> None:
    stack.pop()


def _formats(tree: Any) -> tuple[str, ...]:
    return tuple(dtype_name(leaf.dtype) for leaf in tree_leaves(tree) if _is_floating(leaf))


def _is_floating(leaf: object) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()
