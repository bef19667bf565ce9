"""Names of layers, runs and formats are shown as they are: no tag, no value of plotly's templates."""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from torch import nn

from mixlab import Recipe, StepRecord, track
from mixlab.emulation import cast_trace
from mixlab.figures import (
    batch_lines,
    cast_map,
    gradient_histogram,
    phase_bars,
    roofline,
    swallowed_bars,
    training_curves,
    underflow_map,
)
from mixlab.formats import FP16
from mixlab.matmul import Roof, RooflinePoint
from mixlab.memory import estimate

NAME = "<lambda> %{y} & <b>x"
RECORDS = [StepRecord(step, 1.0, 0.5, 2.0, False, False, 1.0, 0.1, {NAME: 0.5}) for step in range(3)]


def histogram():
    model = nn.Sequential(OrderedDict({NAME: nn.Linear(2, 2)}))
    with track(model) as probe:
        model(torch.ones(1, 2)).sum().backward()
    return gradient_histogram(next(stats for stats in probe if stats.layer == NAME), FP16, scale_exponent=0)


def casts():
    model = nn.Sequential(OrderedDict({NAME: nn.Linear(2, 2)}))
    return cast_map(cast_trace(model, torch.ones(1, 2), compute="fp16"), title="")


ONE = estimate("gpt2", "fp32", seq=64)
FIGURES = {
    "training": lambda: training_curves({NAME: RECORDS}),
    "underflow": lambda: underflow_map(RECORDS, title=""),
    "swallowed": lambda: swallowed_bars({NAME: {NAME: 0.5}}, title=""),
    "batches": lambda: batch_lines({NAME: ONE, "b": ONE}, batches=[1, 2]),
    "phases": lambda: phase_bars({NAME: ONE, "b": replace(ONE, recipe=Recipe())}),
    "histogram": histogram,
    "casts": casts,
    "roofline": lambda: roofline([Roof(NAME, NAME, 1e12, 1e12)], [RooflinePoint(NAME, NAME, 1.0)]),
}


@pytest.mark.parametrize("figure", FIGURES.values(), ids=FIGURES)
def test_a_name_is_neither_tag_nor_template(figure):
    text = figure().to_json()
    text = text.encode().decode("unicode_escape")
    assert "lambda" in text
    assert "<lambda" not in text
    assert "<b>x" not in text
    assert not re.search(r"lambda&gt; %\{", text)
