"""Fake tensors: copies of models and batches with shapes and dtypes but no memory, and ops on them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode

from mixlab.memory.eager_ops import corrected, instead_of
from mixlab.memory.known_values import follow, give_value, read, with_places
from mixlab.memory.operands import require_operands, require_value


def fake_model(model: nn.Module, dtype: torch.dtype) -> tuple[nn.Module, list[Tensor]]:
    """Returns a copy of a model with empty tensors on the CPU; call it under a `FakeTensorMode`.

    Shared tensors stay shared: tied weights are one parameter. Gradients are not copied. Objects that cannot be copied,
    such as a lock, are shared with the model.

    Args:
        model: A model with real tensors or on "meta"; it is only read.
        dtype: Dtype of floating-point parameters and buffers in the copy.

    Returns:
        The copy, and all its tensors except parameters: buffers and others, wherever modules hold them.
    """
    copies: dict[int, Any] = {}
    for parameter in model.parameters():
        copies[id(parameter)] = nn.Parameter(_empty(parameter, dtype), requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        copies[id(buffer)] = _empty(buffer, dtype)
    with _EmptyCopies():
        copies |= _uncopiable(model, copies)
        memo = dict(copies)
        copied = copy.deepcopy(model, memo)
    kept = {id(tensor): tensor for tensor in memo.values() if isinstance(tensor, Tensor)}
    for parameter in copied.parameters():
        kept.pop(id(parameter), None)
    return copied, list(kept.values())


class _EmptyCopies(TorchFunctionMode):
    """Makes copies of tensors empty."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.__deepcopy__:
            tensor, memo = args
            if id(tensor) not in memo:
                memo[id(tensor)] = _empty(tensor, tensor.dtype)
            return memo[id(tensor)]
        if func is Tensor.clone:  # which copies a parameter
            return _empty(args[0], args[0].dtype)
        return func(*args, **(kwargs or {}))


def _uncopiable(model: nn.Module, copies: dict[int, Any]) -> dict[int, Any]:
    """Returns the attributes of modules that cannot be copied, by their ids."""
    try:
        copy.deepcopy(model, dict(copies))
    except Exception:
        parts = (value for module in model.modules() for name, value in vars(module).items() if name not in _PARTS)
        return {id(value): value for value in parts if not _copies(value, dict(copies))}
    return {}


_PARTS = ("_modules", "_parameters", "_buffers")


def _copies(value: Any, memo: dict[int, Any]) -> bool:
    try:
        copy.deepcopy(value, memo)
    except Exception:
        return False
    return True


def fake_input(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns an empty CPU tensor of the same shape; call it under a `FakeTensorMode`.

    The copy of a tensor with gaps, such as a slice, has no gaps, as after a transfer to a device.

    Args:
        tensor: A tensor, real or on "meta".
        dtype: Dtype of the copy if the tensor is floating-point.
    """
    fake = _empty(torch.empty_like(tensor, device="meta"), dtype)
    give_value(fake, tensor)
    return fake


def _empty(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if tensor.is_floating_point() or tensor.is_complex():
        dtype = dtype if tensor.is_floating_point() else tensor.dtype
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=dtype, device="cpu")
    fake = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
    give_value(fake, tensor)
    return fake


class Results:
    """Runs ops on fake tensors, and remembers their results: most of a model's layers are alike.

    `FakeTensorMode` has a cache of its own, which covers far more cases and takes several times as long.

    Args:
        mode: Mode to which the tensors belong.
        as_on: "cuda" or "cpu", whose kernels decide the memory of results.
    """

    def __init__(self, mode: FakeTensorMode, *, as_on: str) -> None:
        self._mode = mode
        self._as_on = as_on
        self._attributes = dict(vars(FakeTensor(mode, torch.empty(0, device="meta"), _CPU)))
        self._known: dict[Hashable, tuple[type, list[_Made]] | None] = {}  # None: never remembered
        self._tables: dict[int, tuple[Tensor, Tensor]] = {}  # real tensors by id, and their fakes

    def __call__(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Returns the op's result on these arguments; call it where no mode but `mode` sees ops."""
        if op is _NEW:
            result = op(*args, **kwargs)
            if result.constant is None:
                give_value(result, args[0])
            return result
        known = read(op, args, kwargs)
        if known is not None:
            return known[0]
        result = self._result(op, with_places(op, args), kwargs)
        follow(op, args, kwargs, result)
        return result

    def _result(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        args = tuple(self._fake(arg) if isinstance(arg, Tensor) else arg for arg in args)
        key = (op, _signature(args), _signature(tuple(kwargs.items()))) if _is_plain(op) else None
        if key is None or None in key:
            return self._run(op, args, kwargs)
        if key not in self._known:
            result = self._run(op, args, kwargs)
            self._known[key] = _described(result, args)
            return result
        known = self._known[key]
        if known is None:
            return self._run(op, args, kwargs)
        kind, parts = known
        results = [self._made(part, args) for part in parts]
        return results[0] if kind is FakeTensor else kind(results)

    def _run(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        require_operands(op, args)
        instead = instead_of(op, as_on=self._as_on)
        if instead is not None:
            return instead(*args, **kwargs)
        result = op(*args, **kwargs)
        require_value(op, args, result)
        return corrected(op, args, result, as_on=self._as_on)

    def _fake(self, tensor: Tensor) -> Tensor:
        """Returns a fake of a real tensor, such as an optimizer's table, made once; 0-dimensional tensors stay real."""
        if isinstance(tensor, FakeTensor) or not tensor.dim():
            return tensor
        if id(tensor) not in self._tables:
            self._tables[id(tensor)] = tensor, self._mode.from_tensor(tensor, static_shapes=True)
        return self._tables[id(tensor)][1]

    def _made(self, part: _Made, args: tuple[Any, ...]) -> Any:
        if part is None:
            return None
        with torch._C._DisableTorchDispatch():  # not bound to a name: a traceback would keep it open
            if part.source is None:
                made = torch.empty_strided(part.shape, part.stride, dtype=part.dtype, device="meta")
            else:
                made = torch.empty(0, dtype=part.dtype, device="meta")
                made.set_(args[part.source].untyped_storage(), part.offset, part.shape, part.stride)
        # As `FakeTensor(mode, made, _CPU)`, which takes seven times as long.
        fake: Tensor = Tensor._make_subclass(
            FakeTensor, made, False, dispatch_device=True, device_for_backend_keys=_CPU
        )
        torch._C._set_warn_deprecated_on_mutable_data_ptr(fake)
        vars(fake).update(self._attributes)
        return fake


class _Layout(NamedTuple):
    """The layout of a result: `source` is the argument whose storage it views, None if it has its own."""

    source: int | None
    shape: torch.Size
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype


_Made = _Layout | None
_CPU = torch.device("cpu")
_NEW = torch.ops.aten.lift_fresh.default  # takes a real tensor that `torch.tensor` has just made
_UNSAFE = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape, torch.Tag.inplace_view)


@cache
def _is_plain(op: Any) -> bool:
    """Whether an op's result depends on shapes, strides and dtypes only, and is made of new tensors or views."""
    schema = op._schema
    return schema.name.startswith("aten::") and not schema.is_mutable and not any(tag in op.tags for tag in _UNSAFE)


def _signature(values: Sequence[Any]) -> tuple[Any, ...] | None:
    """Returns the properties of arguments that decide a result; None if they cannot be compared."""
    signature: list[Any] = []
    for value in values:
        if isinstance(value, FakeTensor):
            if value.constant is not None:
                return None
            signature.append((value.shape, value.stride(), value.storage_offset(), value.dtype))
        elif isinstance(value, Tensor):
            return None
        elif isinstance(value, list | tuple):
            inner = _signature(value)
            if inner is None:
                return None
            signature.append(inner)
        else:
            signature.append((type(value), value))
    return tuple(signature)


def _described(result: Any, args: tuple[Any, ...]) -> tuple[type, list[_Made]] | None:
    """Returns how to make a result again; None if its layout is not enough for that."""
    results = [result] if isinstance(result, FakeTensor) else result
    if not isinstance(results, list | tuple) or not all(r is None or isinstance(r, FakeTensor) for r in results):
        return None
    sources = {arg.untyped_storage()._cdata: place for place, arg in enumerate(args) if isinstance(arg, FakeTensor)}
    layouts: list[_Made] = []
    for part in results:
        if part is None:
            layouts.append(None)
            continue
        storage = part.untyped_storage()
        source = sources.get(storage._cdata)
        layout = _Layout(source, part.shape, part.stride(), part.storage_offset(), part.dtype)
        is_lazy = part.is_conj() or part.is_neg()
        if is_lazy or part.constant is not None or (source is None and storage.nbytes() != _bytes(layout)):
            return None
        layouts.append(layout)
    return type(result), layouts


def _bytes(layout: _Layout) -> int:
    """Returns the bytes of the smallest storage with all elements."""
    if 0 in layout.shape:
        return 0
    last = sum((size - 1) * stride for size, stride in zip(layout.shape, layout.stride, strict=True))
    return (layout.offset + last + 1) * layout.dtype.itemsize
