from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from mixlab.formats import FP16, accumulate


@pytest.mark.parametrize(("fmt", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16), ("fp32", torch.float32)])
@pytest.mark.parametrize("value", [1e-3, -0.3, 3e-8, 40.0])
def test_every_partial_sum_is_torchs(fmt: str, dtype: torch.dtype, value: float):
    step, total = torch.tensor(value, dtype=dtype), torch.zeros((), dtype=dtype)
    native = []
    for _ in range(2000):
        total = total + step
        native.append(total.double())
    assert torch.equal(accumulate(value, 2000, fmt, overflow="inf"), torch.stack(native))


def test_every_partial_sum_in_8_bits_is_ml_dtypes():
    step, total = np.float32(0.1).astype(ml_dtypes.float8_e4m3), np.float32(0).astype(ml_dtypes.float8_e4m3)
    native = []
    for _ in range(100):
        total = (total.astype(np.float32) + step.astype(np.float32)).astype(ml_dtypes.float8_e4m3)
        native.append(float(total))
    assert accumulate(0.1, 100, "e4m3", overflow="inf").tolist() == native


def test_a_sum_that_leaves_the_range_is_inf_or_stays():
    assert accumulate(60000.0, 3, "fp16", overflow="inf").tolist() == [60000, torch.inf, torch.inf]
    assert accumulate(300.0, 3, "e4m3fn", overflow="saturate").tolist() == [288, 448, 448]


def test_a_sum_that_stands_still_is_written_to_the_end():
    whole = accumulate(0.01, 3000, "bf16", overflow="inf")
    assert whole[-1] == whole[1000] == 4
    assert torch.equal(whole[:1000], accumulate(0.01, 1000, "bf16", overflow="inf"))


def test_toward_zero_stops_where_the_gap_is_larger_than_the_step():
    stop = accumulate(1e-3, 10_000, "fp16", overflow="inf", rounding="toward_zero")[-1].item()
    assert stop == 2
    assert FP16.ulp(stop) > 1e-3 > FP16.ulp(stop / 2)


def test_stochastic_sums_are_right_on_average():
    """40 sums of 400: their mean within 4 sigma of that of the stored value, sigma from the sums themselves."""
    generator = torch.Generator().manual_seed(1)
    ends = torch.stack(
        [
            accumulate(1e-3, 400, "bf16", overflow="inf", rounding="stochastic", generator=generator)[-1]
            for _ in range(40)
        ]
    )
    stored = torch.tensor(1e-3).bfloat16().item()
    assert abs(ends.mean() - 400 * stored) < 4 * ends.std() / 40**0.5
    assert ends.std() > 0.01


def test_a_seed_gives_the_same_sums_again():
    first, again = (
        accumulate(0.01, 500, "bf16", overflow="inf", rounding="stochastic", generator=torch.Generator().manual_seed(7))
        for _ in range(2)
    )
    assert torch.equal(first, again)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((torch.inf, 3, "fp16"), "value must be a finite number, got inf"),
        (("1", 3, "fp16"), "value must be a finite number, got '1'"),
        ((10**400, 3, "fp16"), "accumulate: value must fit float64, got a whole number of 401 digits"),
        ((-(10**5000), 3, "fp16"), "accumulate: value must fit float64, got a whole number of 5001 digits"),
        ((1.0, 0, "fp16"), "count must be a whole number from 1 up, got 0"),
        ((1.0, 2.0, "fp16"), "count must be a whole number from 1 up, got 2.0"),
        ((1.0, 2, "fp17"), "unknown format 'fp17'"),
        ((1.0, 2, "e8m0fnu"), "e8m0fnu is a scale"),
    ],
)
def test_wrong_arguments_are_refused(arguments: tuple[Any, ...], says: str):
    with pytest.raises(ValueError, match=says):
        accumulate(*arguments, overflow="saturate")
