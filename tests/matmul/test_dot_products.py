from __future__ import annotations

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlab.formats import BF16, E4M3FN, E5M2, FP16, FP32, TF32, Format, round_to
from mixlab.matmul import TENSOR_CORES, Summation, TensorCore, dot, sums_at, tensor_core
from mixlab.matmul.rounded_sums import running_sums
from tests.reference.dot_products import chain, round_exact, tensor_core_dot, tree

OPERANDS = [FP32, TF32, FP16, BF16, E4M3FN, Format.parse("e3m4")]
ACCUMULATORS = [FP32, FP16, BF16, Format.parse("e5m14"), E5M2, Format.parse("e2m1fn")]
ORDERS = ["sequential", "blocked", "split_k", "pairwise"]


def samples(rows: int, length: int, *, seed: int, spread: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns normal operands; `spread` multiplies each by 2^(up to spread), in either direction."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, rows, length, generator=generator)
    scales = torch.randn(2, rows, length, generator=generator) * spread
    return x * torch.exp2(scales[0]), y * torch.exp2(scales[1])


def reference(x: torch.Tensor, y: torch.Tensor, operands: Format, how: Summation) -> list[float]:
    stored = [round_to(each, operands, overflow="inf" if operands.has_inf else "saturate").tolist() for each in (x, y)]
    fmt, results = how.format, []
    for a, b in zip(*stored, strict=True):
        products = [Fraction(p) * Fraction(q) for p, q in zip(a, b, strict=True)]
        rounded = [round_exact(product, fmt) for product in products]
        if how.order == "pairwise":
            results.append(tree(rounded, fmt))
            continue
        terms = [Fraction(each) for each in rounded] if how.products == "rounded" else products
        size = {"blocked": how.block, "split_k": math.ceil(len(terms) / how.parts)}.get(how.order, len(terms))
        blocks = [chain(terms[start : start + size], fmt) for start in range(0, len(terms), size)]
        results.append(chain([Fraction(block) for block in blocks], fmt))
    return results


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("accumulator", ACCUMULATORS, ids=str)
@pytest.mark.parametrize("operands", OPERANDS, ids=str)
def test_every_format_and_order_is_exact_arithmetics(operands: Format, accumulator: Format, order: str):
    x, y = samples(3, 23, seed=1)
    for products in ("exact", "rounded"):
        how = Summation(accumulator, order, block=7, parts=4, products=products)
        limit = 60000 if accumulator.has_inf else 1  # the oracle's products stay finite
        x, y = x.clamp(-limit, limit), y.clamp(-limit, limit)
        assert dot(x, y, operands=operands, summation=how).tolist() == reference(x, y, operands, how)


@pytest.mark.parametrize("accumulator", [FP32, FP16, BF16], ids=str)
def test_wide_ranges_are_exact_arithmetics_too(accumulator: Format):
    """Products differ by up to 2^100, so that float64 cannot add them exactly."""
    x, y = samples(40, 30, seed=2, spread=12.0)
    x, y = x.clamp(-40, 40), y.clamp(-40, 40)  # 30 products stay below fp16's largest
    how = Summation(accumulator)
    assert dot(x, y, operands="bf16", summation=how).tolist() == reference(x, y, BF16, how)


def test_a_tie_beside_a_tiny_sum_is_decided_by_the_sum():
    """1 + 2^-8 is halfway between two bf16 values; the float64 sum with 2^-60 forgets which side it is on."""
    tiny, tie = 2.0**-60, 1 + 2.0**-8
    sums = running_sums(np.array([tiny, -tiny, 0.0]), np.full((1, 3), tie), BF16)
    assert sums[1].tolist() == [1 + 2.0**-7, 1.0, 1.0]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.floats(width=16), st.floats(width=16)), min_size=1, max_size=12),
    st.sampled_from(ACCUMULATORS[:4]),
)
def test_any_finite_fp16_operands_are_exact_arithmetics(pairs: list[tuple[float, float]], accumulator: Format):
    pairs = [(a, b) for a, b in pairs if math.isfinite(a) and math.isfinite(b)] or [(0.0, 0.0)]
    x, y = (torch.tensor([side]) for side in zip(*pairs, strict=True))
    terms = [Fraction(a) * Fraction(b) for a, b in pairs]
    got = dot(x, y, operands="fp16", summation=Summation(accumulator)).item()
    want = chain(terms, accumulator)
    assert got == want or (math.isinf(want) and not math.isfinite(got)), "inf - inf is NaN, where the oracle stops"


@pytest.mark.parametrize(
    ("fmt", "dtype"), [(FP32, np.float32), (FP16, np.float16), (BF16, ml_dtypes.bfloat16)], ids=["fp32", "fp16", "bf16"]
)
def test_products_and_sums_rounded_are_numpys(fmt: Format, dtype: type):
    x, y = samples(8, 300, seed=3)
    a, b = (round_to(each, fmt, overflow="inf").numpy().astype(dtype) for each in (x, y))
    total = np.zeros(8, dtype)
    for k in range(300):
        total = (total + (a[:, k] * b[:, k]).astype(dtype)).astype(dtype)
    got = dot(x, y, operands=fmt, summation=Summation(fmt, products="rounded"))
    assert got.tolist() == total.astype(np.float64).tolist()


@pytest.mark.parametrize(
    ("gpu", "operands"),
    [("v100", FP16), ("a100", BF16), ("a100", TF32), ("h100", FP16), ("h100", E4M3FN), ("b200", E5M2)],
)
def test_tensor_cores_are_exact_arithmetics(gpu: str, operands: Format):
    x, y = samples(6, 75, seed=4, spread=3.0)
    core = tensor_core(gpu, operands)
    a, b = (round_to(each, operands, overflow="inf" if operands.has_inf else "saturate").tolist() for each in (x, y))
    want = [tensor_core_dot(p, q, operands, core.group, core.fraction_bits) for p, q in zip(a, b, strict=True)]
    assert dot(x, y, operands=operands, summation=gpu).tolist() == want


def test_a_tensor_core_cuts_toward_zero():
    """V100, A100 and H100 keep 23, 24 and 25 bits of what they add to 1, and 23 of the sum."""
    x = torch.zeros(4, 8)
    x[:, 0] = torch.tensor([1.0, -1.0, 1.0, 1.0])
    x[0, 1], x[1, 1], x[2, 1:4], x[3, 1:5] = 2.0**-24, -(2.0**-24), 2.0**-24, 2.0**-12
    ones, more = torch.ones_like(x), 1 + 2.0**-23
    ones[3, 1:5] = 2.0**-13
    assert dot(x, ones, operands="fp16", summation="v100").tolist() == [1, -1, 1, 1]
    assert dot(x, ones, operands="fp16", summation="a100").tolist() == [1, -1, more, 1]
    assert dot(x, ones, operands="fp16", summation="h100").tolist() == [1, -1, more, more]


@pytest.mark.parametrize("how", [Summation("fp16"), Summation("bf16", "blocked", block=5), "h100"], ids=str)
def test_sums_at_lengths_are_dots_of_the_first_products(how: Summation | str):
    x, y = samples(5, 1200, seed=5)
    lengths = [1, 37, 512, 513, 1200]
    sums, changed = sums_at(x, y, lengths, operands="fp16", summation=how)
    for row, length in enumerate(lengths):
        assert torch.equal(sums[row], dot(x[:, :length], y[:, :length], operands="fp16", summation=how))
    assert (changed <= torch.tensor(lengths)[:, None]).all()


def test_nan_and_inf_follow_ieee_754():
    x = torch.tensor([[1.0, math.inf], [math.inf, -math.inf], [math.nan, 1.0], [math.inf, 0.0]])
    y = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [0.0, 1.0]])
    want = [math.inf, math.nan, math.nan, math.nan]
    for how in (*(Summation("fp16", order) for order in ORDERS), "h100"):
        got = dot(x, y, operands="fp16", summation=how).tolist()
        assert [repr(each) for each in got] == [repr(each) for each in want], how


def test_an_overflow_stays():
    x = torch.full((1, 8), 200.0)
    assert dot(x, x, operands="fp16", summation=Summation("fp16")).item() == math.inf
    assert dot(x, x, operands="fp16").item() == 320_000
    assert dot(torch.full((1, 1), 1e6), torch.ones(1, 1), operands="e4m3fn").item() == 448


@pytest.mark.parametrize("gpu", TENSOR_CORES)
def test_every_tensor_core_has_a_table(gpu: str):
    assert tensor_core(gpu, "fp16").group >= 4


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: dot(x, x[:, 1:]), r"both be \(rows, K\), got \(2, 4\) and \(2, 3\)"),
        (lambda x: dot(x[:, :0], x[:, :0]), r"K of at least 1, got \(2, 0\)"),
        (lambda x: dot(x[:0], x[:0]), "at least one row"),
        (lambda x: dot(x[0], x[0]), r"\(rows, K\)"),
        (lambda x: dot(x.long(), x), "x must be a floating tensor, got torch.int64"),
        (lambda x: dot([1.0], x), "x must be a floating tensor, got list"),
        (lambda x: dot(x, x, operands="fp17"), "unknown format 'fp17'"),
        (lambda x: dot(x, x, operands="fp64"), "up to 23 mantissa bits, got fp64"),
        (lambda x: dot(x, x, operands="e8m0fnu"), "must have a sign"),
        (lambda x: dot(x, x, operands=16), "a format must be a Format or its name"),
        (lambda x: dot(x, x, summation="h10"), "unknown tensor core 'h10': did you mean h100"),
        (lambda x: dot(x, x, summation="h100"), "nothing is known of fp32 on a h100; use one of fp16, bf16"),
        (lambda x: dot(x, x, summation=TensorCore("mine", 4, 23)), "up to 10 mantissa bits, got fp32"),
        (lambda x: dot(x, x, summation=8), "must be a Summation or a TensorCore, got 8"),
        (lambda x: sums_at(x, x, [5]), "a length must be a whole number from 1 to 4, got 5"),
        (lambda x: sums_at(x, x, []), "lengths must name at least one"),
        (lambda x: Summation("fp64"), "up to 23 mantissa bits, got fp64"),
        (lambda x: Summation("fp16", "sequentiell"), "did you mean sequential"),
        (lambda x: Summation("fp16", None), "order must be one of sequential, blocked, pairwise, split_k, got None"),
        (lambda x: Summation(products="yes"), "products must be one of exact, rounded, got 'yes'"),
        (lambda x: Summation(block=0), "block must be a whole number from 1 up, got 0"),
        (lambda x: Summation(parts=True), "parts must be a whole number from 1 up, got True"),
        (lambda x: Summation().depth(0), "length must be a whole number from 1 up, got 0"),
        (lambda x: TensorCore("mine", 0, 23), "group must be a whole number from 1 to 1024, got 0"),
        (lambda x: TensorCore("mine", 4, 10**400), "fraction_bits must be a whole number from 1 to 40"),
        (lambda x: tensor_core("v100", "bf16"), "nothing is known of bf16 on a v100; use one of fp16"),
    ],
)
def test_bad_input_is_refused_in_words(call, words: str):
    with pytest.raises((TypeError, ValueError), match=words):
        call(torch.ones(2, 4))
