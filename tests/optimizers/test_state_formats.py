from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlab.formats import BF16, E4M3FN, E5M2, FP16, round_to
from mixlab.formats.random_bits import draw_bits
from mixlab.optimizers import STATE_DTYPES
from mixlab.optimizers.state_formats import dynamic_map, state_format

EIGHT_BIT = [dtype for dtype in STATE_DTYPES if dtype == "dynamic8" or dtype.itemsize == 1]
FORMATS = {torch.float16: FP16, torch.bfloat16: BF16, torch.float8_e4m3fn: E4M3FN, torch.float8_e5m2: E5M2}


def stored(value, fmt, bits=None):
    """Writes a flat state, and returns what is kept."""
    codes = torch.zeros(value.numel(), dtype=fmt.dtype)
    kept = [codes, torch.ones(-(-value.numel() // fmt.block_size))] if fmt.scaled else [codes]
    fmt.write_(value.clone(), bits, *kept)
    return kept


def read_back(value, fmt, bits=None):
    return fmt.read(*stored(value, fmt, bits)).clone()


def spread(numel: int, seed: int = 0, *, signed: bool = True) -> torch.Tensor:
    """Values over twelve decades."""
    generator = torch.Generator().manual_seed(seed)
    value = torch.randn(numel, generator=generator) * 10 ** (torch.rand(numel, generator=generator) * 12 - 9)
    return value if signed else value.abs()


@pytest.mark.parametrize("signed", [True, False])
def test_the_dynamic_map_is_that_of_bitsandbytes_and_torchao(signed):
    from bitsandbytes.functional import create_dynamic_map as bitsandbytes_map
    from torchao.optim.quant_utils import create_dynamic_map as torchao_map

    ours = dynamic_map(signed=signed)
    assert ours.shape == (256,)
    assert torch.equal(ours, bitsandbytes_map(signed=signed))
    assert torch.equal(ours, torch.tensor(torchao_map(signed=signed)))


@pytest.mark.parametrize("signed", [True, False])
def test_dynamic_codes_are_the_nearest_ones(signed):
    value, fmt = spread(10_000, signed=signed), state_format("dynamic8", signed=signed)
    codes, scale = stored(value, fmt)
    scales, values = scale.repeat_interleave(256)[: len(value)], dynamic_map(signed=signed)
    distances = ((value / scales)[:, None].double() - values.double()).abs()
    excess = distances.gather(1, codes.long()[:, None]).squeeze(1) - distances.min(1).values
    assert excess.max() < 1e-7  # float32's own rounding of the middle between two
    assert torch.equal(fmt.read(codes, scale), values[codes.long()] * scales)


@pytest.mark.parametrize("signed", [True, False])
def test_dynamic_codes_are_those_of_bitsandbytes(signed):
    """But bitsandbytes 0.50 takes the second nearest now and then, and near zero others."""
    from bitsandbytes.functional import create_dynamic_map, quantize_blockwise

    value = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    value = value if signed else value.square()
    codes, scale = stored(value, state_format("dynamic8", signed=signed))
    theirs, state = quantize_blockwise(value, code=create_dynamic_map(signed=signed), blocksize=256)
    assert torch.equal(scale, state.absmax)
    apart = (codes.int() - theirs.int()).abs()[value.abs() > 1e-2 * scale.repeat_interleave(256)[: len(value)]]
    assert len(apart) > 7000
    assert (apart > 0).float().mean() < 0.01
    assert apart.max() <= 1


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_scaled_states_equal_a_loop_over_blocks(dtype):
    fmt = state_format(dtype, signed=True, block_size=64)
    value = spread(1000)
    value[128:192] = 0
    codes, scale = stored(value, fmt)
    for number, block in enumerate(value.split(64)):
        amax = block.abs().max()
        factor = amax / torch.finfo(dtype).max if amax > 0 else torch.tensor(1.0)
        assert scale[number] == factor
        wanted = round_to(block / factor, FORMATS[dtype], overflow="saturate")
        assert torch.equal(codes[number * 64 : number * 64 + 64].float(), wanted)
    assert torch.equal(fmt.read(codes, scale), codes.float() * scale.repeat_interleave(64)[:1000])


def test_scaled_states_equal_torchaos():
    from torchao.optim.subclass_fp8 import quantize_fp8

    value = spread(256 * 40)
    codes, scale = stored(value, state_format(torch.float8_e4m3fn, signed=True))
    their_codes, their_scale = quantize_fp8(value, 256)
    assert torch.equal(codes.float(), their_codes.flatten().float())
    assert torch.equal(scale, their_scale)


@pytest.mark.parametrize("dtype", STATE_DTYPES)
@pytest.mark.parametrize("numel", [1, 255, 256, 257, 1000])
def test_bytes_are_those_that_are_kept(dtype, numel):
    fmt = state_format(dtype, signed=True)
    assert fmt.bytes(numel) == sum(tensor.nbytes for tensor in stored(torch.ones(numel), fmt))
    assert fmt.keys("exp_avg") == (("exp_avg", "exp_avg_scale") if fmt.scaled else ("exp_avg",))


@pytest.mark.parametrize("dtype", STATE_DTYPES)
@given(values=st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=70))
@settings(max_examples=40)
def test_what_was_read_is_stored_unchanged(dtype, values):
    """Reading and writing again is the identity, except that a scale's division may round.

    The dynamic map with sign has 1 but not -1, so that a block's amax shrinks if it is negative: it is tried without.
    """
    fmt = state_format(dtype, signed=dtype != "dynamic8", block_size=16)
    value = torch.tensor(values)
    once = read_back(value.abs() if dtype == "dynamic8" else value, fmt)
    twice = read_back(once, fmt)
    if fmt.scaled:
        torch.testing.assert_close(twice, once, rtol=1e-6, atol=0)
    else:
        assert torch.equal(twice, once)


@pytest.mark.parametrize("dtype", [dtype for dtype in STATE_DTYPES if dtype is not torch.float32])
@pytest.mark.parametrize("signed", [True, False])
def test_stochastic_states_are_right_on_average(dtype, signed):
    """The mean of 4096 roundings lies within five standard errors, and one hit of a rare neighbour, of each value."""
    fmt = state_format(dtype, signed=signed, rounding="stochastic", block_size=256)
    value = torch.cat([spread(255, signed=signed).clamp(-1, 1), torch.ones(1)])  # the last one is the block's amax
    many = value.repeat(4096)
    rounded = read_back(many, fmt, draw_bits(many, torch.Generator().manual_seed(1))).view(4096, 256).double()
    bits = torch.zeros(256, dtype=torch.int32)
    away, back = (read_back(value, fmt, b).double() for b in (bits, bits - 1))  # the smallest and the largest draw
    gap = (away - back).abs()
    part = ((value - back) / (away - back)).nan_to_num(0, 0, 0).clamp(0, 1)
    assert ((rounded == away) | (rounded == back)).all()
    sigma = gap * (part * (1 - part) / 4096).sqrt()
    beyond = value < dynamic_map(signed=True)[0] if dtype == "dynamic8" and signed else value.isnan()
    error = (rounded.mean(0) - value).abs()[~beyond]
    assert (error <= (5 * sigma + gap / 4096 + 1e-6 * value.abs())[~beyond]).all()
    assert (gap > 0).sum() > 150


@pytest.mark.parametrize("dtype", STATE_DTYPES)
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_stays_visible_in_its_block(dtype, bad):
    fmt = state_format(dtype, signed=True, block_size=4)
    value = torch.ones(12)
    value[5] = bad
    back = read_back(value, fmt)
    assert torch.equal(back[:4], torch.ones(4))
    assert torch.equal(back[8:], torch.ones(4))
    assert not back[5].isfinite()
    if fmt.scaled:
        assert back[4:8].isnan().all()


@pytest.mark.parametrize("dtype", EIGHT_BIT)
def test_zeros_stay_zeros(dtype):
    assert torch.equal(read_back(torch.zeros(300), state_format(dtype, signed=False)), torch.zeros(300))


def test_names():
    assert str(state_format(torch.bfloat16, signed=True)) == "bf16"
    assert str(state_format(torch.float8_e5m2, signed=True, block_size=128)) == "e5m2/128"
    assert str(state_format("dynamic8", signed=False)) == "dynamic8/256"
