from __future__ import annotations

import pytest
import torch
from torch import nn

from mixlab.memory import GPUS, Needs, Trace, estimate, replay_trace, trace


@pytest.fixture(scope="module")
def traced() -> Trace:
    with torch.device("meta"):
        model, rows = nn.Sequential(nn.Linear(8192, 32768), nn.ReLU(), nn.Linear(32768, 8192)), torch.ones(64, 8192)
    return trace(model, (rows, torch.zeros(64, dtype=torch.long)), "fp32")


def test_what_is_outside_is_the_rough_model_of_estimates_and_the_replay(traced: Trace):
    needs = Needs(traced)
    rough = estimate("gpt2", "fp32").outside
    assert needs.outside == {**rough, "fragmentation": replay_trace(traced).reserved_bytes - traced.peak_bytes}
    assert needs.total_bytes == traced.peak_bytes + sum(needs.outside.values())
    assert repr(needs).splitlines()[-1].split() == ["total", f"{needs.total_bytes / 2**30:.2f}"]


@pytest.mark.parametrize("gpu", GPUS)
def test_it_fits_where_there_is_room(traced: Trace, gpu: str):
    fit = Needs(traced).fits(gpu)
    assert fit.needed == Needs(traced).total_bytes
    assert bool(fit) == (GPUS[gpu].usable_bytes >= fit.needed)


def test_only_a_trace_as_on_cuda_says_it(traced: Trace):
    with pytest.raises(TypeError, match="trace must be a Trace, got int"):
        Needs(3)
    on_cpu = trace(nn.Linear(3, 3), (torch.ones(2, 3), torch.zeros(2, dtype=torch.long)), as_on="cpu")
    with pytest.raises(ValueError, match="trace must be as on CUDA"):
        Needs(on_cpu)
