"""Other libraries' AdamWs: they train, they say what they lack, and their states are counted."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest
import torch
from torch import nn

from mixlab import Recipe, Trainer, load_task
from mixlab.memory import model_states
from mixlab.optimizers import BACKENDS, AdamW, backend, read_state, state_bytes
from mixlab.optimizers.choices import BACKEND_NAMES
from mixlab.probes import track_updates
from mixlab.training.optimizers import storage_of

# torchao compiles its step, and its states lack what torch's cache would like.
pytestmark = pytest.mark.filterwarnings("ignore:OptimState.*_stable_hash_for_caching", "ignore::DeprecationWarning")

SIZE = 256 * 64  # parameters of the linear map below
SLOW = ("torchao 8-bit", "torchao 4-bit", "torchao fp8")  # they compile for seconds


def fitted(make, dtype=torch.float32, steps=60):
    """Returns the mean squared error after fitting a linear map, and the optimizer."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(512, 256, generator=generator)
    targets = inputs @ torch.randn(256, 64, generator=generator) / 16
    weight = nn.Parameter(torch.zeros(256, 64, dtype=dtype))
    optimizer = make([weight], 3e-3)
    for _ in range(steps):
        loss = (inputs.to(dtype) @ weight - targets.to(dtype)).float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return float(loss.detach()), optimizer


def test_every_name_has_its_backend():
    assert tuple(BACKENDS) == BACKEND_NAMES


@pytest.mark.parametrize("name", [name for name in BACKENDS if name not in SLOW])
def test_every_backend_fits_a_linear_map(name):
    one = backend(name)
    assert one.installed
    exact, _ = fitted(backend("torch loop"))
    loss, _ = fitted(one, one.weights)
    assert loss == pytest.approx(exact, rel=0.1 if "8-bit" in name or one.weights == torch.bfloat16 else 1e-3)
    assert exact < 0.3


def test_ours_and_the_others_8_bit_states_end_near_each_other():
    kept = storage_of(Recipe.parse("fp32,exp_avg=dynamic8,exp_avg_sq=dynamic8"))
    ours, optimizer = fitted(lambda p, lr: AdamW(p, lr, storage=kept))
    for name in ("bitsandbytes 8-bit", "torchao 8-bit"):
        theirs, peer = fitted(backend(name))
        assert ours == pytest.approx(theirs, rel=0.05)
        assert state_bytes(optimizer) == state_bytes(peer) == SIZE * 2 + 2 * 4 * SIZE // 256


@pytest.mark.parametrize(
    ("name", "each"),
    [("torch fused", 8), ("bitsandbytes 32-bit", 8), ("optimi", 8), ("optimi bf16 kahan", 6)],
)
def test_states_are_counted(name, each):
    _, optimizer = fitted(backend(name), backend(name).weights, steps=1)
    assert state_bytes(optimizer) == each * SIZE


@pytest.mark.parametrize("text", ["fp32", "bf16-master", "bf16-kahan", "fp32,exp_avg=e5m2,exp_avg_sq=bf16"])
def test_our_states_are_counted_as_the_calculator_does(text):
    recipe = Recipe.parse(text)
    _, optimizer = fitted(lambda p, lr: AdamW(p, lr, storage=storage_of(recipe)), recipe.weights.dtype, steps=1)
    parts = model_states(recipe, [SIZE]).parts
    assert state_bytes(optimizer) == sum(
        size for name, size in parts.items() if name not in ("parameters", "gradients")
    )


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in BACKENDS]
)
def test_every_backend_is_watched_and_its_moments_are_values_never_codes(name):
    one, model = backend(name), nn.Linear(256, 64, bias=False)
    model.to(one.weights)
    optimizer = one(model.parameters(), 1e-3)
    exact = nn.Parameter(model.weight.detach().float().clone())
    reference = torch.optim.AdamW([exact], lr=1e-3)
    with track_updates(model, optimizer) as lost:
        for step in range(2):
            model.weight.grad = torch.randn(64, 256, generator=torch.Generator().manual_seed(step)).to(one.weights)
            exact.grad = model.weight.grad.float()
            optimizer.step()
            reference.step()
    assert [entry.swallowed.of for entry in lost] == [SIZE] * 2
    assert lost["weight"][0].swallowed.lost <= SIZE // (2 if "bf16" in name else 1000)
    if name.startswith("torch"):
        moment = read_state(optimizer, model.weight, "exp_avg")
        assert type(moment) is torch.Tensor
        coarse = float(reference.state[exact]["exp_avg"].abs().max()) * (0.3 if "4-bit" in name else 0.1)
        torch.testing.assert_close(moment, reference.state[exact]["exp_avg"], rtol=0, atol=coarse)


def test_a_backend_trains_a_task():
    task = replace(load_task("digits-cnn"), optimizer=backend("bitsandbytes 8-bit"))
    trainer = Trainer(task, Recipe.parse("amp-bf16"), device="cpu")
    records = list(trainer.steps(60))
    assert type(trainer.optimizer).__module__.startswith("bitsandbytes")
    assert records[-1].loss < records[0].loss / 2


def test_what_is_not_there_is_named(monkeypatch):
    with pytest.raises(ValueError, match="unknown optimizer backend 'apex': use one of torch fused, torch foreach,"):
        backend("apex")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not backend("optimi").installed
    with pytest.raises(ModuleNotFoundError, match="optimi needs optimi; pip install torch-optimi"):
        backend("optimi")([], 1e-3)
    with pytest.raises(ModuleNotFoundError, match="torchao 8-bit needs torchao; pip install torchao"):
        backend("torchao 8-bit")([], 1e-3)
