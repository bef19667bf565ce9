"""Custom ops with bodies in Python: traces see what these allocate; as on a CPU against real steps, to the byte."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixlab.memory import trace
from tests.memory.test_trace_exact import EXACT, RECIPES, differences, little_to_collect, mean_square

__all__ = ["little_to_collect"]

BATCH = torch.zeros(40, 8), torch.zeros(1)


@torch.library.custom_op("mixlab_tests::by_a_wide_way", mutates_args=())
def by_a_wide_way(x: Tensor) -> Tensor:
    wide = torch.cat([x, x, x], 1).sin()
    return wide[:, : x.shape[1]].clone()


@torch.library.custom_op("mixlab_tests::outside_torch", mutates_args=())
def outside_torch(x: Tensor) -> Tensor:
    result = torch.empty_like(x)
    ctypes.memmove(result.data_ptr(), x.data_ptr(), x.numel() * x.itemsize)
    return result


@torch.library.custom_op("mixlab_tests::of_values", mutates_args=())
def of_values(x: Tensor) -> Tensor:
    return x * 2 if float(x.sum()) > 0 else x + 1


for op in (by_a_wide_way, outside_torch, of_values):
    op.register_fake(torch.empty_like)
    op.register_autograd(lambda _context, gradient: gradient * 1)


class Op(nn.Module):
    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.call = nn.Linear(8, 5), call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.layer(x))


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_a_body_allocates_is_traced(recipe):
    assert differences(lambda: Op(by_a_wide_way), BATCH, recipe, mean_square) == EXACT
    found = trace(Op(by_a_wide_way), BATCH, recipe, loss=mean_square, as_on="cuda")
    assert any("cat" in allocation.op for allocation in found.allocations)


@pytest.mark.parametrize("op", [outside_torch, of_values])
def test_of_other_bodies_the_results_count(op):
    """Code outside torch finds no memory behind fake tensors: it is refused their addresses, and never reads there."""
    found = trace(Op(op), BATCH, loss=mean_square, optimizer="sgd", as_on="cpu")
    plain = trace(Op(torch.clone), BATCH, loss=mean_square, optimizer="sgd", as_on="cpu")
    assert found.after == plain.after


class Head(nn.Module):
    """Cross-entropy of a linear layer, in chunks of rows."""

    def __init__(self, bias: bool, **options: Any) -> None:
        super().__init__()
        self.before, self.head, self.bias, self.options = nn.Linear(8, 16), nn.Linear(16, 70), bias, options

    def forward(self, x: Tensor) -> Tensor:
        targets = torch.zeros(len(x), dtype=torch.long)
        bias = self.head.bias if self.bias else None
        losses = F.linear_cross_entropy(self.before(x), self.head.weight, targets, linear_bias=bias, **self.options)
        return losses.mean()


@pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="torch has it from 2.13 on")
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(("bias", "rows", "reduction"), [(False, 4, "mean"), (True, 16, "sum"), (True, 16, "none")])
def test_cross_entropy_in_chunks(bias, rows, reduction, recipe):
    options = nn.LinearCrossEntropyOptions(batch_chunk_size=rows, chunking_method=None)
    make = partial(Head, bias, options=options, reduction=reduction)
    assert differences(make, BATCH, recipe, lambda loss, _target: loss) == EXACT
