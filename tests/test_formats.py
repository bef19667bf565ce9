from __future__ import annotations

import dataclasses

import ml_dtypes
import numpy as np
import pytest
import torch

from mixlab import BF16, E4M3FN, E5M2, FORMATS, FP16, FP32, TF32, Format

STORED = [fmt for fmt in FORMATS.values() if fmt.dtype is not None]
ML_DTYPES = {
    "fp32": np.float32,
    "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "e4m3fn": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
}


@pytest.mark.parametrize("fmt", STORED, ids=str)
def test_limits_equal_torch_and_ml_dtypes(fmt):
    theirs, numpys = torch.finfo(fmt.dtype), ml_dtypes.finfo(ML_DTYPES[fmt.name])
    assert fmt.bits == theirs.bits == numpys.bits
    assert fmt.max == theirs.max == float(numpys.max)
    assert fmt.smallest_normal == theirs.smallest_normal == float(numpys.smallest_normal)
    assert fmt.eps == theirs.eps == float(numpys.eps)
    assert fmt.smallest_subnormal == float(numpys.smallest_subnormal)
    assert (fmt.exponent_bits, fmt.mantissa_bits) == (numpys.nexp, numpys.nmant)


def test_the_textbook_numbers():
    assert FP16.max == 65504
    assert FP16.smallest_normal == 2.0**-14
    assert FP16.smallest_subnormal == 2.0**-24
    assert BF16.eps == 2.0**-7
    assert BF16.unit_roundoff == 2.0**-8
    assert E4M3FN.max == 448
    assert E5M2.max == 57344
    assert (TF32.bits, TF32.eps, TF32.smallest_normal) == (19, FP16.eps, FP32.smallest_normal)


def test_parse_finds_names_and_builds_any_exey():
    assert Format.parse("bf16") is BF16
    parsed = Format.parse("e5m10")
    assert dataclasses.replace(parsed, name="fp16") == FP16
    assert Format.parse("e2m1").max == 3.0  # ieee: the highest exponent is reserved
    assert str(parsed) == "e5m10"


@pytest.mark.parametrize("text", ["fp17", "e9m3", "e1m3", "e5m24", "e5m0", "e5", "", "FP16", None, 16])
def test_parse_refuses_what_is_no_format(text):
    with pytest.raises(ValueError, match=r"fp16|from 2 to 8|from 1 to 23"):
        Format.parse(text)


def test_formats_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        FP16.mantissa_bits = 11
