from __future__ import annotations

import math

import pytest

from mixlab.matmul import Matmul, Roof, RooflinePoint, roof_for, roofs_of
from mixlab.memory import GPUS, GpuSpec

ROOF = Roof("a machine", "fp32", 100.0, 10.0)


@pytest.mark.parametrize("name", GPUS)
def test_a_gpu_has_a_roof_for_every_format_of_its_data_sheet(name):
    roofs = roofs_of(name)
    assert {roof.format: roof.peak_flops for roof in roofs} == GPUS[name].peak_flops
    assert {roof.bandwidth for roof in roofs} == {GPUS[name].bandwidth}
    assert all(roof.name == name and GPUS[name].source in roof.source for roof in roofs)
    assert all(roof.ridge_point == roof.peak_flops / GPUS[name].bandwidth for roof in roofs)


def test_the_roof_is_the_lower_of_two_lines():
    assert [ROOF.attainable(intensity) for intensity in (0.1, 5, 10, 20)] == [1, 50, 100, 100]
    assert [ROOF.limit(intensity) for intensity in (5, 9.99, 10, 20)] == ["memory", "memory", "compute", "compute"]


def test_time_is_the_longer_of_two():
    assert ROOF.seconds(1000, 10) == 10  # computes
    assert ROOF.seconds(10, 1000) == 100  # moves
    assert ROOF.seconds(0, 20) == 2
    assert ROOF.seconds(1000, 10) == 1000 / ROOF.attainable(1000 / 10)


def test_a_vector_is_memory_bound_and_a_large_product_is_not():
    for name in ("v100-32gb", "a100-80gb", "h200", "mi300x"):
        one, many = (Matmul(m, 8192, 8192, "fp16", "fp16", out="fp16") for m in (1, 8192))
        assert roof_for(one, name).limit(one.arithmetic_intensity) == "memory"
        assert roof_for(many, name).limit(many.arithmetic_intensity) == "compute"


def test_formats_are_found_by_family():
    assert roof_for(Matmul(1, 1, 1, "e4m3fn", "e5m2"), "h200").format == "fp8"
    assert roof_for(Matmul(1, 1, 1, "e2m1fn", "e2m1fn"), "b200").format == "fp4"
    assert roof_for(Matmul(1, 1, 1, "e5m10", "fp16"), "t4").format == "fp16"
    own = GpuSpec("mine", 2**30, 1e9, {"fp32": 1e12})
    assert roof_for(Matmul(1, 1, 1), own) == Roof("mine", "fp32", 1e12, 1e9)


@pytest.mark.parametrize(
    ("formats", "words"),
    [
        (("bf16", "bf16"), "t4 has no peak for bf16: did you mean .*it multiplies fp32, fp16"),
        (("e4m3fn", "e4m3fn"), "t4 has no peak for e4m3fn"),
        (("fp64", "fp64"), "t4 has no peak for fp64"),
        (("e3m4", "e3m4"), "t4 has no peak for e3m4"),
        (("bf16", "fp16"), "A and B must be of one format, or both of fp8, got bf16 and fp16"),
    ],
)
def test_a_format_that_the_gpu_lacks_is_refused(formats, words):
    with pytest.raises(ValueError, match=words):
        roof_for(Matmul(1, 1, 1, *formats), "t4")


def test_an_unknown_gpu_is_refused():
    with pytest.raises(ValueError, match="unknown GPU 'h300'"):
        roofs_of("h300")


@pytest.mark.parametrize("bad", [0, -1.0, math.nan, math.inf, True, "fast", None, 10**400])
def test_bad_numbers_are_refused(bad):
    for call in (
        lambda: Roof("a", "fp32", bad, 1.0),
        lambda: Roof("a", "fp32", 1.0, bad),
        lambda: RooflinePoint("a", "fp32", bad),
        lambda: ROOF.attainable(bad),
        lambda: ROOF.limit(bad),
    ):
        with pytest.raises(ValueError, match="must be a positive number, got"):
            call()
    if bad != 0:
        with pytest.raises(ValueError, match="flops must be 0 or a positive number"):
            ROOF.seconds(bad, 1)
        with pytest.raises(ValueError, match="bytes_moved must be 0 or a positive number"):
            ROOF.seconds(1, bad)
        if bad is not None:
            with pytest.raises(ValueError, match="speed must be a positive number"):
                RooflinePoint("a", "fp32", 1.0, bad)
