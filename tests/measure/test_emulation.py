from __future__ import annotations

import pytest
import torch

from mixlab import BF16, FP16
from mixlab.measure import Record, measure_emulation
from mixlab.measure.emulation import OPS, compare


@pytest.fixture(scope="module")
def record() -> Record:
    return measure_emulation("cpu")


def value(record: Record, op: str, what: str) -> float:
    return record[f"{op}, {what}"].samples[0]


def test_every_op_is_measured_both_ways_in_both_formats(record):
    names = [series.name for series in record.series]
    assert len(names) == len(set(names)) == 2 * len(OPS) * 2 * 3
    assert {series.unit for series in record.series} == {"1", "ulp"}


@pytest.mark.parametrize("op", ["linear", "matmul", "bmm"])
@pytest.mark.parametrize("fmt", ["fp16", "bf16"])
def test_products_are_the_cpus_own_but_for_the_order_of_summation(record, fmt, op):
    for direction in ("forward", "backward"):
        assert value(record, f"{fmt} {op} {direction}", "equal") > 0.99
        assert value(record, f"{fmt} {op} {direction}", "largest difference / largest value") < 2e-3


@pytest.mark.parametrize("op", ["gelu", "tanh", "silu", "batch_norm"])
def test_elementwise_ops_are_the_cpus_own(record, op):
    for fmt in ("fp16", "bf16"):
        assert value(record, f"{fmt} {op} forward", "equal") == 1


def test_softmax_and_layer_norm_keep_float32_which_a_cpus_autocast_rounds(record):
    for op in ("softmax", "layer_norm"):
        assert value(record, f"bf16 {op} forward", "equal") < 0.01
        assert 0.4 < value(record, f"bf16 {op} forward", "largest difference") <= 0.52


def test_compare_counts_in_gaps_of_the_format():
    ours, theirs = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([1.0 + 2**-7, 2.0, 0.0])
    equal, ulps, relative = compare(ours, theirs, BF16)
    assert (equal, ulps, relative) == (pytest.approx(2 / 3), 1.0, 2**-8)
    assert compare(ours, theirs, FP16)[1] == 8.0
    assert compare(ours, ours, FP16) == (1.0, 0.0, 0.0)


@pytest.mark.gpu
def test_emulation_is_close_to_a_gpu():
    record = measure_emulation("cuda")
    for fmt in ("fp16", "bf16"):
        for op in ("linear", "bmm", "conv2d", "softmax", "layer_norm", "gelu", "cross_entropy"):
            assert value(record, f"{fmt} {op} forward", "largest difference / largest value") < 0.02


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: measure_emulation("cpu", formats=["fp32"]), "formats must be fp16 or bf16, got fp32"),
        (lambda: measure_emulation("cpu", formats=["e5m2"]), "formats must be fp16 or bf16, got e5m2"),
        (lambda: measure_emulation("tpu"), "device must be cpu, cuda or cuda:<number>"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
