"""Models under DistributedDataParallel, fully_shard, DataParallel and torch.compile, in every tool that takes a model.

Each works as the plain model does, or is refused in words that say what to pass instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard

from mixlab import Task, Trainer, track
from mixlab.emulation import cast_trace
from mixlab.experiments import dtype_ledger
from mixlab.measure import real_steps
from mixlab.memory import TraceError, trace

BATCH = torch.randn(6, 64, generator=torch.Generator().manual_seed(0)), torch.arange(6)


@pytest.fixture(autouse=True, scope="module")
def one_process() -> Iterator[None]:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def plain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))


def sharded() -> nn.Module:
    model = plain()
    fully_shard(model[0])
    fully_shard(model)
    return model


def compiled_in_place() -> nn.Module:
    model = plain()
    model.compile(backend="eager")
    return model


MODELS: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "DistributedDataParallel": (
        lambda: nn.parallel.DistributedDataParallel(plain()),
        r"\(DistributedDataParallel\) cannot be traced: .*: trace model\.module, the model of one process",
        "",
    ),
    "inside": (
        lambda: nn.Sequential(nn.parallel.DistributedDataParallel(plain())),
        r"module '0' \(DistributedDataParallel\) cannot be traced: .*: trace model\.0\.module",
        "",
    ),
    "DataParallel": (lambda: nn.DataParallel(plain()), "trace model.module", ""),
    "fully_shard": (
        sharded,
        "hold shards of its parameters: trace the model before fully_shard",
        "the model is divided over processes by fully_shard",
    ),
    "compiled": (lambda: torch.compile(plain(), backend="eager"), "trace model._orig_mod", "the model is compiled"),
    "compiled in place": (compiled_in_place, "trace the model before that", "the model is compiled"),
}
every_model = pytest.mark.parametrize("name", MODELS)


def task_of(make: Callable[[], nn.Module]) -> Task:
    return Task("divided", make, lambda _generator: BATCH, BATCH, lambda p, lr: torch.optim.Adam(p, lr), lr=0.05)


def losses(make: Callable[[], nn.Module]) -> list[float]:
    return [record.loss for record in Trainer(task_of(make), "amp-bf16").steps(3)]


@every_model
def test_they_train_as_the_plain_model(name):
    assert losses(MODELS[name][0]) == losses(plain)


@every_model
def test_a_trace_says_which_model_to_trace(name):
    make, words, _ = MODELS[name]
    with pytest.raises(TraceError, match=words):
        trace(make(), BATCH)


@every_model
def test_real_steps_count_what_this_process_holds(name):
    options = {"device": torch.device("cpu"), "optimizer": "sgd"}
    (step,), (expected,) = (real_steps(make, BATCH, "fp32", **options) for make in (MODELS[name][0], plain))
    assert (step.parameters, step.states) == (expected.parameters, expected.states)


@every_model
def test_casts_of_each_op(name):
    def ops(make: Callable[[], nn.Module]) -> list[str]:
        return [cast.op for cast in cast_trace(make(), BATCH)]

    assert ops(MODELS[name][0]) == ops(plain)


@every_model
def test_a_ledger_of_formats(name):
    found, expected = (dtype_ledger(task_of(make), "amp-bf16") for make in (MODELS[name][0], plain))
    assert (found.numel, found.entries[0]) == (expected.numel, expected.entries[0])


@every_model
def test_tensors_are_watched_or_refused(name):
    make, _, words = MODELS[name]
    model = make()
    if words:
        with pytest.raises(TypeError, match=words):
            track(model).__enter__()
        return
    with track(model) as seen:
        F.cross_entropy(model(BATCH[0]), BATCH[1]).backward()
    assert len(seen)


def test_parameters_divided_by_hand_are_refused():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_module

    model = distribute_module(plain(), init_device_mesh("cpu", (1,)))
    assert not isinstance(model, FSDPModule)
    with pytest.raises(TraceError, match=r"module '0' \(Linear\) .*: its parameter weight is a DTensor, divided over"):
        trace(model, BATCH)
