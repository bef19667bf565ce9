from __future__ import annotations

from itertools import product

import pytest
import torch

from mixlab import PRESETS, Recipe, load_task
from mixlab.experiments import dtype_ledger
from mixlab.memory import model_states
from mixlab.optimizers import SGD, AdamW, state_tensors
from mixlab.recipes import STATES
from mixlab.training.optimizers import storage_of

ALL = (
    *PRESETS,
    "bf16-master,gradients=bf16",
    "bf16-kahan,exp_avg=dynamic8,exp_avg_sq=fp32",
    "bf16-sr,exp_avg=e5m2,exp_avg_sq=fp16,block_size=64,state_rounding=stochastic",
)


def stored(ledger):
    """Returns bytes by kind as they are really stored."""
    return {entry.what: ledger.bytes_of(entry.what) for entry in ledger.states if entry.bytes}


@pytest.mark.parametrize("task", ["digits-cnn", "digits-mlp"])
@pytest.mark.parametrize("text", ALL)
def test_every_recipe_is_counted_as_it_is_stored(text, task):
    job, recipe = load_task(task), Recipe.parse(text)
    numels = [p.numel() for p in job.seeded_model(0).parameters()]
    counted = model_states(recipe, numels, optimizer="sgd" if job.optimizer == "sgd" else "adam")
    ledger = dtype_ledger(job, recipe, device="cpu")
    assert dict(counted.parts) == stored(ledger)
    assert counted.formats == {entry.what: ledger.format_of(entry.what) for entry in ledger.states if entry.bytes}
    assert counted.bytes_per_parameter == ledger.bytes_per_parameter


@pytest.mark.parametrize(("exp_avg", "exp_avg_sq"), list(product(STATES, STATES)))
def test_every_pair_of_state_formats_to_the_byte(exp_avg, exp_avg_sq):
    recipe = Recipe(exp_avg=exp_avg, exp_avg_sq=exp_avg_sq)
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((3, 100), (1,), (256,), (2, 257))]
    for make, name in ((AdamW, "adam"), (SGD, "sgd")):
        knobs = {"momentum": 0.9} if name == "sgd" else {}
        optimizer = make(parameters, lr=1e-3, storage=storage_of(recipe), **knobs)
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        kept = sum(state.nbytes for _, state in state_tensors(optimizer))
        counted = model_states(recipe, [p.numel() for p in parameters], optimizer=name)
        states = sum(size for part, size in counted.parts.items() if part not in ("parameters", "gradients"))
        assert states == kept


@pytest.mark.parametrize(
    ("text", "each"),
    [("fp32", 16), ("bf16-master,gradients=bf16", 16), ("bf16-sr,exp_avg=dynamic8,exp_avg_sq=dynamic8", 6 + 8 / 256)],
)
def test_bytes_per_parameter_of_whole_blocks(text, each):
    assert model_states(Recipe.parse(text)).bytes_per_parameter == each


def test_adamw_keeps_what_adam_keeps():
    for name, recipe in PRESETS.items():
        assert model_states(name, [64, 7], optimizer="adamw") == model_states(recipe, [64, 7], optimizer="adam")


def test_it_reads_as_a_table():
    states = model_states(PRESETS["bf16-kahan"])
    assert repr(states).splitlines()[0] == "bf16-kahan: 10 bytes per parameter"
    assert "Kahan compensation" in states._repr_html_()


def test_mistakes_are_named():
    with pytest.raises(TypeError, match=r"a recipe must be a Recipe or its text, such as 'amp-fp16', got 32"):
        model_states(32)
    with pytest.raises(ValueError, match=r"optimizer must be one of sgd, adam, adamw, got 'lion'"):
        model_states(PRESETS["fp32"], optimizer="lion")
    for numels in ([], [0], [1.5], [True]):
        with pytest.raises(ValueError, match=r"numels must be whole numbers from 1 up, at least one, got"):
            model_states(PRESETS["fp32"], numels)
