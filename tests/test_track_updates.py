from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from mixlab import optimizers
from mixlab.optimizers import Storage
from mixlab.recipes import Recipe
from mixlab.stalls import decay_stalls, rise_ratio
from mixlab.tasks import load_task
from mixlab.track_updates import Lost, Share, track_updates
from mixlab.trainer import Trainer
from mixlab.updates import swallowed


class Weights(nn.Module):
    """A module that is nothing but one parameter."""

    def __init__(self, values, dtype=torch.float32):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(values).to(dtype))


def one_step(model, optimizer, gradient):
    model.w.grad = torch.tensor(gradient).to(model.w.dtype)
    optimizer.step()


def train(recipe, *, steps=40, lr=1e-4, every=1, task="digits-cnn", optimizer="adamw"):
    trainer = Trainer(replace(load_task(task), lr=lr, optimizer=optimizer), Recipe.parse(recipe), seed=0, device="cpu")
    with track_updates(trainer.model, trainer.optimizer, every=every) as lost:
        records = list(trainer.steps(steps))
    return lost, records


def test_weights_that_do_not_move_are_counted_among_those_that_should():
    model = Weights([1.0, 1.0, 1.0, 0.001], torch.bfloat16)
    optimizer = optimizers.SGD(model.parameters(), lr=1.0)
    with track_updates(model, optimizer) as lost:
        one_step(model, optimizer, [1e-3, 0.5, 0.0, 1e-5])
    assert lost["w"][0].swallowed == Share(1, 3)
    assert lost["w"][0].stuck_falling == Share(0, 0)


@pytest.mark.parametrize("make", [optimizers.AdamW, torch.optim.AdamW])
def test_an_optimizer_of_torch_is_watched_like_ours(make):
    model = Weights([1.0, 2.0, 0.5], torch.float32)
    optimizer = make(model.parameters(), lr=0.1)
    with track_updates(model, optimizer) as lost:
        one_step(model, optimizer, [1.0, 1e-30, 0.0])
        one_step(model, optimizer, [0.0, 0.0, 0.0])
    first, second = lost.by_step()
    assert first.vanished == Share(1, 2)  # 1e-60 is zero in float32
    assert first.stuck_rising == Share(1, 2)
    assert second.stuck_falling == Share(0, 1)
    assert second.decay_lost == Share(0, 3)
    assert second.eps_lost == Share(
        0, 2
    )  # beside a root of 1 float32 does not see 1e-8, and is not asked; beside 0 it does
    assert [one.step for one in lost["w"]] == [0, 1]


@pytest.mark.parametrize("beta2", [0.9, 0.99, 0.999])
def test_second_moments_stall_where_theory_says(beta2):
    roots = torch.linspace(0.5, 4, 800)
    model = Weights([0.0] * 800)
    storage = Storage(exp_avg_sq_dtype=torch.bfloat16)
    optimizer = optimizers.Adam(model.parameters(), betas=(0.9, beta2), storage=storage)
    one_step(model, optimizer, roots.tolist())
    v = optimizer.read_state(model.w, "exp_avg_sq")
    with track_updates(model, optimizer) as lost:
        one_step(model, optimizer, [0.0] * 800)
        one_step(model, optimizer, [100.0] * 800)
    stalled = sum(decay_stalls(value, "bf16", beta2) for value in v.tolist())
    assert lost["w"][0].stuck_falling == Share(stalled, 800)
    assert lost["w"][1].stuck_rising == Share(0, 800)


def test_second_moments_rise_where_theory_says():
    model = Weights([0.0] * 400)
    optimizer = optimizers.Adam(model.parameters(), storage=Storage(exp_avg_sq_dtype=torch.bfloat16))
    one_step(model, optimizer, torch.linspace(0.5, 4, 400).tolist())
    v = optimizer.read_state(model.w, "exp_avg_sq")
    ratios = torch.linspace(1.2, 7, 400)
    gradient = (v * ratios).sqrt()
    with track_updates(model, optimizer) as lost:
        one_step(model, optimizer, gradient.tolist())
    stuck = sum(
        float(g) ** 2 / value <= rise_ratio("bf16", 0.999, value) for g, value in zip(gradient, v.tolist(), strict=True)
    )
    assert lost["w"][0].stuck_rising.of == 400
    assert 0 < stuck < 400
    assert abs(lost["w"][0].stuck_rising.lost - stuck) <= 1  # a ratio within float32's rounding of the bound


def test_the_swallowed_share_is_that_of_a_float32_update():
    """The same step in float32, from the same weights and states, tells what was meant."""
    trainer = Trainer(replace(load_task("digits-cnn"), lr=1e-4), Recipe.parse("bf16-master"), seed=0, device="cpu")
    model, reference = trainer.model, []
    optimizer = optimizers.Adam(model.parameters(), lr=1e-4)
    for step in range(3):
        trainer.backward()
        pairs = [(p, p.detach().float().clone().requires_grad_()) for p in model.parameters()]
        exact = torch.optim.Adam([copy for _, copy in pairs], lr=1e-4)
        for p, copy in pairs:
            copy.grad = p.grad.float()
            if step:
                kept = {name: state.clone() for name, state in optimizer.state[p].items() if name != "step"}
                exact.state[copy] = {"step": torch.tensor(float(step)), **kept}
        before = [copy.detach().clone() for _, copy in pairs]
        exact.step()
        reference = [
            (swallowed(old, new.detach() - old, "bf16"), old.numel())
            for old, (_, new) in zip(before, pairs, strict=True)
        ]
        with track_updates(model, optimizer) as lost:
            optimizer.step()
    assert lost.total().swallowed.value > 0.3
    for (share, numel), seen in zip(reference, lost, strict=True):
        assert abs(seen.swallowed.value - share) <= max(0.02, 1.5 / numel)  # w + u is subtracted to find u


def test_what_repairs_is_seen_to_repair():
    shares = {name: train(name)[0].total() for name in ("bf16", "bf16-master", "bf16-kahan", "bf16-sr")}
    assert shares["bf16"].swallowed.value > 0.5
    assert shares["bf16-master"].swallowed.value < 0.01
    assert shares["bf16-kahan"].swallowed.value < 0.01
    assert shares["bf16"].stuck_falling.value > 0.99
    assert shares["bf16-master"].stuck_falling.value < 0.01
    assert shares["bf16"].decay_lost.value > 0.99
    assert shares["bf16-master"].decay_lost.value < 0.01
    assert shares["bf16-sr"].decay_lost.value == 0


def test_eps_is_lost_where_everything_is_computed_in_16_bits():
    model = Weights([1.0, 1.0], torch.float16)
    optimizer = torch.optim.AdamW(model.parameters())
    with track_updates(model, optimizer) as lost:
        one_step(model, optimizer, [1e-4, 0.0])
    assert lost["w"][0].eps_lost == Share(2, 2)
    assert lost["w"][0].vanished == Share(1, 1)


def test_layers_and_steps_add_up():
    lost, records = train("bf16", steps=3)
    names = [name for name, _ in Trainer(load_task("digits-cnn"), Recipe(), device="cpu").model.named_parameters()]
    assert [(one.step, one.parameter) for one in lost] == [(step, name) for step in range(3) for name in names]
    assert len(lost) == 3 * len(names)
    total = lost.total()
    assert total.swallowed.lost == sum(one.swallowed.lost for one in lost)
    assert [one.parameter for one in lost.by_step()] == ["all"] * 3
    assert "swallowed" in str(total)
    assert len(records) == 3


def test_every_nth_step_is_watched_and_skipped_ones_never():
    lost, _ = train("fp32", steps=7, every=3)
    assert [one.step for one in lost.by_step()] == [0, 3, 6]
    lost, records = train("amp-fp16,scale=2^40", steps=10, lr=1e-3)
    assert len(lost.by_step()) == sum(not record.skipped for record in records) < 10


def test_nothing_is_watched_after_the_end():
    model = Weights([1.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with track_updates(model, optimizer) as lost:
        one_step(model, optimizer, [1.0])
    one_step(model, optimizer, [1.0])
    assert len(lost) == 1
    assert lost.total() == replace(lost["w"][0], parameter="all")


def test_watching_changes_nothing():
    _, records = train("bf16-sr", steps=5)
    trainer = Trainer(
        replace(load_task("digits-cnn"), lr=1e-4, optimizer="adamw"), Recipe.parse("bf16-sr"), seed=0, device="cpu"
    )
    assert [record.loss for record in trainer.steps(5)] == [record.loss for record in records]


def test_a_foreign_optimizer_is_watched_by_its_weights():
    class Plain(torch.optim.Optimizer):
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    p.data.sub_(p.grad)

    model = Weights([1.0, 1.0], torch.bfloat16)
    optimizer = Plain(model.parameters(), {})
    with track_updates(model, optimizer) as lost:
        one_step(model, optimizer, [1e-3, 0.5])
    assert lost["w"] == [Lost(0, "w", swallowed=Share(1, 2))]


def test_mistakes_are_named():
    model = Weights([1.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got list"):
        track_updates([model.w], optimizer)
    with pytest.raises(TypeError, match=r"optimizer must be a torch.optim.Optimizer, got str; a trainer has it as"):
        track_updates(model, "adam")
    with pytest.raises(ValueError, match=r"every must be a whole number from 1 up, got 0"):
        track_updates(model, optimizer, every=0)
    lost = track_updates(model, optimizer)
    with pytest.raises(RuntimeError, match=r"no step was seen; take steps"):
        lost.total()
    with pytest.raises(KeyError, match=r"nothing seen of 'v'; seen: nothing yet"):
        lost["v"]
