"""The chart's words against tensors whose answer is known by hand, and against really rounding them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from mixlab.formats import BF16, E4M3FN, E5M2, FORMATS, FP16, FP32, Format, round_to
from mixlab.probes import Histogram, TensorStats, tensor_stats
from mixlab.reports import status_line
from mixlab.reports.gradients import border_labels, details, drawing
from mixlab.reports.zones import zone_borders

ALL_FORMATS = pytest.mark.parametrize(
    "fmt", [fmt for fmt in FORMATS.values() if fmt.signed and fmt.bits <= 32], ids=str
)


def powers(*exponents: int) -> torch.Tensor:
    return torch.tensor([2.0**e for e in exponents])


def sampled(drawn: torch.Tensor, *, numel: int, amax: float) -> TensorStats:
    """Returns the statistics of a tensor of which `drawn` is the sample, whichever elements chance would have taken."""
    stats = tensor_stats(drawn)
    histogram = Histogram.of_samples([drawn], [numel])[0]
    return replace(stats, numel=numel, amax=amax, histogram=histogram)


@ALL_FORMATS
def test_borders_are_where_rounding_changes(fmt: Format):
    limits = zone_borders(fmt)
    just_above = np.nextafter(2.0**limits.zero, 1)
    at_borders = torch.tensor([2.0**limits.zero, just_above, 2.0**limits.subnormal], dtype=torch.float64)
    rounded = round_to(at_borders, fmt, overflow="saturate").tolist()
    assert rounded == [0, fmt.smallest_subnormal, fmt.smallest_normal]
    assert 2.0**limits.overflow == pytest.approx(fmt.max)


def test_borders_are_named_as_people_know_them():
    assert border_labels(FP16) == ("2⁻²⁵", "2⁻¹⁴", "65504")
    assert border_labels(E4M3FN)[2] == "448"
    assert border_labels(BF16)[2] == "3.4×10³⁸"


def test_the_sentence():
    x = torch.cat([powers(-30), powers(-20).repeat(2), torch.ones(7)])
    assert status_line(tensor_stats(x), FP16, 0) == (
        "At scale 2⁰, 10.0 % of the non-zero gradients become zero in fp16, 20.0 % are subnormal, none overflow; "
        "usable window 2⁶ to 2¹⁵."
    )


@pytest.mark.parametrize("scale_exponent", [-24, -3, 0, 10, 20, 40])
@pytest.mark.parametrize("fmt", [FP16, BF16, E5M2, E4M3FN, FP32], ids=str)
def test_the_sentence_says_what_rounding_does(fmt: Format, scale_exponent: int):
    x = torch.randn(2000, generator=torch.Generator().manual_seed(0)).double().exp().pow(8).float()
    scaled = x.double() * 2.0**scale_exponent
    rounded = round_to(scaled, fmt, overflow="nan")
    zero, large = (rounded == 0).double().mean().item(), rounded.isnan().double().mean().item()
    subnormal = ((scaled < fmt.smallest_normal) & (rounded != 0)).double().mean().item()
    line = status_line(tensor_stats(x), fmt, scale_exponent)
    assert f", {words(zero)} of the non-zero gradients become zero in {fmt}, " in line
    assert f", {words(subnormal)} are subnormal, " in line
    assert f", {words(large)} overflow; " in line


def words(fraction: float) -> str:
    if fraction in (0, 1):
        return "all" if fraction else "none"
    return f"{100 * fraction:.{2 if fraction < 1e-3 or fraction > 0.999 else 1}f} %"


def test_what_happened_is_never_rounded_to_nothing_nor_to_all():
    rare = torch.cat([powers(-30), torch.ones(20_000)])
    line = status_line(tensor_stats(rare), FP16, 0)
    assert "less than 0.01 % of the non-zero gradients become zero" in line
    assert drawing(tensor_stats(rare), FP16, [0])["zoneShares"][0][2] == "more than 99.99 %"


def test_a_sample_cannot_hide_that_something_overflows():
    stats = sampled(torch.full((64,), 1e-3), numel=100_000, amax=1.0)
    assert "none overflow; " in status_line(stats, FP16, 15)
    assert "at least one overflows; " in status_line(stats, FP16, 16)
    assert drawing(stats, FP16, [16])["zoneShares"][0][3] == "at least one"


def test_the_topmost_bin_cannot_hide_it_either():
    assert "none overflow" in status_line(tensor_stats(torch.tensor([65519.0])), FP16, 0)
    assert "at least one overflows" in status_line(tensor_stats(torch.tensor([65520.0])), FP16, 0)


def test_a_sample_carries_its_error():
    drawn = torch.cat([powers(-30).repeat(500), torch.ones(500)])
    line = status_line(sampled(drawn, numel=100_000, amax=1.0), FP16, 0)
    assert " 50.0 % ± 1.6 % of the non-zero gradients become zero" in line
    assert line.endswith(" Read from a sample of 1,000 of 100,000 values.")


def test_no_window_is_said():
    assert "; no usable window." in status_line(tensor_stats(powers(-60, 0)), FP16, 0)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            [0.0, 0.0],
            "there are no non-zero finite weight gradients to count; of 2 values 2 are zero, 0 inf and 0 NaN.",
        ),
        ([], "there are no non-zero finite weight gradients to count; of 0 values 0 are zero, 0 inf and 0 NaN."),
        ([float("nan"), 0.0], "of 2 values 1 are zero, 0 inf and 1 NaN."),
    ],
)
def test_nothing_to_count_is_said(values: list[float], says: str):
    stats = tensor_stats(torch.tensor(values), kind="weight_gradient")
    assert status_line(stats, FP16, 3).startswith("At scale 2³: there are no")
    assert status_line(stats, FP16, 3).endswith(says)
    json.dumps(drawing(stats, FP16, [3]))


def test_a_sample_without_a_value_is_said():
    stats = sampled(torch.zeros(4), numel=10_000, amax=1.0)
    assert "none of the 4 sampled gradients is non-zero and finite, though there are some" in status_line(
        stats, FP16, 0
    )


def test_inf_and_nan_are_mentioned():
    line = status_line(tensor_stats(torch.tensor([1.0, float("inf"), float("nan"), float("nan")])), FP16, 0)
    assert line.endswith(" Not counted: 1 inf and 2 NaN.")


@pytest.mark.parametrize("fmt", [FP16, BF16, E5M2, E4M3FN, FP32], ids=str)
def test_a_drawing_holds_every_sentence_and_all_bars_inside(fmt: Format):
    stats = tensor_stats(powers(-40, -20, -20, 3), layer="fc1")
    scales = range(-24, 41)
    drawn = drawing(stats, fmt, scales)
    assert drawn["sentences"] == [status_line(stats, fmt, k) for k in scales]
    assert drawn["bars"][0] == [-40, 0.25]
    assert sum(share for _, share in drawn["bars"]) == pytest.approx(1)
    low, high = drawn["domain"]
    assert low < -40 < 4 < high
    assert low < drawn["borders"][0] < drawn["borders"][1] < drawn["borders"][2] < high
    assert all(low <= e <= high for e, _ in drawn["xTicks"])
    assert "layer fc1" in details(stats, fmt)


def test_a_wrong_scale_is_refused():
    with pytest.raises(ValueError, match=r"scale_exponent must be a whole number from -512 to 512, got 1\.5"):
        status_line(tensor_stats(torch.ones(1)), FP16, 1.5)  # type: ignore[arg-type]
