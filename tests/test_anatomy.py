from __future__ import annotations

import math

import pytest
import torch

from mixlab import PRESETS, Recipe, Trainer, load_task
from mixlab.anatomy import Stage, dissect
from mixlab.optimizers import state_tensors
from mixlab.tasks import Task
from tests.small import SMALL_GPT

NAMES = ["cast", "forward", "scaled loss", "backward", "unscale", "check", "step", "update"]


def at_step(recipe: str, steps: int = 3, *, task: Task | None = None, loss_weight: float = 1.0) -> Trainer:
    task = task or load_task("digits-mlp", loss_weight=loss_weight)
    trainer = Trainer(task, Recipe.parse(recipe), device="cpu")
    list(trainer.steps(steps))
    return trainer


def card(stage: Stage, name: str):
    return next(card for card in stage.cards if name in card.name)


@pytest.mark.parametrize("task", [load_task("digits-mlp"), load_task("digits-cnn"), SMALL_GPT], ids=lambda t: t.name)
@pytest.mark.parametrize("recipe", PRESETS)
def test_taking_a_step_apart_is_taking_it(recipe, task):
    left, right = at_step(recipe, 1, task=task), at_step(recipe, 1, task=task)
    stages = dissect(left)
    list(right.steps(1))
    assert [stage.name for stage in stages] == NAMES
    for p, q in zip(left.model.parameters(), right.model.parameters(), strict=True):
        assert torch.equal(p.nan_to_num(7), q.nan_to_num(7))
        assert p.grad is None
    for (_, p), (_, q) in zip(state_tensors(left.optimizer), state_tensors(right.optimizer), strict=True):
        assert torch.equal(p.nan_to_num(7), q.nan_to_num(7))
    assert left.scaler.get_scale() == right.scaler.get_scale()
    assert left.step == right.step == 2


def test_the_formats_on_the_way_through_amp():
    cast, forward, scaled, backward, unscale, check, step, update = dissect(at_step("amp-fp16"))
    assert [c.format for c in cast.cards] == ["fp32", "fp16"]
    assert [c.format for c in forward.cards] == ["fp16", "fp32"]
    assert scaled.cards[1].value == pytest.approx(65536 * scaled.cards[0].value)
    assert [c.format for c in backward.cards] == ["fp16", "fp32"]
    assert unscale.cards[0].value == backward.cards[1].value / 65536
    assert unscale.cards[0].value == pytest.approx(unscale.cards[1].value, rel=1e-2)
    assert "may be taken" in check.words
    assert step.cards[0].value != step.cards[1].value
    assert card(step, "momentum").format == "fp32"
    assert update.cards[0].value == update.cards[1].value == 65536


def test_the_cast_is_torchs():
    weight = card(dissect(at_step("amp-bf16"))[0], "stored")
    seen = card(dissect(at_step("amp-bf16"))[0], "product sees")
    assert seen.value == torch.tensor(weight.value).bfloat16().item() != weight.value


def test_an_overflow_is_found_skipped_and_answered():
    stages = dissect(at_step("amp-fp16,scale=2^40", 0))
    assert stages[3].cards[1].non_finite > 0
    assert "will be skipped" in stages[5].words
    assert "skipped: weights" in stages[6].words
    assert stages[6].cards[0].value == stages[6].cards[1].value
    assert [c.value for c in stages[7].cards] == [2.0**40, 2.0**39]
    assert (
        "will be taken with all gradients set to zero"
        in dissect(at_step("amp-fp16,scale=2^40,on_overflow=zero", 0))[5].words
    )


def test_without_a_scale_the_small_gradient_is_gone():
    stages = dissect(at_step("amp-fp16,scaler=static,scale=1", 0, loss_weight=1e-6))
    gradient, exact = stages[4].cards
    assert gradient.value == 0 != exact.value
    assert gradient.zeros > 0.9 * gradient.numel


def test_a_bf16_weight_that_does_not_move_and_its_master_that_does():
    lost, kept = dissect(at_step("bf16,update=nearest", 3, loss_weight=1e-4)), dissect(at_step("bf16-master", 3))
    assert "does not move" in lost[6].words
    master = card(kept[6], "master weight")
    assert master.format == "fp32"
    assert math.isclose(master.value, card(kept[6], "weight after").value, rel_tol=2**-8)


def test_another_parameter_and_element():
    stages = dissect(at_step("fp32"), parameter="output.bias", element=9)
    assert stages[0].cards[0].numel == 10
    assert "nothing is cast" in stages[0].words
    with pytest.raises(ValueError, match=r"unknown parameter 'head': use one of hidden1.weight"):
        dissect(at_step("fp32"), parameter="head")
    with pytest.raises(ValueError, match="element must be from 0 to 9, got 10"):
        dissect(at_step("fp32"), parameter="output.bias", element=10)
