from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import get_args

import numpy as np
import pytest
import torch

import mixlab
from mixlab import Recipe, loss_scaling
from mixlab.loss_scaling import (
    ApexPolicy,
    DeepSpeedPolicy,
    MegatronPolicy,
    MinimumScaleError,
    ScalePolicy,
    ScaleState,
    TorchPolicy,
    all_policies,
    hunt,
    simulate,
)
from mixlab.recipes import ScalerName
from tests.reference import scalers as reference

POLICIES = get_args(ScalePolicy)
SEQUENCES = [2000, pytest.param(10_000, marks=pytest.mark.slow)]
A, B = "1100000101", "000100011000000"
CONSECUTIVE = {"hysteresis": 2, "consecutive_hysteresis": True}


def flags(text: str) -> list[bool]:
    return [character == "1" for character in text]


@pytest.mark.parametrize(
    ("policy", "knobs", "overflows", "scales"),
    [
        (TorchPolicy, {}, A, "512 256 256 256 512 512 512 256 256 128"),
        (ApexPolicy, {}, A, "512 256 256 256 512 512 512 256 256 128"),
        (MegatronPolicy, {"hysteresis": 2}, A, "1024 512 512 512 1024 1024 1024 1024 1024 512"),
        (DeepSpeedPolicy, {"hysteresis": 2}, A, "1024 512 512 512 512 1024 1024 1024 1024 512"),
        (DeepSpeedPolicy, CONSECUTIVE, A, "1024 512 512 512 512 1024 1024 1024 1024 1024"),
        (DeepSpeedPolicy, {"hysteresis": 1}, A, "512 256 256 256 256 512 512 256 256 128"),
        (TorchPolicy, {}, B, "1024 1024 2048 1024 1024 1024 2048 1024 512 512 512 1024 1024 1024 2048"),
        (
            MegatronPolicy,
            {"hysteresis": 2},
            B,
            "1024 1024 2048 2048 2048 2048 4096 4096 2048 2048 2048 4096 4096 4096 8192",
        ),
        (DeepSpeedPolicy, {"hysteresis": 2}, B, "1024 " * 7 + "512 256 256 256 256 512 512 512"),
        (DeepSpeedPolicy, CONSECUTIVE, B, "1024 " * 8 + "512 " * 4 + "1024 " * 3),
        (TorchPolicy, {"init_scale": 4}, "111111", "2 1 .5 .25 .125 .0625"),
        (MegatronPolicy, {"init_scale": 4, "hysteresis": 1}, "111111", "2 1 1 1 1 1"),
        (MegatronPolicy, {"init_scale": 4, "hysteresis": 2}, "111111", "4 2 1 1 1 1"),
    ],
)
def test_golden_vectors(policy, knobs, overflows, scales):
    history = simulate(policy(**{"init_scale": 1024, "growth_interval": 3, **knobs}), flags(overflows))
    assert history.scales[1:] == tuple(map(float, scales.split()))
    assert history.overflows == tuple(flags(overflows))
    assert not history.error


def test_deepspeed_gives_up_at_its_minimum():
    history = simulate(DeepSpeedPolicy(4, growth_interval=3, hysteresis=1), flags("111111"))
    assert history.scales == (4, 2, 1)
    assert history.overflows == (True, True, True)
    assert "the loss scale is at its minimum, 1, and gradients overflow" in history.error


def random_knobs(rng: np.random.Generator) -> dict:
    init_scale = float(np.float32(2.0 ** rng.uniform(-4, 30))) if rng.random() < 0.5 else 2.0 ** rng.integers(-4, 30)
    return {
        "init_scale": init_scale,
        "growth_factor": float(rng.choice([2.0, 1 + rng.random(), 2.0 ** rng.integers(1, 40)])),
        "backoff_factor": float(rng.choice([0.5, rng.uniform(0.01, 0.99), 2.0 ** -rng.integers(1, 40)])),
        "growth_interval": int(rng.integers(1, 7)),
        "min_scale": init_scale / float(rng.choice([1, 2, 8, 1024, rng.uniform(1, 100)])),
        "max_scale": init_scale * float(rng.choice([1, 2, 1024, rng.uniform(1, 100)])),
        "hysteresis": int(rng.integers(1, 5)),
        "consecutive_hysteresis": bool(rng.random() < 0.5),
    }


def of_torch(policy: TorchPolicy, overflows: list[bool]) -> list[float]:
    """Returns the scales after each step by the operator behind `torch.amp.GradScaler.update`."""
    scale, tracker = torch.tensor([policy.init_scale], dtype=torch.float32), torch.zeros(1, dtype=torch.int32)
    scales = []
    for overflow in overflows:
        found, factors = torch.tensor([float(overflow)]), (policy.growth_factor, policy.backoff_factor)
        torch._amp_update_scale_(scale, tracker, found, *factors, policy.growth_interval)
        scales.append(scale.item())
    return scales


def of_reference(kind, knobs: dict, overflows: list[bool]) -> list[float]:
    scaler, scales = kind(**knobs), []
    for overflow in overflows:
        try:
            scaler.update(overflow)
        except RuntimeError:
            break
        scales.append(scaler.scale)
    return scales


@pytest.mark.parametrize("count", SEQUENCES)
@pytest.mark.parametrize("policy", POLICIES)
def test_random_sequences_are_those_of_the_system(policy, count):
    rng = np.random.default_rng(0)
    grown = lowered = gave_up = 0
    for _ in range(count):
        knobs = {name: value for name, value in random_knobs(rng).items() if name in policy.__dataclass_fields__}
        overflows = list(map(bool, rng.random(rng.integers(1, 25)) < rng.choice([0.05, 0.3, 0.8])))
        history = simulate(policy(**knobs), overflows)
        if policy is TorchPolicy:
            expected = of_torch(policy(**knobs), overflows)
        else:
            expected = of_reference(getattr(reference, policy.__name__.removesuffix("Policy")), knobs, overflows)
        assert list(history.scales[1:]) == expected, (knobs, overflows)
        assert (len(expected) < len(overflows)) <= bool(history.error)
        grown += max(history.scales) > history.scales[0]
        lowered += min(history.scales) < history.scales[0]
        gave_up += bool(history.error)
    assert min(grown, lowered) > count // 20
    assert (gave_up > count // 20) == (policy is DeepSpeedPolicy)


@pytest.mark.parametrize("policy", [policy() for policy in POLICIES])
def test_a_hunt_stays_at_the_limit(policy):
    policy = replace(policy, init_scale=2.0**10, growth_interval=4)
    history = hunt(policy, [3000.0] * 100)
    assert set(history.scales[30:]) <= {1024.0, 2048.0, 4096.0}
    assert 2048.0 in history.scales[30:]
    assert history.overflows == tuple(scale > 3000 for scale in history.scales[:-1])
    assert history.overflowed == sum(history.overflows) > 3


def test_a_static_sequence_moves_nothing_but_by_the_flags():
    assert simulate(TorchPolicy(8.0), []).scales == (8.0,)
    assert simulate(ApexPolicy(8.0, growth_interval=1, max_scale=16), [False] * 4).scales == (8, 16, 16, 16, 16)


def test_torchs_corner_cases():
    assert simulate(TorchPolicy(2.0**127, growth_interval=1), [False] * 2).scales == (2.0**127,) * 3
    assert simulate(TorchPolicy(2.0**-148), [True] * 3).scales == (2.0**-148, 2.0**-149, 0.0, 0.0)
    late = ScaleState(1.0, clean=5)  # of a policy with a longer interval
    for _ in range(20):
        late = TorchPolicy(1.0, growth_interval=3).after(late, overflow=False)
    assert (late.scale, late.clean) == (1.0, 25)


def test_megatron_grows_to_inf_and_stays_there():
    scales = simulate(MegatronPolicy(2.0**127, growth_interval=1, hysteresis=1), [False, True, True]).scales
    assert scales == (2.0**127, math.inf, math.inf, math.inf)


def test_deepspeed_raises_by_itself():
    policy = DeepSpeedPolicy(1.0, hysteresis=1)
    with pytest.raises(MinimumScaleError, match="DeepSpeed stops here"):
        policy.after(policy.start(), overflow=True)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TorchPolicy(0), "TorchPolicy: init_scale must be a positive number that float32 can hold, got 0"),
        (lambda: ApexPolicy(8, min_scale=16), "min_scale must be a positive number up to init_scale=8, got 16"),
        (lambda: ApexPolicy(8, max_scale=4), "max_scale must be a finite number from init_scale=8 up, got 4"),
        (lambda: ApexPolicy(8, max_scale=math.nan), "max_scale must be a finite number from init_scale=8 up, got nan"),
        (
            lambda: MegatronPolicy(min_scale=0),
            "min_scale must be a positive number up to init_scale=4.29497e\\+09, got 0",
        ),
        (lambda: MegatronPolicy(hysteresis=0), "MegatronPolicy: hysteresis must be a whole number from 1 up, got 0"),
        (lambda: DeepSpeedPolicy(min_scale=-1), "min_scale must be a positive number up to init_scale=65536, got -1"),
        (lambda: DeepSpeedPolicy(growth_interval=1.5), "growth_interval must be a whole number from 1 up, got 1.5"),
        (lambda: DeepSpeedPolicy(consecutive_hysteresis=1), "consecutive_hysteresis must be True or False, got 1"),
        (lambda: hunt(TorchPolicy(), [math.nan]), "a limit must be a number from 0 up, got nan"),
    ],
)
def test_a_bad_knob_is_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_knobs_have_the_same_names_everywhere():
    names = {name for policy in POLICIES for name in asdict(policy())}
    assert names == {
        "init_scale",
        "growth_factor",
        "backoff_factor",
        "growth_interval",
        "min_scale",
        "max_scale",
        "hysteresis",
        "consecutive_hysteresis",
    }


def test_every_policy_is_public_and_on_the_board_and_has_a_name_in_recipes():
    assert set(POLICIES) == {type(policy) for policy in all_policies(8.0, growth_interval=3).values()}
    names = set(get_args(ScalerName)) - {"none", "static"}
    assert set(POLICIES) == {type(Recipe.parse(f"amp-fp16,scaler={name}").scale_policy()) for name in names}
    assert {policy.__name__ for policy in POLICIES} <= set(mixlab.__all__) & set(loss_scaling.__all__)
