"""Attention as on CUDA: which kernel runs, and the tensors that it keeps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_SIXTEEN_BIT = (torch.float16, torch.bfloat16)
_WIDEST_HEAD = 256  # FlashAttention's limit (Dao, FlashAttention-2, 2024)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Replaces `F.scaled_dot_product_attention` by the kernel that CUDA takes.

    FlashAttention takes 16-bit heads of one size without a mask, also if several heads of queries share one of keys and
    values. The memory-efficient kernel takes all else, if each head has keys and values of its own. The rest is made
    of ordinary ops that keep all scores (PyTorch, aten/src/ATen/native/transformers/cuda/sdp_utils.cpp). A mask of
    truths becomes one of numbers first, whose kernel keeps it (transformers/attention.cpp).
    """
    if attn_mask is not None and attn_mask.dtype is torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype)
    operands = (query, key, value)
    sizes = {operand.shape[-1] for operand in operands}
    flash = attn_mask is None and query.dtype in _SIXTEEN_BIT and len(sizes) == 1 and max(sizes) <= _WIDEST_HEAD
    fused = query.dim() == 4 and query.dtype in (torch.float32, *_SIXTEEN_BIT)
    if fused and (flash or query.shape[1] == key.shape[1]):
        return _FusedAttention.apply(*operands, attn_mask, flash)  # type: ignore[no-any-return, no-untyped-call]
    q, k, v = (x.float() if dropout_p and x.dtype in _SIXTEEN_BIT else x for x in operands)
    result, weights = torch._scaled_dot_product_attention_math(
        q, k, v, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa
    )
    if not dropout_p:
        return result
    del result
    dropped = torch.native_dropout(weights, dropout_p, True)[0]  # whose mask has a byte each
    times = query.shape[1] // key.shape[1] if enable_gqa else 1
    return (dropped @ v.repeat_interleave(times, 1)).to(query.dtype)


class _FusedAttention(torch.autograd.Function):
    """Keeps queries, keys, values, the mask, the result, and the log-sum-exp of each row.

    FlashAttention's backward sums the queries' gradient in float32. The memory-efficient kernel rounds the number of
    rows up to a multiple of 32.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, flash: bool) -> Tensor:
        batch, heads, length, _ = q.shape
        result = torch.empty(batch, length, heads, v.shape[-1], dtype=q.dtype, device=q.device).transpose(1, 2)
        sums = torch.empty(batch, heads, length if flash else _rounded(length, 32), device=q.device)
        ctx.save_for_backward(q, k, v, mask, result, sums)
        ctx.flash = flash
        return result

    @staticmethod
    def backward(ctx: Any, _gradient: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # all are held until the gradients are made, as by the kernels
        q, k, v, mask = saved[:4]
        batch, heads, length, width = q.shape
        length, width = _rounded(length, 128), _rounded(width, 32 if width <= 128 else 64)
        gradients = [torch.empty_like(t) for t in (q, k, v)]
        scratch = [torch.empty(batch, heads, length, device=q.device)]
        if ctx.flash:
            scratch.append(torch.empty(batch, length, heads, width, device=q.device))
            if k.shape[1] != heads:  # gradients of all heads, before their sum over groups
                scratch += [torch.empty(batch, heads, *t.shape[2:], dtype=t.dtype, device=t.device) for t in (k, v)]
        mask_gradient = torch.empty_like(mask) if mask is not None and mask.requires_grad else None
        return (*gradients, mask_gradient, None)


def _rounded(number: int, to: int) -> int:
    return -(-number // to) * to
