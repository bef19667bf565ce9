from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from mixlab import FP16, Format, round_to, round_with_stats


@pytest.fixture
def x() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300_000, generator=generator) * torch.randn(300_000, generator=generator).mul(8).exp2()
    x[::1000] = 0
    x[1::5000] = torch.inf
    x[2::5000] = torch.nan
    return x


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("overflow", ["saturate", "usual"])
@pytest.mark.parametrize("fmt", ["fp16", "bf16", "e4m3fn", "e5m2", "e2m1fn", "e4m3fnuz"])
def test_statistics_equal_doing_it_by_hand(x, fmt, overflow, compiled):
    fmt = Format.parse(fmt)
    overflow = "saturate" if overflow == "saturate" or not fmt.has_nan else "inf" if fmt.has_inf else "nan"
    y, stats = round_with_stats(x, fmt, overflow=overflow, compiled=compiled)
    expected = round_to(x, fmt, overflow=overflow)
    assert torch.equal(y.nan_to_num(nan=1e30), expected.nan_to_num(nan=1e30))
    alive = x.isfinite() & (x != 0)
    a, b = x.abs()[alive].double(), expected.abs()[alive].double()
    assert (stats.numel, stats.non_zero) == (x.numel(), int(alive.sum()))
    assert stats.underflow == float((b == 0).double().mean())
    assert stats.subnormal == float(((b > 0) & (b < fmt.smallest_normal)).double().mean())
    assert stats.overflow == float((~b.isfinite()).double().mean())
    assert stats.clipped == float((b.isfinite() & (a >= fmt.overflow_threshold)).double().mean())
    assert stats.amax == float(a.max())
    kept = x.isfinite() & expected.isfinite()
    noise = (expected.double() - x.double())[kept].square()
    signal = x.double()[kept].square()
    assert stats.mean_square_error == pytest.approx(float(noise.mean()), rel=1e-5)
    assert stats.signal_to_noise_db == pytest.approx(10 * math.log10(float(signal.sum() / noise.sum())), abs=1e-4)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("dtype", "exponents"), [(torch.float32, range(-149, 128)), (torch.float64, range(-1060, 1023))]
)
def test_noise_and_signal_of_any_magnitude_have_squares(dtype, exponents, compiled):
    mantissas = torch.tensor([1.3, -1.7, 1.0, 1.9], dtype=dtype)
    for exponent in list(exponents)[:: 97 if compiled else 11]:
        x = torch.ldexp(mantissas, torch.tensor(exponent, dtype=dtype))
        y, stats = round_with_stats(x, "fp16", overflow="saturate", compiled=compiled)
        noise, signal = (sum(Fraction(v) ** 2 for v in values.tolist()) for values in (y.double() - x.double(), x))
        assert not math.isnan(stats.signal_to_noise_db)
        assert (stats.signal_to_noise_db == math.inf) == (noise == 0)
        if noise:
            ratio = signal / noise
            decibel = 10 * (math.log10(ratio.numerator) - math.log10(ratio.denominator))
            assert stats.signal_to_noise_db == pytest.approx(decibel, abs=1e-4)
            mean = noise / len(x)
            assert stats.mean_square_error == pytest.approx(float(mean) if mean < 2**1023 else math.inf, rel=1e-5)


def test_a_row_of_exact_values_does_not_hide_what_tiny_ones_lose():
    x = torch.cat([torch.full((4096,), 2.0), torch.full((4096,), 1e-25)])
    _, stats = round_with_stats(x, "fp16", overflow="inf")
    assert stats.signal_to_noise_db == pytest.approx(20 * math.log10(2 / float(x[-1])), rel=1e-6)


@pytest.mark.parametrize(
    ("shape", "compiled"),
    [
        *(((), c) for c in (False, True)),
        *(((0,), c) for c in (False, True)),
        *(((1,), c) for c in (False, True)),
        ((4096,), False),
        pytest.param((4096,), True, marks=pytest.mark.slow),  # one piece: as the larger one's last
        *(((3, 5000), c) for c in (False, True)),
    ],
)
def test_shapes_and_out(shape, compiled):
    x = torch.ones(shape, dtype=torch.float64) * 1.1
    out = torch.empty_like(x)
    y, stats = round_with_stats(x, FP16, overflow="inf", out=out, compiled=compiled)
    assert y is out
    assert torch.equal(y, round_to(x, FP16, overflow="inf"))
    assert (stats.numel, stats.non_zero) == (x.numel(), x.numel())
    assert stats.amax == (1.1 if x.numel() else 0.0)


def test_nothing_lost_is_infinitely_good_and_in_place_works():
    x = torch.tensor([[1.0, 2.0], [3.0, 65504.0]])
    y, stats = round_with_stats(x, "fp16", overflow="inf", out=x)
    assert y is x
    assert stats.signal_to_noise_db == math.inf
    assert stats.mean_square_error == 0
    strided = torch.randn(6, 8)[:, ::2]
    out = torch.empty(4, 6).t()
    assert torch.equal(round_with_stats(strided, "bf16", overflow="inf", out=out)[0], strided.bfloat16().float())


def test_bad_input_is_named():
    with pytest.raises(TypeError, match="bfloat16 tensor, got torch.int64"):
        round_with_stats(torch.arange(3), "fp16", overflow="inf")
    with pytest.raises(ValueError, match="a meta tensor has no values to count"):
        round_with_stats(torch.ones(3, device="meta"), "fp16", overflow="inf")
    with pytest.raises(ValueError, match="e4m3fn has no infinity"):
        round_with_stats(torch.ones(3), "e4m3fn", overflow="inf")
    with pytest.raises(ValueError, match="out must be"):
        round_with_stats(torch.ones(3), "fp16", overflow="inf", out=torch.ones(2))
