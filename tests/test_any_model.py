"""One table: models of every kind that people train, under every tool that takes a model or a task.

Each works, and gives what plain torch gives, or refuses in words that name the module or parameter.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixlab import FP16, DynamicScaler, Histogram, Recipe, Task, TorchPolicy, Trainer, load_task, track, track_updates
from mixlab.emulation import cast_trace
from mixlab.experiments import dissect, dtype_ledger, predict_windows
from mixlab.memory import TraceError, trace
from mixlab.probes import scale_window
from mixlab.training.tasks import step_seed
from tests.kinds import KINDS, Kind

ROWS = 6
DIGITS = load_task("digits-mlp")

pytestmark = [
    pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled"),
]
every_kind = pytest.mark.parametrize("kind", [pytest.param(kind, id=name) for name, kind in KINDS.items()])


def rows(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    inputs, targets = DIGITS.draw(generator)
    return inputs[:ROWS], targets[:ROWS]


def task_of(kind: Kind) -> Task:
    held_out = tuple(part[:ROWS] for part in DIGITS.held_out)
    return Task("kind", kind.make, rows, held_out, lambda parameters, lr: kind.optimizer(parameters, lr), lr=0.05)


def seeded(make) -> nn.Module:
    torch.manual_seed(0)
    return make()


BATCH = rows(torch.Generator().manual_seed(0))


def backward(kind: Kind, model: nn.Module) -> None:
    torch.manual_seed(1)
    inputs, targets = BATCH
    F.cross_entropy(kind.logits(model(inputs)), targets).backward()


@contextmanager
def refused(kind: Kind, tool: str, errors=(TypeError, ValueError)):
    """Lets pass what should work; what should be refused must be, in its words."""
    words = kind.refusal(tool)
    if words is None:
        yield True
        return
    with pytest.raises(errors, match=words):
        yield False


# --- what plain torch says --------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What a layer returned, and the gradients of that and of its parameters, as plain tensors."""

    activation: list[Tensor]
    gradient: list[Tensor]
    weight_gradient: list[Tensor]


@cache
def plain_torch(kind: Kind) -> dict[str, Seen]:
    """Runs the plain model of a kind, whose hooks only keep what they are given."""
    model = seeded(kind.plain or kind.make)
    seen: dict[str, Seen] = defaultdict(lambda: Seen([], [], []))
    outputs: dict[str, list[Tensor]] = defaultdict(list)
    for name, module in model.named_modules():
        if "parametrizations" not in name.split("."):
            module.register_forward_hook(lambda _m, _i, out, name=name: outputs[name].extend(kept(floating(_m, out))))
    backward(kind, model)
    owners = {}
    for name, parameter in model.named_parameters():
        owner = name.partition(".parametrizations")[0] if "parametrizations" in name else name.rpartition(".")[0]
        owners[owner] = True
        if parameter.grad is not None:
            seen[owner].weight_gradient.append(parameter.grad)
    for name, _ in model.named_parameters(remove_duplicate=False):
        owners[name.rpartition(".")[0]] = True
    for name, tensors in outputs.items():
        if name in owners:
            seen[name].activation.extend(tensor.detach() for tensor in tensors)
            seen[name].gradient.extend(tensor.grad for tensor in tensors if tensor.grad is not None)
    return dict(seen)


def floating(module: nn.Module, output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    if isinstance(module, nn.RNNBase | nn.MultiheadAttention):
        return [output[0]]
    parts = vars(output).values() if is_dataclass(output) else output.values() if isinstance(output, dict) else output
    return [tensor for part in parts if not isinstance(part, int) for tensor in floating(module, part)]


def kept(tensors: list[Tensor]) -> list[Tensor]:
    for tensor in tensors:
        if tensor.requires_grad:
            tensor.retain_grad()
    return tensors


# --- the tools --------------------------------------------------------------------------------------------------------


@every_kind
def test_trainer(kind):
    """Three steps are those of a loop by hand, an evaluation too, and a probe changes nothing."""
    task = task_of(kind)
    with refused(kind, "Trainer") as works:
        trainer = Trainer(task, Recipe(), device="cpu")
        records = list(trainer.steps(3))
        held_out = trainer.held_out()
    if not works:
        return
    model = task.seeded_model(0)
    optimizer = task.optimizer(model.parameters(), task.lr)
    for step in range(3):
        inputs, targets = task.batch(0, step)
        torch.manual_seed(step_seed(0, step, "forward"))
        loss = F.cross_entropy(kind.logits(model(inputs)), targets)
        loss.backward()
        assert records[step].loss == pytest.approx(loss.item(), rel=1e-6)
        optimizer.step()
        optimizer.zero_grad()
    exact = kind is not KINDS["script"]  # which is compiled anew as it runs, and multiplies otherwise then
    assert_equal_models(model, trainer.model, exact=exact)
    model.eval()
    with torch.no_grad():
        expected = F.cross_entropy(kind.logits(model(task.held_out[0])), task.held_out[1]).item()
    assert held_out[0] == (expected if exact else pytest.approx(expected, rel=1e-5))
    assert trainer.model.training


@every_kind
def test_reference_gradients_and_underflow(kind):
    with refused(kind, "Trainer") as works:
        Trainer(task_of(kind), Recipe(), device="cpu").backward()
    if not works:
        return
    trainer = Trainer(task_of(kind), Recipe.parse("amp-fp16,scaler=static,scale=2^-20"), device="cpu", probe_every=1)
    with refused(kind, "reference_gradients") as works:
        references = trainer.reference_gradients()
    if not works:
        return
    model = task_of(kind).seeded_model(0)
    inputs, targets = trainer.next_batch()
    torch.manual_seed(step_seed(0, 0, "forward"))
    F.cross_entropy(kind.logits(model(inputs)), targets).backward()
    expected = {name: p.grad.to_dense() for name, p in model.named_parameters() if p.grad is not None}
    assert references.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.equal(references[name], gradient), name
    trainer.backward()
    lost, alive = defaultdict(int), defaultdict(int)
    for name, parameter in trainer.model.named_parameters():
        if name in expected:
            layer = name.partition(".parametrizations")[0] if "parametrizations" in name else name.rpartition(".")[0]
            alive[layer] += int(expected[name].count_nonzero())
            lost[layer] += int(((parameter.grad.to_dense() == 0) & (expected[name] != 0)).sum())
    shares = {layer: lost[layer] / alive[layer] for layer in alive}
    trainer.optimizer.zero_grad()
    (record,) = trainer.steps(1)
    assert record.underflow == pytest.approx(shares)
    assert max(record.underflow.values()) > 0.1


@every_kind
def test_track(kind):
    model = seeded(kind.make)
    with refused(kind, "track") as works, track(model, sample=None) as probe:
        backward(kind, model)
    if not works:
        return
    expected = {
        (layer, what): getattr(seen, what)
        for layer, seen in plain_torch(kind).items()
        for what in ("activation", "gradient", "weight_gradient")
        if getattr(seen, what)
    }
    assert {(stats.layer, stats.kind) for stats in probe} == expected.keys()
    for key, tensors in expected.items():
        whole = torch.cat([tensor.float().flatten() for tensor in tensors])
        stats = probe[key]
        assert (stats.numel, stats.zeros, stats.infs, stats.nans) == (len(whole), int((whole == 0).sum()), 0, 0), key
        assert stats.amax == pytest.approx(float(whole.abs().max()), rel=1e-6), key
        if kind.plain is None:
            assert np.array_equal(stats.histogram.counts, Histogram.of(whole).counts), key


@every_kind
def test_scale_window(kind):
    model = seeded(kind.make)
    with refused(kind, "track") as works, track(model, sample=None) as probe:
        backward(kind, model)
    if not works:
        return
    window = scale_window(probe, FP16)
    seen = plain_torch(kind).values()
    gradients = [tensor.float().flatten() for one in seen for tensor in (*one.gradient, *one.weight_gradient)]
    whole = torch.cat(gradients).double()
    whole = whole[whole != 0]

    def overflow(exponent: int) -> bool:
        return bool((whole * 2.0**exponent).half().isinf().any())

    def underflow(exponent: int) -> float:
        return float(((whole * 2.0**exponent).half() == 0).double().mean())

    assert (overflow(window.high), overflow(window.high + 1)) == (False, True)
    assert underflow(window.low) <= 0.01 < underflow(window.low - 1)


@every_kind
def test_track_updates(kind):
    """One step of SGD, so small that some weights stay: which, is seen from the weights."""
    with refused(kind, "track_updates") as works:
        if kind is KINDS["lazy"]:
            backward(kind, model := seeded(kind.make))  # before, no optimizer takes it
            model.zero_grad()
        else:
            model = seeded(kind.make)
        optimizer = torch.optim.SGD(model.parameters(), lr=3e-16 if kind is KINDS["float64"] else 3e-7)
        with track_updates(model, optimizer) as lost:
            backward(kind, model)
            before = {name: p.detach().clone() for name, p in model.named_parameters()}
            optimizer.step()
    if not works:
        return
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            assert name not in {one.parameter for one in lost}
            continue
        moved, gradient = real(parameter.detach()) != real(before[name]), real(parameter.grad.to_dense())
        (one,) = lost[name]
        assert (one.swallowed.lost, one.swallowed.of) == (
            int((~moved & (gradient != 0)).sum()),
            gradient.count_nonzero(),
        )
    assert 0 < lost.total().swallowed.lost < lost.total().swallowed.of


def real(x: Tensor) -> Tensor:
    return torch.view_as_real(x) if x.is_complex() else x


@every_kind
def test_dtype_ledger(kind):
    task = task_of(kind)
    with refused(kind, "dtype_ledger") as works:
        ledger = dtype_ledger(task, Recipe(), device="cpu")
    if not works:
        return
    model = task.seeded_model(0)
    parameters = list(model.parameters())
    F.cross_entropy(kind.logits(model(BATCH[0])), BATCH[1]).backward()
    reached = [p for p in parameters if p.grad is not None]
    assert ledger.numel == sum(p.numel() for p in parameters)
    assert ledger.bytes_of("parameters") == 4 * ledger.numel
    values = [p.grad._values() if p.grad.is_sparse else p.grad for p in reached]
    assert ledger.bytes_of("gradients") == 4 * sum(value.numel() for value in values)
    states = 4 * sum(p.numel() for p in reached) if kind.optimizer is torch.optim.Adam else 0
    assert ledger.bytes_of("exp_avg") == ledger.bytes_of("exp_avg_sq") == states
    assert ledger.bytes_of("activations saved for backward") >= 4 * ROWS * 10  # log-softmax of the logits


@every_kind
def test_cast_trace(kind):
    model = seeded(kind.make)
    before = copy.deepcopy(model.state_dict()) if kind is not KINDS["lazy"] else None
    with refused(kind, "cast_trace", (TypeError, ValueError, RuntimeError)) as works:
        traced = cast_trace(model, BATCH, loss=lambda output, targets: F.cross_entropy(kind.logits(output), targets))
    if not works:
        return
    assert {cast.name for cast in traced.weight_casts} == set(kind.casts)
    assert traced[-1].op == "cross_entropy"
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


@every_kind
def test_trace(kind):
    """The bytes that are sure: of parameters, of their gradients, and of Adam's two states."""
    model = seeded(kind.make)
    with refused(kind, "trace", (TypeError, ValueError, TraceError)) as works:
        traced = trace(
            model,
            BATCH,
            loss=lambda output, targets: F.cross_entropy(kind.logits(output), targets),
            optimizer=lambda parameters, lr: kind.optimizer(parameters, lr),
            as_on="cpu",
        )
    if not works:
        return
    assert all(parameter.grad is None for parameter in model.parameters())
    backward(kind, model)
    reached = [p for p in model.parameters() if p.grad is not None]
    peak = traced.at_phase_peaks["step"]
    assert peak["parameters"] == sum((8 if p.is_complex() else 4) * p.numel() for p in model.parameters())
    assert peak["gradients"] >= 4 * sum(p.grad.numel() for p in reached if not p.grad.is_sparse)
    states = sum((8 if p.is_complex() else 4) * p.numel() for p in reached)
    assert traced.at_end["step"].get("exp_avg", 0) == traced.at_end["step"].get("exp_avg_sq", 0) == states


@every_kind
def test_predict_windows(kind):
    task = task_of(kind)
    with refused(kind, "predict_windows") as works:
        (window,) = predict_windows(task, steps=1)
    if not works:
        return
    model = task.seeded_model(0)
    inputs, targets = task.batch(0, 0)
    with track(model, sample=None) as probe:
        torch.manual_seed(step_seed(0, 0, "forward"))
        F.cross_entropy(kind.logits(model(inputs)), targets).backward()
    expected = scale_window(probe, FP16)
    assert window.high == expected.high
    assert abs(window.low - expected.low) <= 2  # from a sample


@every_kind
def test_dissect(kind):
    """Taken apart, a step is the one that a trainer takes."""
    with refused(kind, "dissect") as works:
        task = task_of(kind)
        trainer = Trainer(task, Recipe.parse("amp-fp16"), device="cpu")
        stages = dissect(trainer)
    if not works:
        return
    whole = Trainer(task, Recipe.parse("amp-fp16"), device="cpu")
    list(whole.steps(1))
    assert_equal_models(whole.model, trainer.model)
    assert [stage.name for stage in stages][-2:] == ["step", "update"]
    assert stages[6].cards[1].value in torch.cat([p.detach().flatten() for p in whole.model.parameters()]).tolist()


def assert_equal_models(expected: nn.Module, found: nn.Module, *, exact: bool = True) -> None:
    state = found.state_dict()
    for name, value in expected.state_dict().items():
        assert torch.equal(value, state[name]) if exact else torch.allclose(value, state[name], rtol=1e-4), name


# --- what an optimizer may be -----------------------------------------------------------------------------------------


def test_a_closure_is_called_once_a_step_and_what_the_step_lost_is_seen():
    """As Lightning calls it: the gradients come from within the step."""
    model = seeded(KINDS["frozen"].make)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)
    calls = []

    def closure() -> float:
        calls.append(True)
        optimizer.zero_grad()
        backward(KINDS["frozen"], model)
        return 0.0

    with track_updates(model, optimizer) as lost:
        for _ in range(2):
            before = model[2].weight.detach().clone()
            optimizer.step(closure)
    (_, last) = lost["2.weight"]
    stayed = (model[2].weight.detach() == before) & (model[2].weight.grad != 0)
    assert len(calls) == 2
    assert (last.swallowed.lost, last.swallowed.of) == (int(stayed.sum()), model[2].weight.grad.count_nonzero())


def test_several_optimizers_share_a_scaler_and_are_watched_each():
    model = seeded(KINDS["called twice"].make)
    parts = ([*model.first.parameters(), *model.again.parameters()], list(model.out.parameters()))
    optimizers = [torch.optim.SGD(part, lr=1e-3) for part in parts]
    scaler = DynamicScaler(TorchPolicy(2.0**8))
    with track_updates(model, optimizers[0]) as first, track_updates(model, optimizers[1]) as second:
        scaler.scale(F.cross_entropy(model(BATCH[0]), BATCH[1])).backward()
        for optimizer in optimizers:
            scaler.step(optimizer)
        scaler.update()
    assert {one.parameter for one in first} == {"first.weight", "first.bias", "again.weight", "again.bias"}
    assert {one.parameter for one in second} == {"out.weight", "out.bias"}
    plain = seeded(KINDS["called twice"].make)
    F.cross_entropy(plain(BATCH[0]), BATCH[1]).backward()
    torch.optim.SGD(plain.parameters(), lr=1e-3).step()
    assert_equal_models(plain, model)


def test_the_table_has_refusals_only_for_tools_that_it_asks():
    tools = {"training", "track", "reference_gradients", "predict_windows", "dissect", "cast_trace", "trace"}
    assert {tool for kind in KINDS.values() for tool in kind.refused} <= tools | {"track_updates"}
    assert len(KINDS) >= 12
    assert math.isfinite(sum(kind.refusal("Trainer") is None for kind in KINDS.values()))
