from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlab.formats import BF16, FP16, FP32, TF32, Format, round_to
from mixlab.matmul import (
    Summation,
    dot,
    error_bound,
    gamma,
    operand_error_bound,
    probable_error_bound,
    probable_gamma,
    tensor_core,
)

ORDERS = ["sequential", "blocked", "split_k", "pairwise"]


def relative_errors(x: torch.Tensor, y: torch.Tensor, operands: Format, how: Summation | str) -> torch.Tensor:
    """Returns the errors of sums of rounded operands, relative to the sum of the products' magnitudes."""
    a, b = (round_to(each, operands, overflow="inf").double() for each in (x, y))
    size = (a * b).abs().sum(1)
    error = (dot(x, y, operands=operands, summation=how) - (a * b).sum(1)).abs()
    return torch.where(size > 0, error / size, error)


@settings(max_examples=120, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 300),
    st.sampled_from([FP32, FP16, BF16, Format.parse("e6m5")]),
    st.sampled_from(ORDERS),
    st.sampled_from(["exact", "rounded"]),
    st.floats(-1, 1),
)
def test_no_error_exceeds_the_bound(seed: int, length: int, fmt: Format, order: str, products: str, shift: float):
    """Magnitudes from 2^-3 to 2^3, so that nothing overflows or underflows; `shift` makes sums grow or cancel."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.exp2(6 * torch.rand(2, 6, length, generator=generator) - 3)
    x = x * torch.sign(torch.rand(6, length, generator=generator) * 2 - 1 + shift)
    how = Summation(fmt, order, block=9, parts=3, products=products)
    assert (relative_errors(x, y, TF32, how) <= error_bound(how, length) * (1 + 1e-9)).all()


@pytest.mark.parametrize(("gpu", "operands"), [("v100", FP16), ("a100", BF16), ("h100", FP16)])
def test_no_error_of_a_tensor_core_exceeds_its_bound(gpu: str, operands: Format):
    core = tensor_core(gpu, operands)
    generator = torch.Generator().manual_seed(0)
    for length in (1, 5, 64, 1000):
        x, y = torch.exp2(6 * torch.rand(2, 50, length, generator=generator) - 3)
        for signs in (torch.ones(50, length), torch.sign(torch.randn(50, length, generator=generator))):
            assert (relative_errors(x * signs, y, operands, gpu) <= error_bound(core, length)).all()


@pytest.mark.parametrize(("fmt", "confidence"), [(BF16, 3.0), (FP16, 2.5)], ids=["bf16", "fp16"])
def test_the_probable_bound_fails_at_most_as_often_as_stated(fmt: Format, confidence: float):
    """4000 dot products of 10 random signs: no more failures than stated, within 4 sigma of their binomial count."""
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 4000, 10, generator=generator)
    how = Summation(fmt)
    bound, probability = probable_error_bound(how, 10, confidence=confidence)
    assert 0 < probability < 1
    failures = int((relative_errors(x, y, TF32, how) > bound).sum())
    stated = 4000 * (1 - probability)
    assert failures <= stated + 4 * math.sqrt(stated * probability)


def test_a_sum_that_stands_still_exceeds_the_probable_bound():
    """Ones in fp16 stop at 2048. Rounding errors that are all alike are not independent, and only gamma holds."""
    ones = torch.ones(1, 8192)
    bound, probability = probable_error_bound(Summation("fp16"), 8192)
    assert probability > 0.9
    assert relative_errors(ones, ones, FP16, Summation("fp16")).item() == 0.75 > bound


def test_gamma_is_highams():
    assert gamma(0, 2.0**-24) == 0
    assert gamma(3, 0.25) == 3
    assert gamma(2, 0.5) == gamma(10**400, 2.0**-24) == math.inf
    assert probable_gamma(0, 2.0**-11, 5.0) == 0
    assert probable_gamma(10_000, 2.0**-11, 5.0) == pytest.approx(
        math.expm1(500 * 2.0**-11 + 10_000 * 2.0**-22 / (1 - 2.0**-11))
    )


def test_the_orders_bounds_stand_in_their_order():
    bounds = [error_bound(Summation("fp16", order, block=32, parts=32), 1024) for order in ORDERS]
    assert bounds[0] > bounds[1] == bounds[2] > bounds[3]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["fp16", "bf16", "e4m3fn", "e5m2", "e3m2fn"]), st.floats(-12, 3))
def test_no_rounding_of_operands_exceeds_its_bound(seed: int, name: str, scale: float):
    fmt = Format.parse(name)
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(2, 8, 20, generator=generator) * 2.0**scale).clamp(-fmt.max, fmt.max)
    moved = torch.stack([round_to(each, fmt, overflow="saturate").double() for each in (x, y)]).prod(0).sum(1)
    size = (x.double() * y.double()).abs().sum(1)
    error = (moved - (x.double() * y.double()).sum(1)).abs() / size
    assert (error <= operand_error_bound(x, y, fmt) * (1 + 1e-9)).all()


def test_operands_that_overflow_have_no_bound_and_zeros_no_error():
    x = torch.tensor([[1e6, 1.0], [0.0, 0.0], [1.0, 1.0]])
    bounds = operand_error_bound(x, torch.ones_like(x), "fp16")
    assert bounds[:2].tolist() == [math.inf, 0]
    assert bounds[2].item() == pytest.approx(2 * 2.0**-11, rel=1e-3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: gamma(-1, 0.5), "roundings must be a whole number from 0 up, got -1"),
        (lambda: gamma(1, 1), "unit_roundoff must be a number between 0 and 1, got 1"),
        (lambda: gamma(1, math.nan), "between 0 and 1, got nan"),
        (lambda: probable_gamma(1, 0.5, 0), "confidence must be a number above 0"),
        (
            lambda: probable_gamma(1, 0.5, math.nan),
            "above 0 and below 1e6, such as 5, got nan",
        ),
        (lambda: error_bound(Summation(), 0), "length must be a whole number from 1 up, got 0"),
        (lambda: error_bound("fp32", 1), "must be a Summation or a TensorCore, got 'fp32'"),
        (lambda: probable_error_bound(tensor_core("h100", "fp16"), 8), "must be a Summation, got TensorCore"),
        (lambda: probable_error_bound(Summation(), 8, confidence=True), "confidence must be a number"),
        (lambda: operand_error_bound(torch.ones(2, 3), torch.ones(3), "fp16"), r"must be \(rows, K\)"),
        (lambda: operand_error_bound(torch.ones(2, 3), torch.ones(2, 3), "fp15"), "unknown format"),
    ],
)
def test_bad_input_is_refused_in_words(call, words: str):
    with pytest.raises((TypeError, ValueError), match=words):
        call()
