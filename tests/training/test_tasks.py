from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD, AdamW

from mixlab import PRESETS, TASKS, Recipe, Task, Trainer, load_task
from mixlab.training import TinyGPT, accuracy, tasks
from mixlab.training.tasks import _LOADERS, step_seed


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_whole_and_seeded(name):
    task = load_task(name)
    assert task.name == name
    state = torch.get_rng_state()
    first, again, other = task.seeded_model(0), task.seeded_model(0), task.seeded_model(1)
    assert torch.equal(torch.get_rng_state(), state)
    parameters = [torch.cat([p.flatten() for p in model.parameters()]) for model in (first, again, other)]
    assert torch.equal(parameters[0], parameters[1])
    assert not torch.equal(parameters[0], parameters[2])
    for left, right in zip(task.batch(0, 5), task.batch(0, 5), strict=True):
        assert torch.equal(left, right)
    assert not torch.equal(task.batch(0, 5)[0], task.batch(0, 6)[0])
    assert not torch.equal(task.batch(0, 5)[0], task.batch(1, 5)[0])
    loss, accuracy = task.loss_and_metric(first, task.held_out)
    assert float(loss.detach()) == pytest.approx(
        math.log(10 if "digits" in name else 128), rel=0.2
    )  # knows nothing yet
    assert 0 <= float(accuracy) <= 1


def test_held_out_rows_are_not_trained_on():
    task = load_task("digits-mlp")
    held_out = {row.numpy().tobytes() for row in task.held_out[0]}
    seen = {row.numpy().tobytes() for step in range(50) for row in task.batch(0, step)[0]}
    assert len(seen) > 1000
    assert not held_out & seen


def test_the_gpt_predicts_the_next_character():
    inputs, targets = load_task("chars-gpt").batch(0, 0)
    assert inputs.shape == targets.shape == (16, 64)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert sum(p.numel() for p in TinyGPT().parameters()) == 834_304


def test_the_gpt_is_causal():
    model = load_task("chars-gpt").seeded_model(0)
    tokens = torch.randint(128, (1, 64))
    changed = tokens.clone()
    changed[0, 40] = (changed[0, 40] + 1) % 128
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :40], after[:, :40])
    assert not torch.equal(before[:, 40], after[:, 40])


def test_sgd_undoes_the_loss_weight_and_adam_need_not():
    sgd, adam = load_task("digits-mlp", loss_weight=1e-6), load_task("chars-gpt", loss_weight=1e-6)
    optimizer = sgd.make_optimizer(sgd.seeded_model(0), Recipe())
    assert isinstance(optimizer, SGD)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e5)
    optimizer = adam.make_optimizer(adam.seeded_model(0), Recipe())
    assert isinstance(optimizer, AdamW)
    assert optimizer.param_groups[0]["lr"] == 1e-3


def test_step_seeds_differ():
    purposes = ("", "update", "forward", "held_out")
    seeds = {step_seed(seed, step, purpose) for seed in range(30) for step in range(30) for purpose in purposes}
    assert len(seeds) == 3600


def test_the_seeds_of_batches_are_those_of_the_shipped_records():
    assert [step_seed(0, step) for step in range(2)] == SEEDS_OF_BATCHES


SEEDS_OF_BATCHES = [7896617691693857887, 2918264622725855778]


def test_torchs_own_optimizer_serves_where_it_stores_as_asked():
    task = load_task("digits-cnn")
    own = {
        name for name, r in PRESETS.items() if type(task.make_optimizer(task.seeded_model(0), r)) is torch.optim.Adam
    }
    assert own == {"fp32", "tf32", "amp-fp16", "amp-bf16", "fp16", "bf16"}


def test_an_optimizer_of_your_own_trains():
    task = replace(load_task("digits-cnn"), optimizer=lambda parameters, lr: torch.optim.NAdam(parameters, lr=2 * lr))
    trainer = Trainer(task, Recipe.parse("amp-bf16"), device="cpu")
    records = list(trainer.steps(40))
    assert isinstance(trainer.optimizer, torch.optim.NAdam)
    assert trainer.optimizer.param_groups[0]["lr"] == 2 * task.lr
    assert records[-1].loss < records[0].loss / 2


def test_an_optimizer_of_your_own_decides_what_it_stores():
    task = replace(load_task("digits-cnn"), optimizer=lambda parameters, lr: torch.optim.NAdam(parameters, lr=lr))
    for allowed in ("fp32", "amp-fp16", "bf16"):
        Trainer(task, Recipe.parse(allowed), device="cpu")
    with pytest.raises(
        ValueError, match="your own optimizer chooses its storage, but recipe lean-bf16 prescribes one; use a recipe"
    ):
        Trainer(task, Recipe.parse("lean-bf16"), device="cpu")
    with pytest.raises(TypeError, match=r"optimizer must return a torch.optim.Optimizer, got list"):
        Trainer(replace(task, optimizer=lambda parameters, lr: list(parameters)), Recipe(), device="cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"optimizer": "lion"},
            r"optimizer must be one of sgd, adam, adamw, or a function of \(parameters, lr\), got 'lion'",
        ),
        ({"lr": 0}, "lr must be a positive finite number, got 0"),
        ({"lr": math.nan}, "lr must be a positive finite number, got nan"),
        ({"loss_weight": -1.0}, "loss_weight must be a positive finite number, got -1.0"),
        ({"loss_weight": "1"}, "loss_weight must be a positive finite number, got '1'"),
    ],
)
def test_bad_input_is_named(change, message):
    task = load_task("digits-mlp")
    with pytest.raises(ValueError, match=message):
        Task("mine", task.make_model, task.draw, task.held_out, **change)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.Sequential(nn.Linear(64, 8), nn.Linear(8, 10).double()), "got torch.float64 in 1.weight"),
        (lambda: nn.Sequential(nn.LazyLinear(10)), "0.weight has none, because its lazy module was not called"),
        (lambda: nn.Sequential(nn.LazyBatchNorm1d(affine=False)), "0.running_mean has none, because its lazy module"),
        (lambda: nn.Sequential(nn.Linear(64, 10, device="meta")), "0.weight has none, because it is on the meta"),
    ],
)
def test_a_model_that_cannot_be_stored_is_named_with_the_parameter(make, words):
    task = replace(load_task("digits-mlp"), make_model=make)
    with pytest.raises(TypeError, match=words):
        task.seeded_model(0)


class Returns(nn.Module):
    def __init__(self, convert) -> None:
        super().__init__()
        self.linear, self.convert = nn.Linear(64, 10), convert

    def forward(self, x):
        return self.convert(self.linear(x))


@pytest.mark.parametrize(
    ("convert", "words"),
    [
        (
            lambda x: {"scores": x},
            r"a model must return logits, one floating tensor \(B, C\) .*; got .* a dict of scores",
        ),
        (lambda x: (x, x), "got an output that is a tuple of 2"),
        (lambda x: x.argmax(-1), r"got an output that is torch.int64 \(64,\) for targets torch.int64 \(64,\)"),
        (lambda x: x[:, 0], r"torch.float32 \(64,\) for targets torch.int64 \(64,\)"),
        (lambda x: x[:3], r"torch.float32 \(3, 10\) for targets torch.int64 \(64,\)"),
    ],
)
def test_a_model_that_returns_no_logits_is_named(convert, words):
    task = replace(load_task("digits-mlp"), make_model=lambda: Returns(convert))
    with pytest.raises(TypeError, match=words):
        task.loss_and_metric(task.seeded_model(0), task.batch(0, 0))


def test_an_optimizer_that_needs_a_closure_is_named():
    task = replace(load_task("digits-mlp"), optimizer=lambda parameters, lr: torch.optim.LBFGS(parameters, lr))
    with pytest.raises(TypeError, match=r"LBFGS.step needs a closure, which evaluates the model again"):
        Trainer(task, Recipe(), device="cpu")


def test_an_unknown_task_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown task 'mnist': use one of digits-mlp, digits-cnn, chars-gpt"):
        load_task("mnist")


def test_every_name_of_a_task_has_its_function_in_the_same_order():
    assert tuple(_LOADERS) == TASKS


def test_the_digits_are_scikit_learns_and_do_not_import_it(monkeypatch):
    from sklearn import datasets

    expected = datasets.load_digits()
    with monkeypatch.context() as alone:
        alone.setattr(datasets, "load_digits", None)
        read = tasks._digits_table()
    assert read.shape == (1797, 65)
    assert (read[:, :-1] == expected.data).all()
    assert (read[:, -1] == expected.target).all()
    monkeypatch.setattr(tasks, "_DIGITS_FILE", "elsewhere.csv.gz")  # a scikit-learn that keeps them elsewhere
    assert (tasks._digits_table() == read).all()


X, CLASSES = torch.arange(128.0).view(2, 64), torch.tensor([0, 1])


def small(**fields):
    return Task("small", lambda: nn.Linear(64, 3), lambda generator: (X, CLASSES), (X, CLASSES), **fields)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({}, "accuracy"),
        ({"loss": F.cross_entropy}, "accuracy"),
        ({"loss": nn.CrossEntropyLoss(label_smoothing=0.1)}, "accuracy"),
        ({"loss": partial(F.cross_entropy, ignore_index=0)}, "accuracy"),
        ({"loss": lambda output, targets: output.sum()}, ""),
        ({"loss": nn.MultiMarginLoss()}, ""),
        ({"loss": nn.MultiMarginLoss(), "metric": accuracy}, "accuracy"),
        ({"metric": lambda output, targets: 1}, "metric"),
        ({"metric": nn.L1Loss()}, "L1Loss"),
        ({"held_out": (X, X[:, :3].softmax(-1))}, ""),
        ({"held_out": {"input": X}}, ""),
    ],
)
def test_a_metric_has_the_name_of_its_function_and_an_accuracy_needs_classes(fields, name):
    assert replace(small(), **fields).metric_name == name


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (lambda output, targets: 0.5, 0.5),
        (lambda output, targets: True, 1.0),
        (lambda output, targets: np.float32(0.25), 0.25),
        (lambda output, targets: torch.tensor([3]), 3.0),
        (lambda output, targets: output.sum() * math.nan, math.nan),
        (lambda output, targets: None, None),
    ],
)
def test_a_metric_is_a_number_or_none(metric, expected):
    _, found = small(metric=metric).loss_and_metric(small().seeded_model(0), (X, CLASSES))
    assert found is None if expected is None else float(found) == pytest.approx(expected, nan_ok=True)
    assert found is None or not found.requires_grad


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"loss": "mse"}, "Task: loss must be a function of .* got str"),
        (
            {"make_model": nn.Linear(3, 3)},
            "make_model must be a function that returns a new module .*; got a Linear, an",
        ),
        ({"make_model": None}, "Task: make_model must be a function that returns a new module in float32; got None"),
        (
            {"draw": (X, CLASSES)},
            "Task: draw must be a function that returns a new batch, given a torch.Generator; got",
        ),
        ({"metric": 3}, "Task: metric must be a function of .* got int"),
        ({"held_out": None}, "Task: held_out must be a tensor, .* got NoneType"),
        ({"held_out": (X[:0], CLASSES[:0])}, "Task: held_out is empty"),
        ({"held_out": (X.to("meta"), CLASSES)}, "Task: held_out is on the meta device"),
    ],
)
def test_a_task_says_what_its_parts_must_be(fields, words):
    with pytest.raises((TypeError, ValueError), match=words):
        replace(small(), **fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"draw": lambda generator: None}, "Task small: what draw returns must be a tensor, .* got NoneType"),
        ({"draw": lambda generator: (X[:0], CLASSES[:0])}, "Task small: what draw returns is empty"),
        ({"draw": lambda generator: X.to("meta")}, "what draw returns is on the meta device"),
        ({"draw": lambda generator: {"x": X}}, r"Task small: model\(\*\*batch\) failed: .*; the model takes input"),
        ({"metric": lambda output: 1}, r"Task small: metric\(output, targets\) failed: too many positional arguments"),
        ({"metric": lambda output, targets: "good"}, "metric must return one number, or None; got str"),
        ({"metric": lambda output, targets: output}, r"metric must return one number, .* got torch.float32 \(2, 3\)"),
        ({"draw": lambda generator: (X, CLASSES - CLASSES - 100)}, "every target of a batch is ignored"),
        ({"loss": lambda output, targets: output.sum().detach()}, "task small: the loss depends on no parameter"),
    ],
)
def test_a_training_says_what_a_task_does_wrong(fields, words):
    with pytest.raises((TypeError, ValueError), match=words):
        list(Trainer(replace(small(), **fields), "fp32", device="cpu").steps(1))


def test_batches_have_the_same_parts_in_every_step():
    drawn = iter([(X, CLASSES), (X[:1], CLASSES[:1]), {"input": X}])
    steps = Trainer(replace(small(), draw=lambda generator: next(drawn)), "fp32", device="cpu").steps(3)
    assert [next(steps).step for _ in range(2)] == [0, 1]
    with pytest.raises(ValueError, match=r"got a dict of input in step 2, and \(a tensor, a tensor\) before"):
        next(steps)
