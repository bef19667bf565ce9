"""The histogram of gradients among a format's zones."""

from __future__ import annotations

import plotly.graph_objects as go
import pytest
import torch

from mixlab.figures import gradient_histogram
from mixlab.formats import FP16
from mixlab.probes import tensor_stats


def powers(*exponents: int) -> torch.Tensor:
    return torch.tensor([2.0**e for e in exponents])


@pytest.mark.parametrize("values", [[0.0, 0.0], [], [float("nan"), 0.0]])
def test_nothing_to_count_can_be_drawn(values: list[float]):
    stats = tensor_stats(torch.tensor(values), kind="weight_gradient")
    texts = [annotation.text for annotation in gradient_histogram(stats, FP16, 3).layout.annotations]
    assert "<b>normal</b><br>–" in texts


def test_the_figure_names_zones_borders_and_shares():
    figure = gradient_histogram(tensor_stats(powers(-30, -20, 0, 0)), FP16, 0)
    assert isinstance(figure, go.Figure)
    texts = [annotation.text for annotation in figure.layout.annotations]
    assert texts[:4] == [
        "<b>becomes zero</b><br>25.0 %",
        "<b>subnormal</b><br>25.0 %",
        "<b>normal</b><br>50.0 %",
        "<b>overflow</b><br>none",
    ]
    assert "<b>65504</b>" in texts


def test_the_figure_moves_its_bars_with_the_scale():
    stats = tensor_stats(powers(-30, -20))
    at = {k: list(gradient_histogram(stats, FP16, k).data[-1].x) for k in (0, 5)}
    assert at[5] == [x + 5 for x in at[0]]
