from __future__ import annotations

import pytest
import torch

from mixlab.figures import swallowed_bars, update_sizes
from mixlab.formats import BF16, FP16
from mixlab.probes import swallowed
from mixlab.reports.numbers import share_words


def test_sizes_are_relative_and_bands_reach_from_half_the_unit_roundoff_to_all_of_it():
    before = {"a": torch.full((3,), 2.0), "b": torch.full((1,), -1.0)}
    after = {"a": before["a"] + 2.0**-9, "b": before["b"] + 2.0**-4}
    figure = update_sizes(before, after, (BF16, FP16))
    bar = figure.data[0]
    assert sum(bar.y) == pytest.approx(1)
    assert max(bar.y) == pytest.approx(0.75)
    assert abs(bar.x[list(bar.y).index(max(bar.y))] + 10) <= 0.5
    assert [(band.x0, band.x1) for band in figure.layout.shapes] == [(-9, -8), (-12, -11)]
    assert [note.text for note in figure.layout.annotations] == ["bf16 loses 75.0 %", "fp16 loses none"]


def test_the_share_above_a_band_is_what_is_really_lost():
    """Left of the band all updates are lost, right of it none, and within it those that are below half of their gap."""
    generator = torch.Generator().manual_seed(0)
    weights = 1 + torch.rand(10_000, generator=generator)
    for factor, lost in ((0.49 * 2.0**-8, 1.0), (1.01 * 2.0**-8, 0.0), (0.75 * 2.0**-8, 1 / 3)):
        before, after = {"a": weights}, {"a": weights + factor * weights}
        share = swallowed(weights, after["a"] - weights, "bf16")
        assert share == pytest.approx(lost, abs=0.02)
        assert update_sizes(before, after, ("bf16",)).layout.annotations[0].text == f"bf16 loses {share_words(share)}"


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
