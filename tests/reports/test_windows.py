from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mixlab.loss_scaling import ScaleWindow
from mixlab.probes import TensorStats, tensor_stats, usable_window
from mixlab.reports import WindowsTable


def stats(layer: str, kind: str, *exponents: int) -> TensorStats:
    return replace(tensor_stats(torch.tensor([2.0**e for e in exponents])), layer=layer, kind=kind)


def test_each_layer_has_a_row_and_one_scale_must_serve_all():
    seen = [
        stats("first", "gradient", -30, -20),
        stats("first", "weight_gradient", -28, -10),
        stats("last", "gradient", -20, -15),
        stats("last", "activation", 3),
    ]
    table = WindowsTable(seen, "fp16")
    first, weights, last = (usable_window(one, "fp16") for one in seen[:3])
    assert table.rows == [("first", str(first), str(weights)), ("last", str(last), "-")]
    assert table.common == first & weights & last == ScaleWindow(6, 25)
    assert f"One scale for all: {table.common}." in repr(table)
    assert table._repr_html_().count("<tr>") == 3


def test_what_has_no_scale_is_left_out_and_said():
    table = WindowsTable([stats("a", "gradient", -20), stats("b", "gradient", -40, 20)], "fp16")
    assert "1 of 2 tensors have no usable scale and are left out" in repr(table)
    assert table.common == usable_window(stats("a", "gradient", -20), "fp16")
    with pytest.raises(ValueError, match="none of 1 gradients has a scale that fp16 can hold"):
        WindowsTable([stats("b", "gradient", -40, 20)], "fp16")
    with pytest.raises(ValueError, match="none of 0 gradients"):
        WindowsTable([], "fp16")
