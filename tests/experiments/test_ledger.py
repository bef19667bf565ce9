from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mixlab import PRESETS, Recipe, Task, load_task
from mixlab.experiments import Ledger, dtype_ledger
from mixlab.figures import ledger_bars
from mixlab.training.optimizers import storage_of

GPT = 834_304


@pytest.fixture(scope="module")
def ledgers() -> dict[str, Ledger]:
    return {name: dtype_ledger(load_task("chars-gpt"), recipe, device="cpu") for name, recipe in PRESETS.items()}


@pytest.mark.parametrize(
    ("recipe", "bytes_each"),
    [
        ("fp32", 16),
        ("tf32", 16),
        ("amp-fp16", 16),
        ("amp-bf16", 16),
        ("fp16", 8),
        ("bf16", 8),
        ("bf16-sr", 8),
        ("bf16-kahan", 10),
        ("fp16-master", 18),
        ("bf16-master", 18),
        ("lean-bf16", 12),
    ],
)
def test_bytes_per_parameter(ledgers, recipe, bytes_each):
    assert ledgers[recipe].numel == GPT
    assert ledgers[recipe].bytes_per_parameter == bytes_each


def test_the_zero_papers_recipe_has_16_bytes():
    assert dtype_ledger(load_task("digits-cnn"), Recipe.parse("bf16-master,gradients=bf16")).bytes_per_parameter == 16


@pytest.mark.parametrize(
    ("states", "formats"),
    [
        ("exp_avg=dynamic8,exp_avg_sq=dynamic8", ("dynamic8", "dynamic8")),
        ("exp_avg=e4m3fn,exp_avg_sq=bf16", ("e4m3fn", "bf16")),
    ],
)
def test_states_in_8_bits_cost_what_their_formats_say(states, formats):
    recipe = Recipe.parse(f"amp-bf16,{states}")
    ledger = dtype_ledger(load_task("digits-cnn"), recipe)
    assert (ledger.format_of("exp_avg"), ledger.format_of("exp_avg_sq")) == formats
    sizes = [p.numel() for p in load_task("digits-cnn").make_model().parameters()]
    for name in ("exp_avg", "exp_avg_sq"):
        kept = ledger.bytes_of(name) + ledger.bytes_of(f"scales of {name}")
        assert kept == sum(getattr(storage_of(recipe), name).bytes(size) for size in sizes)


def test_every_kind_is_in_the_format_that_the_recipe_says(ledgers):
    for name, ledger in ledgers.items():
        recipe = PRESETS[name]
        wanted = {
            "parameters": str(recipe.weights),
            "gradients": str(recipe.gradients),
            "exp_avg": str(recipe.exp_avg),
            "exp_avg_sq": str(recipe.exp_avg_sq),
            "master weights": "fp32" if recipe.master_weights else "",
            "Kahan compensation": str(recipe.weights) if recipe.update == "kahan" else "",
            "weights cast by autocast": str(recipe.compute) if recipe.autocast else "",
        }
        assert {what: ledger.format_of(what) for what in wanted} == wanted, name


def test_autocast_keeps_a_copy_of_the_weights_that_it_multiplies(ledgers):
    """Those of the Linear layers of four blocks and of the head; biases backward does not need."""
    block = 128 * 384 + 128 * 128 + 2 * 128 * 512
    assert ledgers["amp-bf16"].bytes_of("weights cast by autocast") == 2 * (4 * block + 128 * 128)


def test_activations_halve_in_16_bits_and_the_whole_shrinks(ledgers):
    saved = {name: ledger.bytes_of("activations saved for backward") for name, ledger in ledgers.items()}
    assert saved["tf32"] == saved["fp32"]
    assert 0.5 <= saved["bf16"] / saved["fp32"] < 0.51
    assert 0.5 < saved["amp-bf16"] / saved["fp32"] < 0.6
    assert ledgers["amp-bf16"].bytes < ledgers["fp32"].bytes


def test_momentum_of_sgd():
    ledger = dtype_ledger(load_task("digits-mlp"), Recipe.parse("lean-bf16"))
    assert (ledger.format_of("momentum"), ledger.bytes_per_parameter) == ("bf16", 8)


def test_it_shows_itself(ledgers):
    lines = repr(ledgers["lean-bf16"]).splitlines()
    assert lines[0] == "lean-bf16 on chars-gpt: 834,304 parameters, 12 bytes each"
    assert lines[2].split() == ["parameters", "fp32", "834,304", "3,337,216", "4"]
    shown = re.sub(r"</?abbr[^>]*>", "", ledgers["lean-bf16"]._repr_html_())
    assert "<td>exp_avg_sq</td><td>fp32</td>" in shown


def test_a_scale_that_never_works_leaves_an_optimizer_without_states():
    ledger = dtype_ledger(load_task("digits-cnn"), "amp-fp16,scaler=static,scale=2^60", device="cpu")
    assert not ledger.stepped
    assert ledger.bytes_per_parameter == 8
    assert {entry.what for entry in ledger.states} == {"parameters", "gradients"}
    assert "8 bytes each; all 61 steps were skipped: no optimizer states yet" in repr(ledger)
    (bar_end,) = ledger_bars({"never": ledger}).layout.annotations
    assert bar_end.text == "<b>8</b>, no step taken"


class Segment(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.first, self.wide, self.narrow = nn.Linear(64, 16), nn.Linear(16, 100), nn.Linear(100, 10)
        self.reentrant = reentrant

    def forward(self, x):
        return checkpoint(lambda y: self.narrow(torch.tanh(self.wide(y))), self.first(x), use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_a_checkpoint_computes_again_is_not_kept(reentrant):
    task = replace(load_task("digits-mlp"), make_model=lambda: Segment(reentrant))
    ledger = dtype_ledger(task, Recipe(), device="cpu")
    # The input, what the checkpoint keeps, and the loss's log-softmax and weight of the batch: none of the segment.
    assert ledger.bytes_of("activations saved for backward") == 4 * (64 * 64 + 64 * 16 + 64 * 10 + 1)


def test_a_sparse_gradient_costs_its_values_and_indices():
    task = Task(
        "table",
        lambda: nn.Sequential(nn.Embedding(1000, 10, sparse=True)),
        lambda generator: (torch.tensor([3, 3, 5]), torch.tensor([1, 2, 3])),
        (torch.tensor([3]), torch.tensor([1])),
        lambda parameters, lr: torch.optim.SGD(parameters, lr),
    )
    ledger = dtype_ledger(task, Recipe(), device="cpu")
    assert (ledger.format_of("gradients"), ledger.bytes_of("gradients")) == ("fp32", 4 * 3 * 10)
    assert ledger.bytes_of("indices of sparse gradients") == 8 * 3
    assert ledger.bytes_of("parameters") == 40_000


def test_shared_and_frozen_parameters_count_once_and_without_states():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.frozen = nn.Linear(64, 10), nn.Linear(64, 10), nn.Linear(10, 10)
            self.b.weight = self.a.weight
            self.frozen.requires_grad_(False)

        def forward(self, x):
            return self.frozen(self.a(x) + self.b(x))

    task = replace(load_task("digits-cnn"), make_model=Shared, draw=load_task("digits-mlp").draw)
    ledger = dtype_ledger(task, Recipe(), device="cpu")
    trained = 640 + 10 + 10
    assert ledger.numel == trained + 110
    assert [ledger.bytes_of(what) for what in ("gradients", "exp_avg", "exp_avg_sq")] == [4 * trained] * 3
