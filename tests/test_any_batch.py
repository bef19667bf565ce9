"""One table: batches, outputs and losses of every kind that people have, under every tool that takes them.

Each gives what a few lines of plain torch give, bit for bit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from mixlab import FP16, Recipe, Task, Trainer, cast_trace, dissect, dtype_ledger, scale_window, track, track_updates
from mixlab.batches import BatchError, map_batch
from mixlab.experiments import predict_windows
from mixlab.memory import trace
from mixlab.memory.categories import PHASES
from mixlab.training import accuracy, outcome
from mixlab.training.tasks import step_seed
from tests.reference.real_allocations import steps_without_scratch

CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Case:
    """A model, its batches, and its loss by hand.

    Args:
        make: Returns the model.
        draw: Returns a batch.
        by_hand: Returns the loss of a model on a batch, as anyone would write it.
        loss: What is given to the tools.
        metric: The metric that is given to a task.
        named: The name of the metric; "" if there is none.
        last_op: The last op of its forward pass and loss.
        more: Bytes that a trace counts and `real_steps` does not: the sizes of a packed sequence, which nothing copies.
    """

    make: Callable[[], nn.Module]
    draw: Callable[[torch.Generator], Any]
    by_hand: Callable[[nn.Module, Any], Tensor]
    loss: Callable[[Any, Any], Tensor] | None = None
    metric: Callable[[Any, Any], Any] | None = None
    named: str = ""
    last_op: str = "cross_entropy"
    more: int = 0

    @property
    def task(self) -> Task:
        held_out = self.draw(torch.Generator().manual_seed(99))
        return Task("case", self.make, self.draw, held_out, "adam", lr=0.01, loss=self.loss, metric=self.metric)


@dataclass
class Answer:
    logits: Tensor
    loss: Tensor | None = None
    extra: str = "kept"


class Linear(nn.Module):
    """A layer whose forward is a function of it and of its arguments."""

    def __init__(self, forward: Callable[..., Any], inputs: int = 6, outputs: int = 4) -> None:
        super().__init__()
        self.linear, self.way = nn.Linear(inputs, outputs), forward


class OfOne(Linear):
    def forward(self, x: Tensor) -> Any:
        return self.way(self.linear(x))


class OfTwo(Linear):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.linear(a + 2 * b)


class OnlyNamed(Linear):
    def forward(self, *, pixels: Tensor, mask: Tensor | None = None, mode: str = "sum") -> Tensor:
        x = pixels if mask is None else pixels * mask
        return self.linear(x) * (1 if mode == "sum" else 2)


class OwnLoss(Linear):
    """As transformers' models: named arguments, and a loss if there are labels."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None) -> Any:
        x = F.one_hot(input_ids, 6).to(self.linear.weight.dtype)
        logits = self.linear(x if attention_mask is None else x * attention_mask[..., None])
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return OrderedDict(loss=loss, logits=logits)


class Nested(Linear):
    def forward(self, sides: dict[str, Any], scale: float) -> dict[str, Tensor]:
        left, (right, again) = sides["left"], sides["right"]
        return {"scores": self.linear(left + right + again) * scale}


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 2


class Everything(nn.Module):
    """A buffer, tied weights, a module that runs twice, dropout, an autograd function, and several outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.again, self.tied = nn.BatchNorm1d(6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.tied.weight = self.again.weight
        self.drop, self.out = nn.Dropout(0.2), nn.Linear(6, 4)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.drop(self.again(self.again(self.norm(x + y)).tanh()).tanh())
        return Double.apply(self.out(self.tied(hidden))), hidden


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.out = nn.GRU(6, 5, batch_first=True), nn.Linear(5, 4)

    def forward(self, x: PackedSequence) -> Tensor:
        _, last = self.rnn(x)
        return self.out(last[-1])


def floats(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator)


def classes(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randint(4, shape, generator=generator)


def some_ignored(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    targets = classes(generator, 5, 3)
    targets[:, 0] = 1
    return floats(generator, 5, 3, 6), targets


def packed(generator: torch.Generator) -> tuple[PackedSequence, Tensor]:
    return pack_padded_sequence(floats(generator, 3, 4, 6), [4, 2, 1], batch_first=True), classes(generator, 3)


def ids(generator: torch.Generator) -> dict[str, Tensor]:
    return {
        "input_ids": torch.randint(6, (3, 5), generator=generator),
        "attention_mask": torch.ones(3, 5),
        "labels": classes(generator, 3, 5),
    }


def two_sides(generator: torch.Generator) -> dict[str, Any]:
    left, right = floats(generator, 5, 6), floats(generator, 5, 6)
    return {"sides": {"left": left, "right": [right, right]}, "scale": 0.5}


def mean_score(output: dict[str, Tensor], batch: dict[str, Any]) -> Tensor:
    return (output["scores"].square().mean(-1) * batch["sides"]["left"].sum(-1)).mean()


def largest_error(output: Tensor, targets: Tensor) -> Tensor:
    return (output - targets).abs().max()


def with_loss(logits: Tensor) -> Answer:
    return Answer(logits, logits.square().mean())


ignoring = nn.CrossEntropyLoss(ignore_index=1)


CASES: dict[str, Case] = {
    "a dataclass as output": Case(
        lambda: OfOne(Answer),
        lambda g: (floats(g, 5, 6), classes(g, 5)),
        lambda model, batch: F.cross_entropy(model(batch[0]).logits, batch[1]),
        named="accuracy",
    ),
    "named arguments and a loss of the model's own": Case(
        lambda: OwnLoss(None), ids, lambda model, batch: model(**batch)["loss"]
    ),
    "the same with a loss that is given": Case(
        lambda: OwnLoss(None),
        ids,
        lambda model, batch: F.cross_entropy(
            model(**batch)["logits"].flatten(0, 1), batch["labels"].flatten(), reduction="sum"
        ),
        lambda output, batch: F.cross_entropy(
            output["logits"].flatten(0, 1), batch["labels"].flatten(), reduction="sum"
        ),
        lambda output, batch: accuracy(output, batch["labels"]),
        "metric",
    ),
    "arguments that can only be named, and targets": Case(
        lambda: OnlyNamed(None),
        lambda g: ({"pixels": floats(g, 5, 6), "mask": floats(g, 5, 6), "mode": "double"}, classes(g, 5)),
        lambda model, batch: F.cross_entropy(model(**batch[0]), batch[1]),
        named="accuracy",
    ),
    "two inputs": Case(
        lambda: OfTwo(None),
        lambda g: [(floats(g, 5, 6), floats(g, 5, 6)), classes(g, 5)],
        lambda model, batch: F.cross_entropy(model(*batch[0]), batch[1]),
        named="accuracy",
    ),
    "nested dicts and a number": Case(
        lambda: Nested(None),
        two_sides,
        lambda model, batch: mean_score(model(**batch), batch),
        mean_score,
        last_op="mean",
    ),
    "one tensor and a loss of the model's own": Case(
        lambda: OfOne(with_loss), lambda g: floats(g, 5, 6), lambda model, batch: model(batch).loss, last_op="mean"
    ),
    "three arguments, one of them labels": Case(
        lambda: OwnLoss(None), lambda g: tuple(ids(g).values()), lambda model, batch: model(*batch)["loss"]
    ),
    "a tuple as output": Case(
        Everything,
        lambda g: ((floats(g, 5, 6), floats(g, 5, 6)), classes(g, 5)),
        lambda model, batch: F.cross_entropy(model(*batch[0])[0], batch[1]),
        lambda output, targets: F.cross_entropy(output[0], targets),
    ),
    "regression": Case(
        lambda: OfOne(lambda x: x),
        lambda g: (floats(g, 5, 6), floats(g, 5, 4)),
        lambda model, batch: F.mse_loss(model(batch[0]), batch[1]),
        nn.MSELoss(),
        largest_error,
        "largest error",
        "mse_loss",
    ),
    "several labels": Case(
        lambda: OfOne(lambda x: x),
        lambda g: (floats(g, 5, 6), (floats(g, 5, 4) > 0).float()),
        lambda model, batch: F.binary_cross_entropy_with_logits(model(batch[0]), batch[1]),
        F.binary_cross_entropy_with_logits,
        last_op="binary_cross_entropy_with_logits",
    ),
    "probabilities as targets": Case(
        lambda: OfOne(lambda x: x),
        lambda g: (floats(g, 5, 6), floats(g, 5, 4).softmax(-1)),
        lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
    ),
    "ignored targets": Case(
        lambda: OfOne(lambda x: x.mT),  # (B, C, T), as torch's cross-entropy takes them
        some_ignored,
        lambda model, batch: F.cross_entropy(model(batch[0]), batch[1], ignore_index=1),
        ignoring,
        named="accuracy",
    ),
    "images with a class for each pixel": Case(
        lambda: nn.Conv2d(3, 4, 3, padding=1),
        lambda g: (floats(g, 2, 3, 5, 7), classes(g, 2, 5, 7)),
        lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
        named="accuracy",
    ),
    "sequences of several lengths": Case(
        Recurrent,
        packed,
        lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
        named="accuracy",
        more=4 * 8,
    ),
}

every_case = pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES.items()])


def by_hand(case: Case, model: nn.Module, batch: Any, purpose: str = "forward", step: int = 0) -> Tensor:
    torch.manual_seed(step_seed(0, step, purpose))
    return case.by_hand(model, batch)


def in_format(case: Case, batch: Any, dtype: torch.dtype) -> Any:
    return map_batch(batch, lambda x: x.to(dtype) if x.is_floating_point() else x, lambda x: x)


@every_case
@pytest.mark.parametrize("recipe", ["fp32", "bf16"])
def test_training(case, recipe):
    """Three steps, an evaluation and the records are those of a loop by hand."""
    trainer = Trainer(case.task, recipe, device="cpu", native=True)
    dtype = trainer.recipe.weights.dtype
    model, records = case.task.seeded_model(0).to(dtype), []
    optimizer = case.task.make_optimizer(model, recipe)
    for step in range(3):
        records += trainer.steps(1)
        loss = by_hand(case, model, in_format(case, case.task.batch(0, step), dtype), step=step)
        assert records[step].loss == loss.item()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for (name, expected), found in zip(model.state_dict().items(), trainer.model.state_dict().values(), strict=True):
        assert torch.equal(expected, found), name
    model.eval()
    with torch.no_grad():
        expected = by_hand(case, model, in_format(case, case.task.held_out, dtype), "held_out", 3).item()
    loss, metric = trainer.held_out()
    assert loss == expected
    assert {record.metric_name for record in records} == {case.named}
    assert (metric is None) == (records[0].metric is None) == (not case.named)
    assert case.named in outcome(records)


@every_case
def test_references_and_probes(case):
    trainer = Trainer(case.task, "bf16", device="cpu", probe_every=1)
    references = trainer.reference_gradients()
    model = case.task.seeded_model(0).bfloat16().float()
    batch = in_format(case, in_format(case, case.task.batch(0, 0), torch.bfloat16), torch.float32)
    by_hand(case, model, batch).backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert references.keys() == expected.keys()
    assert all(torch.equal(references[name], gradient) for name, gradient in expected.items())
    (record,) = trainer.steps(1)
    assert record.underflow


@every_case
def test_windows_and_watched_updates(case):
    (window,) = predict_windows(case.task, steps=1)
    model = case.task.seeded_model(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-9)
    with track(model, sample=None) as probe, track_updates(model, optimizer) as lost:
        by_hand(case, model, case.task.batch(0, 0)).backward()
        optimizer.step()
    assert abs(window.high - scale_window(probe, FP16).high) <= 1
    assert lost.total().swallowed.of > 0


@every_case
def test_one_step_and_what_it_keeps(case):
    trainer = Trainer(case.task, "amp-bf16", device="cpu")
    whole = Trainer(case.task, "amp-bf16", device="cpu")
    assert len(dissect(trainer)) == 8
    list(whole.steps(1))
    for expected, found in zip(whole.model.parameters(), trainer.model.parameters(), strict=True):
        assert torch.equal(expected, found)
    ledger = dtype_ledger(case.task, "fp32", device="cpu")
    assert ledger.bytes_of("parameters") == ledger.bytes_of("exp_avg") == 4 * ledger.numel


@every_case
def test_casts(case):
    batch = case.task.batch(0, 0)
    traced = cast_trace(case.make(), batch, loss=case.loss)
    assert traced[-1].op == case.last_op
    assert traced.weight_casts
    assert cast_trace(case.make(), batch, compute="bf16", loss=case.loss)[-1].op == case.last_op


@every_case
@pytest.mark.cpu_kernels
@pytest.mark.parametrize("recipe", ["fp32", "amp-bf16"])
def test_memory(case, recipe):
    batch = case.task.batch(0, 0)
    found = trace(case.make(), batch, recipe, loss=case.loss, as_on="cpu")
    (step,) = steps_without_scratch(case.make, batch, Recipe.parse(recipe), device=CPU, loss=case.loss)
    for phase in PHASES:
        assert found.phase_peaks[phase] == step.phase_peaks[phase] + case.more
        assert found.after[phase] == step.after[phase] + case.more
    with torch.device("meta"):
        model = case.make()
    on_meta = map_batch(batch, lambda tensor: tensor.to("meta"))
    assert trace(model, on_meta, recipe, loss=case.loss, as_on="cpu").after == found.after


def test_the_accuracy_leaves_out_what_the_loss_ignores():
    case = CASES["ignored targets"]
    trainer = Trainer(case.task, "fp32", device="cpu")
    (record,) = trainer.steps(1)
    inputs, targets = case.task.batch(0, 0)
    predicted = case.task.seeded_model(0)(inputs).argmax(1)
    counted = targets != 1
    assert record.metric == pytest.approx((predicted == targets)[counted].float().mean().item())


@pytest.mark.parametrize("tool", ["trace", "real steps", "trainer"])
def test_a_loss_of_other_tensors_alone_is_told(tool):
    """Such a loss has a gradient, but gives none to the model's parameters."""
    own = torch.ones(3, requires_grad=True)
    batch = torch.ones(2, 6), torch.zeros(2, 4)
    task = Task("t", lambda: nn.Linear(6, 4), lambda _: batch, batch, loss=lambda output, targets: (own * 2).sum())
    calls: dict[str, Callable[[], object]] = {
        "trace": lambda: trace(nn.Linear(6, 4), batch, loss=task.loss),
        "real steps": lambda: steps_without_scratch(task.make_model, batch, "fp32", device=CPU, loss=task.loss),
        "trainer": lambda: list(Trainer(task, "fp32", device="cpu").steps(1)),
    }
    with pytest.raises(BatchError, match="the loss depends on no parameter that requires a gradient"):
        calls[tool]()
