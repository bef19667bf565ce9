"""A step that no device takes has no trace: dtypes that kernels refuse and fake ops do not check."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixlab.memory import TraceError, trace


def wide(*shape: int) -> Tensor:
    return torch.ones(shape)


def narrow(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.bfloat16)


def whole(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.long)


def short(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.int32)


class Added(nn.Module):
    """A weight, to whose sum the sum of a function's result is added."""

    def __init__(self, function: Callable[[], Any]) -> None:
        super().__init__()
        self.weight, self.function = nn.Parameter(torch.ones(3)), function

    def forward(self, x: Tensor) -> Tensor:
        result = self.function()
        return (x * self.weight).sum() + (result[0] if isinstance(result, tuple) else result).float().sum()


def first(output: Any, _batch: Any) -> Any:
    return output


ONE_DTYPE, STATISTICS, FLOATING = "takes operands of one dtype", "takes parameters and statistics", "floating numbers"
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "linear": (lambda: F.linear(whole(2, 3), wide(4, 3), wide(4)), ONE_DTYPE),
    "linear without bias": (lambda: F.linear(narrow(2, 3), wide(4, 3)), ONE_DTYPE),
    "linear's bias": (lambda: F.linear(narrow(2, 3), narrow(4, 3), wide(4)), ONE_DTYPE),
    "linear in three dimensions": (lambda: F.linear(narrow(2, 5, 3), wide(4, 3), wide(4)), ONE_DTYPE),
    "einsum": (lambda: torch.einsum("bij,bjk->bik", wide(2, 2, 3), narrow(2, 3, 2)), "same dtype|one dtype"),
    "matrix and vector": (lambda: wide(2, 3) @ narrow(3), ONE_DTYPE),
    "float64": (lambda: wide(2, 3) @ wide(3, 2).double(), ONE_DTYPE),
    "layer norm": (lambda: F.layer_norm(wide(2, 4), (4,), narrow(4), narrow(4)), STATISTICS),
    "group norm": (lambda: F.group_norm(wide(2, 4, 3), 2, narrow(4), narrow(4)), STATISTICS),
    "batch norm": (lambda: F.batch_norm(wide(2, 4), wide(4), wide(4), narrow(4), narrow(4), True), STATISTICS),
    "classes": (lambda: F.cross_entropy(wide(2, 4), short(2)), "takes targets in int64 or uint8"),
    "classes of pixels": (lambda: F.cross_entropy(wide(2, 4, 3, 3), short(2, 3, 3)), "takes targets in int64 or uint8"),
    "margins": (lambda: F.multi_margin_loss(wide(2, 4), short(2)), "takes targets in int64 or uint8"),
    "binary cross-entropy": (lambda: F.binary_cross_entropy(wide(2), whole(2)), ONE_DTYPE),
    "softmax": (lambda: F.softmax(whole(2, 3), -1), FLOATING),
    "activation": (lambda: F.silu(whole(2)), FLOATING),
    "values put": (lambda: wide(3).index_put((whole(1),), narrow(1)), ONE_DTYPE),
    "rows added": (lambda: wide(3, 2).index_add(0, whole(1), narrow(1, 2)), ONE_DTYPE),
    "index": (lambda: wide(3).index_select(0, wide(1)), "takes an index in int64 or int32"),
    "Cholesky": (lambda: torch.linalg.cholesky(torch.eye(3, dtype=torch.bfloat16)), "takes numbers of 32 or 64 bits"),
    "numbers beyond fp16": (
        lambda: wide(3).half().masked_fill(wide(3) > 0, -1e9),
        "takes a value from -65504 to 65504",
    ),
    "numbers beyond bf16": (lambda: narrow(3).fill_(torch.finfo(torch.float32).min), "takes a value from -3.38953e"),
    "a full tensor": (lambda: torch.full((3,), 1e5, dtype=torch.float16), "takes a value from -65504"),
    "padding": (lambda: F.pad(wide(3).half(), (1, 1), value=1e5), "takes a value from -65504"),
    "cell of a GRU": (lambda: torch.gru_cell(narrow(2, 3), wide(2, 4), wide(12, 3), wide(12, 4)), ONE_DTYPE),
}
TAKEN: dict[str, Callable[[], Any]] = {
    "linear": lambda: F.linear(narrow(2, 3), narrow(4, 3), narrow(4)),
    "whole numbers": lambda: whole(2, 3) @ whole(3, 2),
    "layer norm": lambda: F.layer_norm(narrow(2, 4), (4,), wide(4), wide(4)),
    "batch norm": lambda: F.batch_norm(narrow(2, 4), wide(4), wide(4), wide(4), wide(4), True),
    "group norm": lambda: F.group_norm(narrow(2, 4, 3), 2, wide(4), wide(4)),
    "classes": lambda: F.cross_entropy(narrow(2, 4), whole(2)),
    "probabilities": lambda: F.cross_entropy(wide(2, 4), narrow(2, 4)),
    "infinity": lambda: wide(3).half().masked_fill(wide(3) > 2, float("-inf")),
    "the smallest of fp16": lambda: wide(3).half().masked_fill(wide(3) > 2, torch.finfo(torch.float16).min),
    "sums beyond fp16": lambda: wide(3).half() + 1e9,
    "index": lambda: wide(3).index_select(0, short(1)),
    "softmax": lambda: F.softmax(whole(2, 3), -1, dtype=torch.float32),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_every_kernel_refuses_has_no_trace(name: str):
    function, words = REFUSED[name]
    with pytest.raises((RuntimeError, IndexError)):
        function()
    with pytest.raises(TraceError, match=words):
        trace(Added(function), wide(3), loss=first)


@pytest.mark.parametrize("name", TAKEN)
def test_what_kernels_take_has_one(name: str):
    assert TAKEN[name]() is not None
    assert trace(Added(TAKEN[name]), wide(3), loss=first).peak_bytes > 0


def test_a_model_that_no_16_bit_recipe_fits_is_told():
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x + torch.ones(4))  # float32, whatever the recipe's weights

    batch = torch.ones(2, 4), torch.zeros(2, dtype=torch.long)
    assert trace(Mixed(), batch, "amp-bf16").peak_bytes > 0
    with pytest.raises(
        TraceError, match=r"addmm\.default of linear .* got torch.bfloat16, torch.float32, torch.bfloat"
    ):
        trace(Mixed(), batch, "bf16")
