"""The memory of a training as far as it can be told, without a framework."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mixlab.integrations import StepBytes
from mixlab.integrations.sampled_step import StepWatch
from mixlab.loss_scaling.windows import NO_WINDOW
from mixlab.memory import trace


def watched(model, optimizers, act, *, loss_scale=1.0):
    watch = StepWatch(7, model, optimizers, loss_scale=loss_scale, compiled=False, sample=None)
    act()
    return watch.end()


def plain():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    return model, torch.optim.Adam(model.parameters()), (torch.randn(5, 4), torch.zeros(5, dtype=torch.long))


def test_the_bytes_of_a_step_are_those_of_its_trace():
    model, optimizer, (inputs, targets) = plain()

    def act():
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    seen = watched(model, [optimizer], act)
    content = trace(model, (inputs, targets), as_on="cpu").at_end["step"]
    assert seen.memory == StepBytes(67 * 4, 67 * 4, 2 * 67 * 4, None)
    assert content["parameters"] == seen.memory.parameters
    assert content["exp_avg"] + content["exp_avg_sq"] == seen.memory.states
    assert (seen.step, seen.skipped, seen.loss_scale) == (7, False, 1)
    assert {one.step for one in seen.lost} == {7}
    assert set(seen.metrics()) >= {"mixlab/updates_swallowed", "mixlab/second_moments_stuck", "mixlab/gradient_amax"}


@pytest.mark.parametrize(
    ("peak", "predicted", "line"),
    [
        (None, None, "no peak: a CPU's allocator keeps none"),
        (None, 2**20, "no peak: a CPU's allocator keeps none; predicted 1.00 MiB"),
        (3 * 2**29, None, "peak 1.50 GiB"),
        (3 * 2**29, 2**30, "peak 1.50 GiB; predicted 1.00 GiB, +50.0% measured"),
    ],
)
def test_a_peak_stands_beside_its_prediction(peak, predicted, line):
    prediction = None if predicted is None else SimpleNamespace(peak_bytes=predicted)
    first, last = StepBytes(2048, 100, 3 * 2**20, peak).report(prediction).splitlines()
    assert first == "memory: parameters 2.00 KiB, gradients 100 bytes, states 3.00 MiB"
    assert last.strip() == line


def test_a_step_that_is_not_taken_is_a_skipped_one():
    model, optimizer, (inputs, _) = plain()
    seen = watched(model, [optimizer], lambda: (model(inputs) * 1e30 * 1e30).sum().backward())
    assert seen.skipped
    assert seen.updates is None
    assert seen.window == NO_WINDOW
    assert seen.metrics()["mixlab/skipped"] == 1
    assert seen.metrics()["mixlab/gradient_non_finite"] > 0


def test_the_loss_scale_is_taken_out_of_the_window_and_the_largest_gradient():
    seen = []
    for scale in (1.0, 2.0**11):
        model, optimizer, (inputs, _) = plain()
        step = watched(
            model, [optimizer], lambda m=model, x=inputs, s=scale: (m(x).sum() * s).backward(), loss_scale=scale
        )
        seen.append((step.window, step.metrics()["mixlab/weight_gradient_amax"]))
    assert seen[0] == seen[1]


def test_what_has_no_hooks_is_left_out_and_the_rest_is_watched():
    model, optimizer, (inputs, _) = plain()

    class Foreign:
        state, param_groups = {}, ()

    def act():
        model(inputs).sum().backward()
        optimizer.step()

    seen = watched(model, [Foreign(), optimizer], act)
    assert list(seen.left_out) == ["Foreign"]
    assert "must be a torch.optim.Optimizer, got Foreign" in seen.left_out["Foreign"]
    assert len(seen.lost) == 4


@pytest.mark.gpu
def test_the_peak_is_that_of_cudas_allocator():
    model = nn.Linear(1024, 1024).cuda()
    seen = watched(
        model, [torch.optim.SGD(model.parameters())], lambda: model(torch.ones(2, 1024).cuda()).sum().backward()
    )
    assert seen.memory.peak == torch.cuda.max_memory_allocated() >= 2 * seen.memory.parameters
    assert seen.metrics()["mixlab/peak_bytes"] == seen.memory.peak
