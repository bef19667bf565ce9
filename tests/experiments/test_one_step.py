from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mixlab import PRESETS, Recipe, Trainer, load_task
from mixlab.experiments import Stage, dissect, median_element
from mixlab.optimizers import state_tensors
from mixlab.training import Task
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
    assert "Divided by 1.09951e+12, the gradient is not finite; in float32" in stages[4].words
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
    assert "became zero in backward, and no division brings it back; in float32 it would be" in stages[4].words
    assert gradient.zeros > 0.9 * gradient.numel
    zeros = int(re.search(r"zero; in fp32, ([\d,]+) are\.$", stages[3].words)[1].replace(",", ""))
    assert zeros == dissect(at_step("fp32", 0, loss_weight=1e-6))[3].cards[-1].zeros < 0.5 * gradient.numel


def test_a_bf16_weight_that_does_not_move_and_its_master_that_does():
    lost, kept = dissect(at_step("bf16,update=nearest", 3, loss_weight=1e-4)), dissect(at_step("bf16-master", 3))
    assert "does not move" in lost[6].words
    master = card(kept[6], "master weight")
    assert master.format == "fp32"
    assert math.isclose(master.value, card(kept[6], "weight after").value, rel_tol=2**-8)


def test_a_gradient_in_16_bits_may_become_zero_only_when_it_is_divided():
    stages = dissect(at_step("fp16,scaler=static,scale=2^15", 0, loss_weight=1e-5))
    assert stages[3].cards[1].value != 0 == stages[4].cards[0].value
    assert "the gradient becomes zero in its format; in float32" in stages[4].words


@pytest.mark.parametrize(("recipe", "keeper"), [("bf16-kahan", "Kahan compensation"), ("bf16-master", "master weight")])
@pytest.mark.parametrize("steps", [0, 3])
def test_an_update_that_the_weight_does_not_show_is_kept(recipe, keeper, steps):
    step = dissect(at_step(recipe, steps, loss_weight=1e-4))[6]
    assert step.cards[0].value == step.cards[1].value
    assert step.words.endswith(f"does not move; the {keeper} keeps the update for later steps.")


def test_a_step_with_zeroed_gradients_has_no_update_to_lose():
    step = dissect(at_step("amp-fp16,scale=2^40,on_overflow=zero", 0))[6]
    assert step.cards[0].value == step.cards[1].value
    assert "there is no update" in step.words


def test_another_parameter_and_element():
    stages = dissect(at_step("fp32"), parameter="output.bias", element=9)
    assert stages[0].cards[0].numel == 10
    assert "nothing is cast" in stages[0].words
    with pytest.raises(ValueError, match=r"unknown parameter 'head': use one of hidden1.weight"):
        dissect(at_step("fp32"), parameter="head")
    with pytest.raises(ValueError, match="element must be a whole number from 0 to 9, got 10"):
        dissect(at_step("fp32"), parameter="output.bias", element=10)


class Attending(nn.Module):
    """Attention over rows of pixels: the weights of `out_proj` are used, and the module is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.scales = nn.ParameterList([nn.Parameter(torch.ones(8))])
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.unused = nn.Linear(8, 8)
        self.out = nn.Linear(64, 10)
        self.copy = nn.Linear(64, 10)
        self.copy.weight = self.out.weight

    def forward(self, x):
        x = self.frozen(x.unflatten(1, (8, 8)) * self.scales[0])  # (B, 8, 8)
        x = torch.tanh(checkpoint(self.attention, x, x, x, use_reentrant=False)[0]).flatten(1)
        return self.out(x) + self.copy(x)


ATTENDING = replace(load_task("digits-mlp"), make_model=Attending, optimizer="adam", lr=1e-3)


@pytest.mark.parametrize(
    ("parameter", "output", "numel"),
    [
        ("attention.in_proj_weight", "output of attention", 64 * 64),
        ("attention.out_proj.weight", "output of attention", 64 * 64),
        ("attention.out_proj.bias", "output of attention", 64 * 64),
        ("scales.0", "output of the model", 640),
        ("out.weight", "output of out", 640),
        ("copy.weight", "output of copy", 640),
    ],
)
def test_a_parameter_whose_module_is_not_called_is_followed_in_the_one_around_it(parameter, output, numel):
    left, right = at_step("amp-fp16", 1, task=ATTENDING), at_step("amp-fp16", 1, task=ATTENDING)
    stages = dissect(left, parameter=parameter, element=0)
    list(right.steps(1))
    for p, q in zip(left.model.parameters(), right.model.parameters(), strict=True):
        assert torch.equal(p, q)
    assert (stages[1].cards[0].name, stages[1].cards[0].numel) == (output, numel)
    assert (stages[3].cards[0].name, stages[3].cards[0].numel) == (f"gradient of the {output}", numel)
    weight = dict(right.model.named_parameters(remove_duplicate=False))[parameter]
    assert stages[6].cards[1].value == weight.detach().flatten()[0].item()
    assert stages[4].cards[0].value == pytest.approx(stages[4].cards[1].value, rel=0.1, abs=1e-5)


def test_what_no_gradient_reaches_is_named_and_not_chosen():
    first = nn.Sequential(nn.Linear(64, 16).requires_grad_(False), nn.Tanh(), nn.Linear(16, 10))
    frozen = replace(ATTENDING, make_model=lambda: first)
    assert dissect(at_step("fp32", 0, task=frozen))[0].cards[0].name == "stored 2.weight"
    assert 0 <= median_element(at_step("fp32", 0, task=frozen)) < 160
    with pytest.raises(ValueError, match=r"parameter 'frozen.weight' is frozen \(requires_grad=False\): use one of"):
        dissect(at_step("fp32", 0, task=ATTENDING), parameter="frozen.weight")
    with pytest.raises(ValueError, match=r"no gradient reaches parameter 'unused.bias': use one of attention"):
        dissect(at_step("fp32", 0, task=ATTENDING), parameter="unused.bias")


def test_a_compiled_model_is_named():
    compiled = replace(ATTENDING, make_model=lambda: torch.compile(Attending(), backend="eager"))
    with pytest.raises(TypeError, match="dissect: the model is compiled"):
        dissect(at_step("fp32", 0, task=compiled))


@pytest.mark.parametrize(
    ("recipe", "loss_weight"), [("fp16,scaler=none", 2e-6), ("amp-fp16,scaler=static,scale=1", 1e-7)]
)
def test_a_gradient_that_became_zero_is_not_blamed_on_the_weight(recipe, loss_weight):
    """In the second case the weight is fp32, which could show any update."""
    step = dissect(at_step(recipe, 0, loss_weight=loss_weight))[6]
    assert step.words.startswith("The gradient became zero on its way")


def test_a_static_scale_counts_no_steps():
    assert dissect(at_step("amp-fp16,scaler=static,scale=8", 0))[7].words == "The scale is static and stays at 8."
