"""Memory layout: flat views of tensors in any order of dimensions."""

from __future__ import annotations

import torch
from torch import Tensor


def is_dense(tensor: Tensor) -> bool:
    """Returns whether the elements fill their memory without gaps, in any order of dimensions."""
    return tensor.is_contiguous() or bool(torch.ops.aten.is_non_overlapping_and_dense(tensor))


def flat(tensor: Tensor) -> Tensor:
    """Returns a flat view of a dense tensor, in the order of its memory."""
    return tensor.view(-1) if tensor.is_contiguous() else tensor.as_strided((tensor.numel(),), (1,))


def unflat(elements: Tensor, like: Tensor) -> Tensor:
    """Returns a view of flat elements in the shape and strides of the dense tensor `like`."""
    return elements.view(like.shape) if like.is_contiguous() else elements.as_strided(like.shape, like.stride())


def laid_out_as(like: Tensor, tensor: Tensor) -> Tensor:
    """Returns `tensor`, or a copy of it, in the memory layout of the dense tensor `like`."""
    if tensor.stride() == like.stride():
        return tensor
    return torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)


def inner_tensors(tensor: Tensor) -> list[tuple[str, Tensor]]:
    """Returns the named tensors inside a subclass such as torchao's; a plain tensor alone, under the name ""."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return [("", tensor)]
    names, _ = tensor.__tensor_flatten__()
    return [(name, getattr(tensor, name)) for name in names]
