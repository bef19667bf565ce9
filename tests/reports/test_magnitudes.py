"""A tensor's magnitudes on a format's range, in words and as a picture."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from mixlab.formats import E4M3FN, FORMATS, FP32, Format, round_with_stats
from mixlab.probes import Histogram
from mixlab.reports import limits_line, loss_line, magnitudes_svg
from mixlab.reports.magnitudes import relative_rms


def test_the_loss_in_words_is_that_of_the_tensor():
    x = torch.tensor([1.0, 1e-9, 3e-7, 7e4, 0.0])
    rounded, stats = round_with_stats(x, "fp16", overflow="inf")
    assert loss_line(stats).startswith(
        "Of 4 non-zero values 25 % become zero, 25 % are subnormal, 25 % are out of range. Relative RMS error "
    )
    kept = torch.isfinite(rounded)
    error = (rounded[kept] - x[kept]).double().norm() / x[kept].double().norm()
    assert relative_rms(stats) == pytest.approx(error.item(), rel=1e-4)
    assert loss_line(round_with_stats(torch.zeros(3), "fp16", overflow="inf")[1]).startswith("None of the 3 values")
    assert "no subnormals" in limits_line(Format("f", 4, 3, subnormals=False))


@pytest.mark.parametrize("fmt", [FORMATS["e2m1fn"], E4M3FN, FP32], ids=str)
@pytest.mark.parametrize("x", [torch.tensor([1.0, 2e-5, 3e-30, 4e20]), torch.zeros(2), torch.tensor([torch.nan])])
def test_the_picture_is_well_formed_and_has_a_bar_for_each_exponent(fmt: Format, x: torch.Tensor):
    counts = Histogram.of(x).exponent_counts()
    picture = ElementTree.fromstring(magnitudes_svg(counts, fmt, "in words"))
    bars = [node for node in picture.iter("rect") if "fill-opacity" not in node.attrib]
    assert len(bars) == np.count_nonzero(counts)
    assert picture.attrib["aria-label"] == "in words"
    width = float(picture.attrib["viewBox"].split()[2])
    assert all(-0.1 <= float(bar.attrib["x"]) <= width for bar in bars)
    assert not re.search("nan|inf", ElementTree.tostring(picture, "unicode").replace("overflow", ""))
