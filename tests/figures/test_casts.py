from __future__ import annotations

import pytest
import torch
from torch import nn

from mixlab.emulation import CastTrace, cast_trace
from mixlab.figures import cast_map


def test_cells_name_the_formats_and_rows_the_rules():
    figure = cast_map(cast_trace(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Softmax(-1)), torch.ones(2, 4)))
    heat = figure.data[0]
    assert list(heat.y) == ["1. 0 linear", "2. 1 relu", "3. 2 softmax"]
    assert [list(row) for row in heat.text] == [
        ["fp32", "fp16", "fp16"],
        ["fp16", "fp16", "fp16"],
        ["fp16", "fp32", "fp32"],
    ]
    assert [list(row) for row in heat.z] == [[1, 0, 0], [0, 0, 0], [0, 1, 1]]
    whys = [annotation.text for annotation in figure.layout.annotations]
    assert whys == ["fp16 by list", "follows its inputs", "fp32 by list"]


def test_a_long_trace_says_what_is_left_out():
    trace = cast_trace(nn.Sequential(*[nn.Linear(4, 4) for _ in range(9)]), torch.ones(2, 4))
    figure = cast_map(trace, title="Nine layers", most=5)
    assert len(figure.data[0].y) == 5
    assert figure.layout.title.text == "Nine layers<br><sub>the first 5 of 9 ops</sub>"


def test_an_empty_trace_is_no_figure():
    with pytest.raises(ValueError, match="the trace is empty"):
        cast_map(CastTrace((), ()))
