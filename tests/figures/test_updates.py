from __future__ import annotations

import pytest
import torch

from mixlab.figures import swallowed_bars, update_sizes
from mixlab.formats import BF16, FP16


def test_sizes_are_relative_and_lines_stand_at_the_unit_roundoff():
    before = {"a": torch.full((3,), 2.0), "b": torch.full((1,), -1.0)}
    after = {"a": before["a"] + 2.0**-9, "b": before["b"] + 2.0**-4}
    figure = update_sizes(before, after, (BF16, FP16))
    bar = figure.data[0]
    assert sum(bar.y) == pytest.approx(1)
    assert max(bar.y) == pytest.approx(0.75)
    assert abs(bar.x[list(bar.y).index(max(bar.y))] + 10) <= 0.5
    assert [line.x0 for line in figure.layout.shapes] == [-8, -11]
    assert [note.text for note in figure.layout.annotations] == ["bf16: 75% to the left", "fp16: 0% to the left"]


def test_a_step_without_updates_is_no_figure():
    weights = {"a": torch.ones(3)}
    with pytest.raises(ValueError, match="no weight was updated"):
        update_sizes(weights, weights, (BF16,))


def test_bars_by_layer():
    figure = swallowed_bars({"bf16": {"a": 0.5, "b": 1.0}, "fp16": {"a": 0.25, "b": 0.0}}, title="Lost")
    assert [(bar.name, list(bar.x), list(bar.y)) for bar in figure.data] == [
        ("bf16", [0.5, 1.0], ["a", "b"]),
        ("fp16", [0.25, 0.0], ["a", "b"]),
    ]
    with pytest.raises(ValueError, match="nothing to draw"):
        swallowed_bars({}, title="Lost")
