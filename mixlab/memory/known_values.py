"""Values of integers and booleans that do not depend on weights: ids, masks, positions, and what follows from them.

Fake tensors have no values, but models read some: whether a mask masks anything, which positions are no padding. Such
values follow from the batch, from buffers and from constants. They are computed beside the fakes, with small tensors
that the traced memory does not include. What depends on a weight, or is large, is not known; of floating tensors only
the batch and constants are, and what is made of them.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from mixlab.emulation.kernels import tensors_in

LARGEST = 2**20  # elements of a tensor whose values are computed

_aten = torch.ops.aten
_ATTRIBUTE = "_mixlab_known"
_MASKED_SELECT = _aten.masked_select.default
_INDEXING = (_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default)
_READS = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
_WITHOUT_VALUES = ("empty", "new_empty", "resize")  # how the names of ops begin whose results hold nothing yet
_OF_A_SHAPE = ("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full")


class _Known:
    """What a fake tensor holds, and whether it still does: `holds` is shared by all views of a storage."""

    def __init__(self, value: Tensor, holds: list[bool]) -> None:
        self.value, self.holds = value, holds


def value_of(tensor: Tensor) -> Tensor | None:
    """Returns what a tensor holds, None if that is not known.

    Args:
        tensor: A tensor, fake or real.
    """
    if not isinstance(tensor, FakeTensor):
        return None if tensor.device.type == "meta" else tensor
    known = vars(tensor).get(_ATTRIBUTE)
    if known is None:
        return tensor.constant
    return known.value if known.holds[0] else None


def give_value(fake: Tensor, source: Tensor) -> None:
    """Makes the values of a real tensor known of its fake, unless they are many.

    Args:
        fake: A fake tensor.
        source: A tensor of the same shape, which is only read; one that is fake, sparse or on "meta" gives nothing.
    """
    is_real = not isinstance(source, FakeTensor) and source.device.type != "meta" and source.layout is torch.strided
    if is_real and source.numel() <= LARGEST:
        with torch._C._DisableTorchDispatch(), torch.no_grad():
            value = torch.empty_strided(fake.shape, fake.stride(), dtype=fake.dtype, device="cpu").copy_(source)
        setattr(fake, _ATTRIBUTE, _Known(value, [True]))


def follow(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """Computes what an op's result holds, or what it writes, if that is known of its tensors.

    Args:
        op: An overload of aten, which has run on fake tensors.
        args: Its positional arguments.
        kwargs: Its other arguments.
        result: Its result.
    """
    if op._schema.is_mutable:
        _follow_write(op, args, kwargs)
        return
    results = result if isinstance(result, list | tuple) else (result,)
    first = vars(args[0]).get(_ATTRIBUTE) if args and isinstance(args[0], FakeTensor) else None
    of_known = first is not None and first.holds[0]
    if not (of_known or _is_constant(op)) and not any(_is_whole(one) for one in results):
        return
    small = all(one.numel() <= LARGEST for one in results if isinstance(one, Tensor))
    values = _computed(op, args, kwargs) if small else None
    values = values if isinstance(values, list | tuple) else (values,) * len(results)
    for one, value in zip(results, values, strict=False):
        holds = first.holds if first is not None and _storage(one) == _storage(args[0]) else None
        if isinstance(one, FakeTensor) and isinstance(value, Tensor) and _alike(one, value):
            setattr(one, _ATTRIBUTE, _Known(value, holds or [True]))
        elif holds:
            holds[0] = False  # what is written through this view would not be seen


def read(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any] | None:
    """Returns (the result,) of an op that reads values, or whose shape depends on some; None if they are not known.

    Call it under a `FakeTensorMode` that sees ops.

    Args:
        op: An overload of aten.
        args: Its positional arguments.
        kwargs: Its other arguments.
    """
    if not _reads(op):
        return None
    if op is _MASKED_SELECT:
        return _selected(*args)
    value = _computed(op, args, kwargs)
    if value is None:
        return None
    if isinstance(value, list | tuple):
        return (type(value)(_fake(one) for one in value),)
    return (_fake(value) if isinstance(value, Tensor) else value,)


def with_places(op: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns an op's arguments, with the places that a mask selects instead of a known mask that indexes a tensor.

    Call it under a `FakeTensorMode` that sees ops.

    Args:
        op: An overload of aten.
        args: Its positional arguments.
    """
    if op not in _INDEXING:
        return args
    indices: list[Any] = []
    for index in args[1]:
        is_mask = isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)
        mask = value_of(index) if is_mask else None
        if mask is None:
            indices.append(index)
        else:
            with torch._C._DisableTorchDispatch():
                places = mask.nonzero().t().contiguous().unbind(0)
            indices += [_fake(one) for one in places]
    return (args[0], indices, *args[2:])


def _selected(tensor: Tensor, mask: Tensor) -> tuple[Any] | None:
    known = value_of(mask)
    if known is None:
        return None
    with torch._C._DisableTorchDispatch():
        count = int(known.expand(torch.broadcast_shapes(tensor.shape, mask.shape)).sum())  # type: ignore[no-untyped-call]
    return (tensor.new_empty(count),)


def _follow_write(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Writes into known values what the op writes, or forgets them."""
    arguments = op._schema.arguments
    written = [value for value, argument in zip(args, arguments, strict=False) if _is_written(argument)]
    written += [kwargs[one.name] for one in arguments if one.name in kwargs and _is_written(one)]
    known = [vars(one).get(_ATTRIBUTE) for one in tensors_in(written) if isinstance(one, FakeTensor)]
    if any(known) and _computed(op, args, kwargs) is None:
        for one in known:
            if one is not None:
                one.holds[0] = False


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


class _UnknownError(Exception):
    """The values of an argument are not known."""


def _computed(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Returns an op's result on the values of its tensors; None if some are not known, or it fails on them."""
    if not _has_values(op):
        return None
    with torch._C._DisableTorchDispatch(), torch.no_grad():
        try:
            if _takes_a_shape(op):
                args = (torch.empty((), dtype=args[0].dtype).expand(args[0].shape), *args[1:])
            return op(*_values(args), **_values(kwargs))
        except (_UnknownError, RuntimeError, IndexError, ValueError):
            return None


def _values(value: Any) -> Any:
    if isinstance(value, Tensor):
        known = value_of(value)
        if known is None:
            raise _UnknownError
        return known
    if isinstance(value, list | tuple):
        return type(value)(_values(one) for one in value)
    return {name: _values(one) for name, one in value.items()} if isinstance(value, dict) else value


def _fake(value: Tensor) -> Tensor:
    """Returns a fake tensor with the layout, storage and values of a real one."""
    elements = value.untyped_storage().nbytes() // value.dtype.itemsize
    fake = torch.empty(elements, dtype=value.dtype).as_strided(value.shape, value.stride(), value.storage_offset())
    setattr(fake, _ATTRIBUTE, _Known(value, [True]))
    return fake


@cache
def _reads(op: Any) -> bool:
    return op._schema.name.startswith("aten::") and any(tag in op.tags for tag in _READS)


@cache
def _has_values(op: Any) -> bool:
    """Whether an op's result holds values, the same in every run."""
    room, _, name = op._schema.name.partition("::")
    drawn = torch.Tag.nondeterministic_seeded in op.tags
    return room == "aten" and not drawn and not name.startswith(_WITHOUT_VALUES)


@cache
def _is_constant(op: Any) -> bool:
    """Whether an op takes no tensor."""
    return not any("Tensor" in str(argument.type) for argument in op._schema.arguments)


@cache
def _takes_a_shape(op: Any) -> bool:
    return op._schema.name.removeprefix("aten::") in _OF_A_SHAPE


def _is_whole(tensor: Any) -> bool:
    """Whether a tensor holds integers or booleans."""
    return isinstance(tensor, FakeTensor) and not tensor.dtype.is_floating_point and not tensor.dtype.is_complex


def _alike(fake: Tensor, value: Tensor) -> bool:
    layout = (value.shape, value.stride(), value.dtype, value.device.type)
    return layout == (fake.shape, fake.stride(), fake.dtype, "cpu")


def _storage(tensor: Any) -> int:
    return tensor.untyped_storage()._cdata if isinstance(tensor, Tensor) else 0
