from __future__ import annotations

import pytest
import torch
from torch import nn

from mixlab.emulation import CastTrace, cast_trace
from mixlab.reports import CastTable


def test_ops_that_do_the_same_share_a_row():
    model = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 3), nn.Softmax(-1))
    trace = cast_trace(model, torch.ones(2, 4))
    table = CastTable(trace)
    assert [(row[0], row[1], row[-1]) for row in table.rows] == [
        ("linear", "fp16", "2"),
        ("gelu", "fp16", "1"),
        ("softmax", "fp32", "1"),
    ]
    assert sum(int(row[-1]) for row in table.rows) == len(trace)
    assert repr(table).endswith(
        f"4 weights are cast, each once in a forward pass; the copies take {trace.cache_bytes:,} bytes until backward "
        "has used them."
    )


def test_nothing_traced_is_no_table():
    with pytest.raises(ValueError, match="the trace is empty"):
        CastTable(CastTrace((), ()))
