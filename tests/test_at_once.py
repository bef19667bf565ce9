"""Several things at once in one process: each comes out as it does alone, and nothing global is left changed."""

from __future__ import annotations

import threading
from dataclasses import replace

import torch
from torch import Tensor, nn

import mixlab
import mixlab.memory.tracing
from mixlab.memory import trace
from mixlab.training import StepRecord, Training
from tests.process.test_containment import state

RECIPES = "amp-fp16", "fp32"
STEPS = 40


def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.rand(8, 16, generator=generator), torch.randint(4, (8,), generator=generator)


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 32), nn.Dropout(0.5), nn.Tanh(), nn.Dropout(0.2), nn.Linear(32, 4))


TASK = mixlab.Task("dropout", model, draw, draw(torch.Generator().manual_seed(1)))


def trainer(recipe: str) -> mixlab.Trainer:
    return mixlab.Trainer(TASK, mixlab.Recipe.parse(recipe), seed=3, device="cpu")


def untimed(records: list[StepRecord]) -> list[StepRecord]:
    return [replace(record, seconds=0) for record in records]


def weights(trained: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trained.parameters()])


def traced(on_meta: nn.Module) -> object:
    """What a trace says; in which order autocast's cache lets its tensors go, torch leaves open."""
    seen = trace(on_meta, TASK.held_out, "amp-bf16", as_on="cpu")
    return seen.phase_peaks, seen.after, sorted(allocation[:5] for allocation in seen.allocations)


def cell() -> Tensor:
    torch.manual_seed(0)
    return torch.cat([torch.randn(4) for _ in range(20)])


def test_trainings_a_trace_a_seeded_cell_and_an_interrupt_at_once():
    with torch.device("meta"):
        on_meta = model()
    alone = {}
    for recipe in RECIPES:
        training = trainer(recipe)
        alone[recipe] = untimed(list(training.steps(STEPS))), weights(training.model)
    trace_alone, cell_alone, seeded_alone = traced(on_meta), cell(), weights(TASK.seeded_model(5))
    torch.manual_seed(42)
    before = state()

    trainers = {recipe: trainer(recipe) for recipe in RECIPES}
    trainings = [Training(one.steps(STEPS)) for one in trainers.values()]
    traces = []
    tracing = threading.Thread(target=lambda: traces.extend(traced(on_meta) for _ in range(3)))
    tracing.start()
    interrupts = 0
    moved = torch.get_rng_state()
    while any(training.running for training in trainings) or tracing.is_alive():
        assert torch.equal(cell(), cell_alone)
        assert torch.equal(weights(TASK.seeded_model(5)), seeded_alone)
        interrupts += interrupted_trace(on_meta)
    tracing.join()
    torch.set_rng_state(moved)

    for training, (recipe, one) in zip(trainings, trainers.items(), strict=True):
        records, last = alone[recipe]
        assert untimed(training.result()) == records
        assert torch.equal(weights(one.model), last)
    assert traces == [trace_alone] * 3
    assert interrupts
    assert state() == before


def interrupted_trace(on_meta: nn.Module) -> int:
    """A trace that is stopped within its backward pass; returns whether it was."""

    def stop(*_args: object) -> None:
        raise KeyboardInterrupt

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        value = mixlab.batches.cross_entropy(logits, targets)
        value.register_hook(stop)
        return value

    try:
        trace(on_meta, TASK.held_out, "amp-fp16", loss=loss)
    except KeyboardInterrupt:
        return 1
    return 0
