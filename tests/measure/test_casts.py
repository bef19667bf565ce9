from __future__ import annotations

import pytest
import torch

from mixlab.figures import format_limits, matmul_speed_dots
from mixlab.formats import FORMATS
from mixlab.measure import MatmulSpeed, matmul_speeds


def test_every_native_format_is_measured():
    speeds = matmul_speeds("cpu", size=64)
    assert [speed.format for speed in speeds] == ["fp32", "bf16", "fp16"]
    for speed in speeds:
        assert (speed.device, speed.size, speed.count) == ("cpu", 64, 9)
        assert 0 < speed.low <= speed.gflops <= speed.high


@pytest.mark.gpu
def test_tf32_is_measured_on_a_gpu_and_switched_off_again():
    before = torch.backends.cuda.matmul.allow_tf32
    speeds = {speed.format: speed.gflops for speed in matmul_speeds("cuda", size=4096)}
    assert torch.backends.cuda.matmul.allow_tf32 == before
    assert speeds["fp16"] > speeds["tf32"] > speeds["fp32"]


def test_dots_show_the_numbers_and_the_machine():
    speeds = [MatmulSpeed("fp32", "cpu", 512, 100.0, 90.0, 110.0, 9), MatmulSpeed("fp16", "cpu", 512, 1.5, 1.4, 1.6, 9)]
    figure = matmul_speed_dots(speeds, "a machine")
    assert list(figure.data[0].x) == [100.0, 1.5]
    assert list(figure.data[0].y) == ["fp32: 100", "fp16: 1.5"]
    assert "lowest to highest of 9</sub><br><sub>a machine" in figure.layout.title.text
    assert list(figure.data[0].error_x.arrayminus) == pytest.approx([10.0, 0.1])


def test_format_limits_draw_every_format_from_its_smallest_to_its_largest_value():
    formats = [fmt for fmt in FORMATS.values() if fmt.bits <= 32]  # 2^1024 is no float64
    figure = format_limits(formats)
    subnormal, normal = figure.data
    assert list(normal.y) == [fmt.name for fmt in formats]
    for row, fmt in enumerate(formats):
        assert 2.0 ** subnormal.base[row] == pytest.approx(fmt.smallest_subnormal)
        assert 2.0 ** normal.base[row] == pytest.approx(fmt.smallest_normal)
        assert 2.0 ** (normal.base[row] + normal.x[row]) == pytest.approx(fmt.max)
