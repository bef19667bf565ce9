from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixlab.formats import BF16, FP16, FP32
from mixlab.probes import swallowed, swallowed_by_layer, swallowed_in_all


@given(st.floats(-4, 4, width=32), st.floats(-1, 1, width=32), st.sampled_from([np.float16, np.float32]))
def test_a_single_update_against_numpy(weight, update, dtype):
    fmt = {np.float16: FP16, np.float32: FP32}[dtype]
    with np.errstate(all="ignore"):
        stored = dtype(weight)
        lost = update != 0 and dtype(np.float32(stored) + np.float32(update)) == stored
    assert swallowed(torch.tensor([weight]), torch.tensor([update]), fmt) == float(lost)


def test_the_share_is_that_of_the_updates_that_were_meant():
    weights, updates = torch.ones(4), torch.tensor([0.0, 1e-4, 1e-1, 0.0])
    assert swallowed(weights, updates, BF16) == 0.5
    assert swallowed(weights, torch.zeros(4), BF16) == 0.0


def test_by_layer_from_the_weights_before_and_after():
    before = {"a": torch.ones(2), "b": torch.full((2,), 0.01)}
    after = {name: weight - 1e-4 for name, weight in before.items()}
    assert swallowed_by_layer(before, after, "bf16") == {"a": 1.0, "b": 0.0}
    assert swallowed_in_all(before, after, "bf16") == 0.5


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"weights \(2,\) and updates \(3,\) differ in shape"):
        swallowed(torch.ones(2), torch.ones(3), "bf16")
