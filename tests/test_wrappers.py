"""Which optimizer is inside a wrapper, and what is none."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mixlab.optimizers import read_state, state_bytes, state_tensors
from mixlab.wrappers import unwrapped


class Holding(torch.optim.Optimizer):
    """Keeps another optimizer under a name, and calls no Optimizer.__init__."""

    def __init__(self, name, inner, groups=None):
        self.state = {}
        self.param_groups = inner.param_groups if groups is None else groups
        setattr(self, name, inner)


def stepped():
    parameter = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter])
    parameter.grad = torch.ones(3)
    optimizer.step()
    return parameter, optimizer


@pytest.mark.parametrize("name", ["optimizer", "optim", "_base_optimizer", "base_optimizer"])
@pytest.mark.parametrize("times", [0, 1, 3])
def test_wrappers_are_opened(name, times):
    parameter, inner = stepped()
    wrapped = inner
    for _ in range(times):
        wrapped = Holding(name, wrapped)
    assert unwrapped(wrapped) is inner
    assert state_bytes(wrapped) == state_bytes(inner) == 24
    assert [n for n, _ in state_tensors(wrapped, parameter)] == ["exp_avg", "exp_avg_sq"]
    assert torch.equal(read_state(wrapped, parameter, "exp_avg"), read_state(inner, parameter, "exp_avg"))


def test_an_optimizer_that_has_another_for_other_parameters_is_no_wrapper():
    _, inner = stepped()
    both = Holding("optimizer", inner, [{"params": [nn.Parameter(torch.ones(2))]}])
    assert unwrapped(both) is both
    circle = Holding("optimizer", inner)
    circle.optimizer = circle
    assert unwrapped(circle) is circle
    assert unwrapped(None) is None


def test_states_in_lists_are_found_and_counted():
    parameter = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([parameter])
    optimizer.state[parameter] = {"step": 1, "Q": [torch.ones(2), (torch.ones(5),)], "scale": 0.5, "none": None}
    assert [(name, value.numel()) for name, value in state_tensors(optimizer)] == [("Q", 2), ("Q", 5)]
    assert state_bytes(optimizer) == 28


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float8_e4m3fn, torch.float8_e5m2, torch.int8])
def test_codes_without_their_scale_are_no_values(dtype):
    parameter, optimizer = stepped()
    optimizer.state[parameter]["exp_avg"] = torch.ones(3).to(dtype)
    with pytest.raises(TypeError, match=f"'exp_avg' holds codes in {dtype}, which only AdamW reads"):
        read_state(optimizer, parameter, "exp_avg")
