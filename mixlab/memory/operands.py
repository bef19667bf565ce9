"""Operands that the kernels of an op refuse on every device, and its fake takes.

Without these checks a step that no device takes, such as a product of float32 and bfloat16, would have a trace.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_aten = torch.ops.aten
_Check = Callable[[tuple[Tensor, ...]], str]


def require_operands(op: Any, args: tuple[Any, ...]) -> None:
    """Raises RuntimeError, as kernels do, if an op's kernels do not take operands of these dtypes.

    Args:
        op: An overload of aten.
        args: Its positional arguments.
    """
    row = _ROWS.get(op)
    if row is None:
        return
    places, check = row
    operands = tuple(args[place] for place in places if place < len(args) and isinstance(args[place], Tensor))
    if operands and (must := check(operands)):
        came = ", ".join(str(operand.dtype) for operand in operands)
        raise RuntimeError(f"{op.name().removeprefix('aten::')} takes {must}, got {came}")


def require_value(op: Any, args: tuple[Any, ...], result: Any) -> None:
    """Raises RuntimeError, as kernels do, if a tensor was to be filled with a number beyond its dtype's largest.

    Args:
        op: An overload of aten.
        args: Its positional arguments.
        result: Its result.
    """
    place = _FILLED.get(op)
    if place is None or place >= len(args) or not result.is_floating_point():
        return
    value, largest = args[place], torch.finfo(result.dtype).max
    if isinstance(value, int | float) and largest < abs(value) < math.inf:
        name = op.name().removeprefix("aten::")
        raise RuntimeError(
            f"{name} takes a value from {-largest:g} to {largest:g} for {result.dtype}, or inf, got {value!r}; "
            "torch.finfo(tensor.dtype).min fits every dtype"
        )


def _alike(operands: tuple[Tensor, ...]) -> str:
    return "" if len({operand.dtype for operand in operands}) == 1 else "operands of one dtype"


def _of_norm(operands: tuple[Tensor, ...]) -> str:
    """Parameters and statistics of a norm have its input's dtype, or are float32 beside an input in 16 bits."""
    given, *others = operands
    if all(other.dtype in (given.dtype, torch.float32) for other in others):
        return _floating(operands)
    return "parameters and statistics of the input's dtype, or in float32"


def _floating(operands: tuple[Tensor, ...]) -> str:
    plain = all(operand.is_floating_point() or operand.is_complex() for operand in operands)
    return "" if plain else "floating numbers"


def _not_short(operands: tuple[Tensor, ...]) -> str:
    short = any(operand.is_floating_point() and operand.dtype.itemsize < 4 for operand in operands)
    return "numbers of 32 or 64 bits" if short else ""


def _classes(operands: tuple[Tensor, ...]) -> str:
    (targets,) = operands
    return "" if targets.dtype in (torch.int64, torch.uint8) else "targets in int64 or uint8"


def _places(operands: tuple[Tensor, ...]) -> str:
    (index,) = operands
    return "" if index.dtype in (torch.int64, torch.int32) else "an index in int64 or int32"


def _named(names: str) -> list[Any]:
    """Returns those of these overloads, "op.overload", that this version of torch has."""
    pairs = (name.split(".") for name in names.split())
    return [getattr(getattr(_aten, op), overload) for op, overload in pairs if hasattr(_aten, op)]


def _rows(places: tuple[int, ...], check: _Check, names: str) -> dict[Any, tuple[tuple[int, ...], _Check]]:
    """Returns the same row for each of these overloads."""
    return dict.fromkeys(_named(names), (places, check))


_FILLED: dict[Any, int] = {
    **dict.fromkeys(_named("fill.Scalar fill_.Scalar full.default full_like.default"), 1),
    **dict.fromkeys(_named("masked_fill.Scalar masked_fill_.Scalar new_full.default constant_pad_nd.default"), 2),
    **dict.fromkeys(_named("index_fill.int_Scalar index_fill_.int_Scalar"), 3),
}
"""The place of the number that each op fills a tensor with."""

_ROWS: dict[Any, tuple[tuple[int, ...], _Check]] = {
    **_rows((0, 1), _alike, "mm.default bmm.default mv.default dot.default binary_cross_entropy.default"),
    **_rows((0, 1), _alike, "grid_sampler_2d.default grid_sampler_3d.default _cdist_forward.default"),
    **_rows((0, 1, 2), _alike, "addmm.default addmv.default baddbmm.default"),
    **_rows((0, 3), _alike, "index_add.default index_add_.default index_copy.default index_copy_.default"),
    **_rows((0, 2), _alike, "index_put.default index_put_.default"),
    **_rows((0, 1, 2), _of_norm, "native_layer_norm.default"),
    **_rows((0, 1, 2), _of_norm, "native_group_norm.default"),
    **_rows((0, 1, 2, 3, 4), _of_norm, "native_batch_norm.default"),
    **_rows((0,), _floating, "_softmax.default _log_softmax.default gelu.default silu.default hardswish.default"),
    **_rows((0,), _floating, "mish.default glu.default lerp.Scalar lerp.Tensor upsample_bilinear2d.vec var.correction"),
    **_rows((0,), _not_short, "linalg_cholesky_ex.default linalg_qr.default _linalg_svd.default"),
    **_rows((1,), _classes, "nll_loss_forward.default nll_loss2d_forward.default"),
    **_rows((1,), _classes, "multi_margin_loss.default multilabel_margin_loss_forward.default"),
    **_rows((2,), _places, "index_select.default"),
}
"""The places of operands, and what they must be."""
