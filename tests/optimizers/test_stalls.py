"""Each closed form of `mixlab.optimizers.stalls` against the step it speaks of,
made in float64 and rounded by `round_to`."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mixlab.formats import E8M0FNU, FP16, FP32, Format, round_to
from mixlab.optimizers import (
    Adam,
    AdamW,
    Storage,
    decay_stalls,
    largest_stalled_significand,
    rise_ratio,
    smallest_effective_lr,
    smallest_gradient_kept,
    steps_to_halve,
    swallow_bounds,
    weight_decay_lost,
)

FORMATS = [Format.parse(name) for name in ("fp16", "bf16", "e4m3fn", "e5m2", "e5m3", "e8m4", "e4m3fnuz", "e2m1fn")]
FLUSHING = Format("e4m3 without subnormals", 4, 3, subnormals=False)
# Beside the usual ones: 0.98 ends in a tie at an odd value of e8m4 (25/16), as 0.9 in e5m2, 0.95 in e4m3fn at an even
# one (5/4); a power of two loses half the gap below it in e4m3fn at 0.96875.
BETAS = [0.0, 0.5, 0.9, 0.95, 0.96875, 0.98, 0.99, 0.997, 0.999, 0.9996, 0.9999]

of_every_format = pytest.mark.parametrize("fmt", [*FORMATS, FLUSHING], ids=str)
with_subnormals = pytest.mark.parametrize("fmt", FORMATS, ids=str)
at_every_beta2 = pytest.mark.parametrize("beta2", BETAS)

formats = st.builds("e{}m{}".format, st.integers(2, 8), st.integers(1, 12)).map(Format.parse)
betas = st.integers(0, 9999).map(lambda n: n / 10_000)


def rounded(x: Tensor, fmt: Format) -> Tensor:
    return round_to(x.double(), fmt, overflow="inf" if fmt.has_inf else "saturate")


@cache
def positive(fmt: Format) -> Tensor:
    """All positive values; beyond 8 bits those of three binades: the smallest, [1, 2], the largest; and subnormals."""
    values = np.unique(fmt.values())
    values = values[np.isfinite(values) & (values > 0)]
    if fmt.bits > 8:
        n = 1 << fmt.mantissa_bits
        one = int(np.searchsorted(values, 1.0))
        values = np.concatenate([values[: 2 * n + 1], values[one : one + n + 1], values[-n - 1 :]])
    return torch.tensor(values)


def thinned(values: Tensor) -> Tensor:
    """Every ninth of many values, odd ones and even ones."""
    return values[::9] if len(values) > 1000 else values


def is_even(values: Tensor, fmt: Format) -> Tensor:
    """Whether the last bit of the code is 0."""
    return torch.tensor([fmt.encode(v) % 2 == 0 for v in values.tolist()])


@of_every_format
@at_every_beta2
def test_decay_stalls_where_the_rounded_decay_does(fmt: Format, beta2: float):
    values = positive(fmt)
    stalled = rounded(values * beta2, fmt) == values
    assert [decay_stalls(v, fmt, beta2) for v in values.tolist()] == stalled.tolist()


@given(formats, betas, st.data())
def test_decay_stalls_in_any_format(fmt: Format, beta2: float, data: st.DataObject):
    v = fmt.decode(data.draw(st.integers(1, fmt.encode(fmt.max)))).value
    assert decay_stalls(v, fmt, beta2) == (rounded(torch.tensor(v) * beta2, fmt).item() == v)


@given(formats, betas, betas, st.data())
def test_what_stalls_stalls_at_every_larger_beta2(fmt: Format, one: float, other: float, data: st.DataObject):
    v = fmt.decode(data.draw(st.integers(1, fmt.encode(fmt.max)))).value
    assert decay_stalls(v, fmt, min(one, other)) <= decay_stalls(v, fmt, max(one, other))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("beta2", [0.95, 0.997, 0.999, 0.9996])
def test_decay_stalls_where_a_real_adam_does(dtype: torch.dtype, beta2: float):
    """Its arithmetic is float32, and all ties are still there."""
    fmt = FORMATS[0] if dtype is torch.float16 else FORMATS[1]
    values = positive(fmt)
    weight = torch.zeros(len(values), requires_grad=True)
    adam = Adam([weight], betas=(0.9, beta2), storage=Storage(exp_avg_sq_dtype=dtype))
    weight.grad = torch.zeros_like(weight)
    adam.step()
    adam.state[weight]["exp_avg_sq"].copy_(values)
    adam.step()
    stalled = adam.state[weight]["exp_avg_sq"] == values
    assert [decay_stalls(v, fmt, beta2) for v in values.tolist()] == stalled.tolist()


@with_subnormals
@at_every_beta2
def test_the_stalled_significands_are_those_up_to_the_bound(fmt: Format, beta2: float):
    bound = largest_stalled_significand(fmt, beta2)
    binade = 1 + torch.arange(2**fmt.mantissa_bits) * fmt.eps  # all of [1, 2), the power of two first
    stalled = rounded(binade * beta2, fmt) == binade
    expected = (binade < bound) | ((binade == bound) & is_even(binade, fmt))
    expected[0] = bound == 2
    assert stalled.tolist() == expected.tolist()


KNOWN_BOUNDS = [
    *[("bf16", 0.999, 2.0), ("bf16", 0.99, 0.390625), ("fp16", 0.999, 0.48828125), ("fp16", 0.9999, 2.0)],
    *[("e4m3fn", 0.95, 1.25), ("e5m2", 0.9, 1.25), ("e8m4", 0.98, 1.5625)],
]


@pytest.mark.parametrize(("fmt", "beta2", "bound"), KNOWN_BOUNDS)
def test_known_bounds(fmt: str, beta2: float, bound: float):
    assert largest_stalled_significand(fmt, beta2) == bound


@pytest.mark.parametrize(("fmt", "beta2"), [("e4m3fn", 0.95), ("bf16", 0.997), ("bf16", 0.999), ("fp16", 0.9997)])
def test_a_moment_decays_to_the_bound_and_no_further(fmt: str, beta2: float):
    parsed = Format.parse(fmt)
    start = 1 + (1 - torch.rand(100, generator=torch.Generator().manual_seed(0))) * (1 - parsed.eps)
    moments = first = rounded(start, parsed)
    for _ in range(500):
        moments = rounded(moments * beta2, parsed)
    bound = largest_stalled_significand(parsed, beta2)
    floor = math.floor(bound / parsed.eps) * parsed.eps
    stands = first[first > 1]
    assert torch.equal(moments[first > 1], stands.clamp(max=floor))
    assert bound == 2 or (stands > floor).any()


@of_every_format
@at_every_beta2
def test_just_above_the_ratio_a_moment_rises_and_just_below_it_does_not(fmt: Format, beta2: float):
    values = positive(fmt)
    values = thinned(values[values < fmt.max])
    ratios = torch.tensor([rise_ratio(fmt, beta2, v) for v in values.tolist()], dtype=torch.float64)
    for side, rises in ((1 - 1e-9, False), (1 + 1e-9, True)):
        gradients = (ratios * side * values).sqrt()
        after = rounded(beta2 * values + (1 - beta2) * gradients.square(), fmt)
        assert ((after > values) == rises).all()


@of_every_format
@pytest.mark.parametrize("beta2", [0.5, 0.75, 0.9375])
def test_at_the_ratio_only_odd_moments_rise(fmt: Format, beta2: float):
    values = thinned(positive(fmt)[:-1])
    squares = torch.tensor([v + (fmt.next_up(v) - v) / 2 / (1 - beta2) for v in values.tolist()], dtype=torch.float64)
    ratios = torch.tensor([rise_ratio(fmt, beta2, v) for v in values.tolist()], dtype=torch.float64)
    torch.testing.assert_close(squares / values, ratios, rtol=1e-15, atol=0)
    rises = rounded(beta2 * values + (1 - beta2) * squares, fmt) > values
    assert rises.tolist() == (~is_even(values, fmt)).tolist()


def test_known_ratios():
    assert rise_ratio("bf16", 0.999) == 4.90625
    assert rise_ratio("bf16", 0.999, v=2 - 2**-7) == pytest.approx(2.96, abs=1e-3)
    assert rise_ratio("fp16", 0.999) == 1.48828125


@with_subnormals
def test_updates_within_the_bounds_are_swallowed_and_beyond_them_not(fmt: Format):
    always, never = swallow_bounds(fmt)
    weights = positive(fmt)
    weights = weights[(weights >= fmt.smallest_normal) & (weights < fmt.max)]
    powers = torch.frexp(weights).mantissa == 0.5
    smallest = weights == fmt.smallest_normal

    def swallows(ratio: float) -> Tensor:
        return rounded(weights * (1 + ratio), fmt) == weights

    for ratio in (always * (1 - 1e-9), always):
        assert swallows(ratio).all()
        assert swallows(-ratio).all()
    assert torch.equal(~swallows(-always * (1 + 1e-9)), powers & ~smallest)  # so the first bound is the best
    assert (swallows(never * (1 - 1e-9)) & powers).any()  # and so is the second
    assert torch.equal(swallows(never), powers)
    assert torch.equal(swallows(-never), smallest)
    assert not swallows(never * (1 + 1e-9)).any()
    assert not (swallows(-never * (1 + 1e-9)) & ~smallest).any()  # the smallest leaves the normal range


@given(formats, st.floats(1, 1.999), st.floats(-1, 1))
def test_any_weight_and_any_update(fmt: Format, significand: float, part: float):
    always, never = swallow_bounds(fmt)
    weight = rounded(torch.tensor(significand), fmt).item()
    ratio = part * 4 * never
    moved = rounded(torch.tensor(weight, dtype=torch.float64) * (1 + ratio), fmt).item() != weight
    assert not (moved and abs(ratio) <= always)
    assert moved or abs(ratio) <= never * (1 + 1e-9) or weight == fmt.max or weight * (1 + ratio) < fmt.smallest_normal


def test_the_bound_of_fp16_is_the_2048_of_the_paper():
    assert swallow_bounds("fp16") == (2**-12, 2**-11)


@of_every_format
def test_below_the_smallest_lr_a_weight_moves_to_neither_side(fmt: Format):
    weights = torch.cat([torch.zeros(1), positive(fmt)]).double()
    weights = thinned(weights[weights < fmt.max])
    rates = torch.tensor([smallest_effective_lr(fmt, w) for w in weights.tolist()], dtype=torch.float64)

    def moves(factor: float) -> Tensor:
        sides = [rounded(weights + sign * factor * rates, fmt) != weights for sign in (-1, 1)]
        return sides[0] | sides[1]

    assert not moves(1 - 1e-6).any()
    assert moves(1 + 1e-6).all()
    if fmt.subnormals:
        assert torch.equal(moves(1), ~is_even(weights, fmt))
    assert [smallest_effective_lr(fmt, -w) for w in weights.tolist()] == rates.tolist()


@pytest.mark.parametrize(("ulps", "stored"), [(0.4, 1.0), (0.6, 1 + FP16.eps), (-0.4, 1.0)])
def test_a_weight_counts_as_it_is_stored(ulps: float, stored: float):
    rates = [smallest_effective_lr("fp16", sign * (1 + ulps * FP16.eps)) for sign in (-1, 1)]
    assert rates == [smallest_effective_lr("fp16", stored)] * 2 == [2**-12 if stored == 1 else 2**-11] * 2


@pytest.mark.parametrize("weight", [1.0, 1.5, 0.02])
def test_the_smallest_lr_moves_a_bf16_weight_of_a_real_adam(weight: float):
    lr = smallest_effective_lr("bf16", weight)
    for factor, moves in ((0.999, False), (1.001, True)):
        for sign in (-1.0, 1.0) if not moves else (1.0,):  # the lower neighbour is the nearer one
            stored = torch.tensor([weight], dtype=torch.bfloat16, requires_grad=True)
            before = stored.detach().clone()
            stored.grad = torch.full_like(stored, sign)
            Adam([stored], lr=lr * factor).step()
            assert (stored.detach() != before).item() == moves


@with_subnormals
@pytest.mark.parametrize("factor", [0.0, 0.5, 0.999, 1.0, 1.001, 1.1, 2.0])
def test_weight_decay_is_lost_exactly_if_no_normal_weight_changes(fmt: Format, factor: float):
    weights = positive(fmt)
    weights = weights[weights >= fmt.smallest_normal]
    lr, decay = 0.1, factor * fmt.eps * 2.5  # together eps/4 times the factor
    unchanged = torch.equal(rounded(weights * (1 - lr * decay), fmt), weights)
    assert weight_decay_lost(fmt, lr, decay) == unchanged == (factor <= 1)


@pytest.mark.parametrize(("decay", "lost"), [(0.01, True), (1.95, True), (1.96, False)])
def test_weight_decay_is_lost_in_a_real_adamw(decay: float, lost: bool):
    values = positive(FORMATS[1])
    weight = values[values >= FORMATS[1].smallest_normal].bfloat16().requires_grad_()
    before = weight.detach().clone()
    weight.grad = torch.zeros_like(weight)
    AdamW([weight], lr=1e-3, weight_decay=decay).step()
    assert torch.equal(weight.detach(), before) == lost == weight_decay_lost("bf16", 1e-3, decay)


@of_every_format
@at_every_beta2
def test_up_to_the_smallest_gradient_a_moment_stays_zero(fmt: Format, beta2: float):
    bound = torch.tensor(smallest_gradient_kept(fmt, beta2), dtype=torch.float64)
    assert rounded((1 - beta2) * (bound * (1 - 1e-9)) ** 2, fmt) == 0
    assert rounded((1 - beta2) * (bound * (1 + 1e-9)) ** 2, fmt) == fmt.smallest_subnormal


def test_at_the_smallest_gradient_the_tie_goes_to_zero():
    bound = smallest_gradient_kept("fp16", 1 - 2**-5)
    assert bound == 2**-10
    assert rounded(torch.tensor(2**-5 * bound**2), FP16) == 0


def test_a_moment_in_fp16_decays_to_where_the_smallest_gradient_ends():
    """No normal value of fp16 stalls at 0.999, yet 500 subnormal steps are the end."""
    floor = smallest_gradient_kept("fp16", 0.999) ** 2
    moment = torch.tensor(floor * 4, dtype=torch.float64)
    for _ in range(3 * math.ceil(steps_to_halve(0.999))):
        moment = rounded(moment * 0.999, FP16)
    assert moment.item() == pytest.approx(floor, rel=1e-12)
    assert moment.item() == 500 * FP16.smallest_subnormal


@given(st.floats(0.01, 0.99999))
def test_steps_to_halve_halve(beta: float):
    assert beta ** steps_to_halve(beta) == pytest.approx(0.5, rel=1e-9)


def test_known_halvings():
    moment = torch.tensor(1.0, dtype=torch.float64)
    for _ in range(693):
        moment *= 0.999
    assert moment < 0.5 < moment / 0.999
    assert 692 < steps_to_halve(0.999) < 693
    assert (steps_to_halve(0.5), steps_to_halve(0.0)) == (1, 0)


def test_a_name_and_a_format_are_the_same():
    assert smallest_effective_lr("fp32", 1.0) == smallest_effective_lr(FP32, 1.0) == 2**-25


BAD = [
    (lambda: largest_stalled_significand("bf16", 1.0), r"significand: beta2 must be a number from 0 to below 1, got 1"),
    (lambda: decay_stalls(1.0, "bf16", -0.1), r"decay_stalls: beta2 must be a number from 0 to below 1, got -0\.1"),
    (lambda: rise_ratio("bf16", math.nan), r"rise_ratio: beta2 must be a number from 0 to below 1, got nan"),
    (lambda: smallest_gradient_kept("fp16", "0.9"), r"kept: beta2 must be a number from 0 to below 1, got '0\.9'"),
    (lambda: steps_to_halve(True), r"steps_to_halve: beta must be a number from 0 to below 1, got True"),
    (lambda: decay_stalls(0.0, "fp16", 0.9), r"decay_stalls: v must be a positive finite value of fp16, got 0\.0"),
    (lambda: decay_stalls(-1.0, "fp16", 0.9), r"v must be a positive finite value of fp16, got -1\.0"),
    (lambda: decay_stalls(math.inf, "fp16", 0.9), r"v must be a positive finite value of fp16, got inf"),
    (lambda: decay_stalls(1.1, "e4m3fn", 0.9), r"e4m3fn has no value 1\.1: its neighbours are 1\.0 and 1\.125"),
    (lambda: rise_ratio("fp16", 0.9, v=1e-9), r"fp16 has no value 1e-09: its neighbours are 0\.0 and 5\.96"),
    (lambda: rise_ratio("e4m3fn", 0.9, v=448.0), r"v must be below the largest value of e4m3fn, 448\.0, got 448\.0"),
    (lambda: smallest_effective_lr("fp16", 1e5), r"a number from -65504\.0 to 65504\.0, the range of fp16, got 100000"),
    (lambda: smallest_effective_lr("fp16", math.nan), r"smallest_effective_lr: weight must be a number .*, got nan"),
    (lambda: weight_decay_lost("bf16", 0.0, 0.1), r"weight_decay_lost: lr must be a positive finite number, got 0\.0"),
    (lambda: weight_decay_lost("bf16", math.inf, 0.1), r"lr must be a positive finite number, got inf"),
    (lambda: weight_decay_lost("bf16", 0.1, -1), r"weight_decay must be a finite number from 0 up, got -1"),
    (lambda: swallow_bounds("fp17"), r"unknown format 'fp17': use one of fp64, fp32"),
    (lambda: swallow_bounds(E8M0FNU), r"swallow_bounds: e8m0fnu is a scale, without sign or zero; use one of the"),
    (lambda: decay_stalls(1.0, "e8m0fnu", 0.9), r"decay_stalls: e8m0fnu is a scale"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input_is_refused_in_words(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()


def test_what_is_no_format_is_refused():
    with pytest.raises(TypeError, match=r"a format must be a Format or its name, such as 'fp16', got torch\.float16"):
        swallow_bounds(torch.float16)
