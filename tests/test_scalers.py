from __future__ import annotations

import copy
import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import SGD

from mixlab import ApexPolicy, DeepSpeedPolicy, DynamicScaler, MegatronPolicy, NoScaler, StaticScaler, TorchPolicy
from mixlab.scale_policies import MinimumScaleError, simulate
from mixlab.scalers import unscale_without_reading_

SCALERS = {"none": NoScaler, "static": StaticScaler, "dynamic": lambda scale=2.0**16: DynamicScaler(TorchPolicy(scale))}


def parameter(gradient: float, *, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    p = torch.zeros(3, dtype=dtype, requires_grad=True)
    p.grad = torch.full((3,), gradient, dtype=dtype)
    return p


def drive(scaler, overflows, *, p=None, optimizer=None) -> list[float]:
    """Takes one step for each flag, with an inf in the gradient where it is set; returns the scale after each."""
    p = torch.zeros(3, requires_grad=True) if p is None else p
    optimizer = optimizer or SGD([p], lr=1.0)
    scales = []
    for overflow in overflows:
        p.grad = torch.tensor([1.0, math.inf if overflow else 0.5, -2.0])
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    return scales


def vector(text: str) -> list[bool]:
    return [character == "1" for character in text]


@pytest.mark.parametrize(
    ("init_scale", "overflows", "scales"),
    [
        (1024, "1100000101", [512, 256, 256, 256, 512, 512, 512, 256, 256, 128]),
        (
            1024,
            "000100011000000",
            [1024, 1024, 2048, 1024, 1024, 1024, 2048, 1024, 512, 512, 512, 1024, 1024, 1024, 2048],
        ),
        (4, "111111", [2, 1, 0.5, 0.25, 0.125, 0.0625]),
    ],
)
def test_golden_vectors(init_scale, overflows, scales):
    assert drive(DynamicScaler(TorchPolicy(init_scale, growth_interval=3)), vector(overflows)) == scales


knobs = st.fixed_dictionaries(
    {
        "init_scale": st.floats(2.0**-140, 2.0**127, width=32),
        "growth_factor": st.floats(1, 2.0**70, exclude_min=True),
        "backoff_factor": st.floats(2.0**-70, 1, exclude_max=True),
        "growth_interval": st.integers(1, 5),
    }
)


@given(knobs=knobs, overflows=st.lists(st.booleans(), min_size=1, max_size=40), saved_at=st.integers(0, 39))
@settings(max_examples=300, deadline=None)
def test_step_for_step_equal_to_torch(knobs, overflows, saved_at):
    ours, theirs = DynamicScaler(TorchPolicy(**knobs)), torch.amp.GradScaler("cpu", **knobs)
    theirs.scale(torch.zeros(()))  # torch makes its scale tensor here
    p, q = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    our_optimizer, their_optimizer = SGD([p], lr=0.5), SGD([q], lr=0.5)
    for step, overflow in enumerate(overflows):
        p.grad = torch.tensor([1.0, math.inf if overflow else 0.5, -2.0])
        q.grad = p.grad.clone()
        if step == saved_at:  # a round trip, and an exchange of states between the two kinds
            state, their_state = ours.state_dict(), theirs.state_dict()
            assert state == their_state
            ours, theirs = DynamicScaler(), torch.amp.GradScaler("cpu")
            ours.load_state_dict(their_state)
            theirs.load_state_dict(state)
            theirs.scale(torch.zeros(()))
        ours.step(our_optimizer)
        theirs.step(their_optimizer)
        ours.update()
        theirs.update()
        assert ours.get_scale() == theirs.get_scale()
        assert torch.equal(p, q) or (p.isnan() == q.isnan()).all()
        assert ours.state_dict() == theirs.state_dict()


@given(loss=st.floats(width=32), scale=st.floats(2.0**-100, 2.0**100, width=32))
def test_scaling_and_unscaling_equal_torch(loss, scale):
    theirs = torch.amp.GradScaler("cpu", init_scale=scale)
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.tensor(loss).to(dtype)
        for ours in (StaticScaler(scale), DynamicScaler(TorchPolicy(scale))):
            scaled, expected = ours.scale(x), theirs.scale(x)
            assert scaled.dtype is expected.dtype
            assert torch.equal(scaled.nan_to_num(), expected.nan_to_num())
            p, q = parameter(float(x), dtype=dtype), parameter(float(x), dtype=dtype)
            fresh = torch.amp.GradScaler("cpu", init_scale=scale)
            fresh.scale(x)
            ours.unscale_(SGD([p]))
            fresh.unscale_(SGD([q]))
            assert torch.equal(p.grad.nan_to_num(), q.grad.nan_to_num())


def test_growth_to_infinity_is_refused():
    assert drive(DynamicScaler(TorchPolicy(2.0**127, growth_interval=1)), [False, False]) == [2.0**127, 2.0**127]


def test_a_scale_of_zero_makes_nan_silently_as_in_torch():
    scaler = DynamicScaler(TorchPolicy(2.0**-149))
    p = torch.ones(3, requires_grad=True)
    assert drive(scaler, [True], p=p) == [0.0]
    p.grad = torch.zeros(3)  # what a loss times zero gives
    optimizer = SGD([p], lr=1.0)
    scaler.step(optimizer)
    assert not scaler.found_inf
    assert p.isnan().all()


def test_a_tracker_beyond_the_interval_never_grows_again():
    scaler = DynamicScaler(TorchPolicy(1.0, growth_interval=10))
    drive(scaler, [False] * 5)
    scaler.load_state_dict(scaler.state_dict() | {"growth_interval": 3})
    assert drive(scaler, [False] * 20) == [1.0] * 20


@pytest.mark.parametrize("name", ["static", "dynamic"])
def test_a_bad_gradient_skips_only_its_own_optimizer(name):
    scaler = SCALERS[name](4.0)
    good, bad = parameter(4.0), parameter(math.nan)
    for p in (good, bad):
        scaler.step(SGD([p], lr=1.0))
    assert scaler.found_inf
    assert (good == -1).all()
    assert (bad == 0).all()
    scaler.update()
    assert not scaler.found_inf
    assert scaler.get_scale() == (2.0 if name == "dynamic" else 4.0)


def test_unscaling_without_reading_leaves_what_was_found_on_the_device():
    weights = [torch.nn.Parameter(torch.ones(2, dtype=dtype)) for dtype in (torch.float32, torch.bfloat16)]
    optimizer = SGD(weights)
    for bad in (8.0, math.inf):
        for weight in weights:
            weight.grad = torch.tensor([8.0, 8.0], dtype=weight.dtype)
        weights[1].grad[0] = bad
        (found_inf,) = unscale_without_reading_(optimizer, 4.0)
        assert found_inf.tolist() == [float(bad == math.inf)]
        assert [weight.grad[1].item() for weight in weights] == [2.0, 2.0]


def test_no_scaler_steps_on_nan():
    p = parameter(math.nan)
    scaler = NoScaler()
    scaler.unscale_(SGD([p]))
    scaler.step(SGD([p], lr=1.0))
    scaler.update()
    assert p.isnan().all()
    assert scaler.get_scale() == 1
    assert scaler.scale(p) is p


@pytest.mark.parametrize("name", ["static", "dynamic"])
def test_the_order_of_calls_is_checked(name):
    scaler, p = SCALERS[name](2.0), parameter(1.0)
    optimizer = SGD([p], lr=1.0)
    with pytest.raises(RuntimeError, match=r"call step\(optimizer\) before it"):
        scaler.update()
    scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="unscaled already"):
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    with pytest.raises(RuntimeError, match=r"call update\(\) before its next step"):
        scaler.step(optimizer)
    with pytest.raises(RuntimeError, match=r"has stepped already; call update\(\) first"):
        scaler.unscale_(optimizer)
    with pytest.raises(ValueError, match=r"call backward\(\) first"):
        SCALERS[name]().step(SGD([torch.zeros(1, requires_grad=True)]))


@pytest.mark.parametrize("name", ["static", "dynamic"])
def test_fp16_gradients_are_refused_unless_asked_for(name):
    optimizer = SGD([parameter(1.0, dtype=torch.float16)])
    with pytest.raises(ValueError, match="gradients in float16 would underflow again"):
        SCALERS[name]().unscale_(optimizer)
    scaler = SCALERS[name](2.0)
    scaler.unscale_(optimizer, allow_fp16=True)
    assert optimizer.param_groups[0]["params"][0].grad.tolist() == [0.5] * 3


@pytest.mark.parametrize("name", ["static", "dynamic"])
def test_sparse_gradients(name):
    embedding = torch.nn.Embedding(4, 2, sparse=True)
    embedding(torch.tensor([1, 1])).sum().backward()
    SCALERS[name](4.0).unscale_(SGD(embedding.parameters()))
    assert embedding.weight.grad.to_dense()[1].tolist() == [0.5, 0.5]


STATEFUL = [
    NoScaler(),
    StaticScaler(8.0),
    DynamicScaler(TorchPolicy(8.0, 3.0, 0.25, 7)),
    DynamicScaler(ApexPolicy(8.0, 7, 0.5, 64.0)),
    DynamicScaler(MegatronPolicy(8.0, 3.0, 0.25, 7, 0.5, 3)),
    DynamicScaler(DeepSpeedPolicy(8.0, 7, 0.5, 3, True)),
]


@pytest.mark.parametrize("scaler", STATEFUL, ids=lambda scaler: type(getattr(scaler, "policy", scaler)).__name__)
def test_the_state_round_trip_keeps_every_field(scaler):
    other = type(scaler)()
    if isinstance(scaler, DynamicScaler):
        drive(scaler, [True, False, False])
        other = DynamicScaler(type(scaler.policy)())
    other.load_state_dict(copy.deepcopy(scaler.state_dict()))
    assert other.state_dict() == scaler.state_dict()
    assert other.get_scale() == scaler.get_scale()
    if isinstance(scaler, DynamicScaler):
        assert drive(other, [False] * 9 + [True] * 3) == drive(scaler, [False] * 9 + [True] * 3)


@pytest.mark.parametrize("kind", [TorchPolicy, ApexPolicy, MegatronPolicy, DeepSpeedPolicy])
def test_the_scaler_moves_as_its_policy_says(kind):
    policy = kind(2.0**20, growth_interval=3)
    overflows = vector("1100000101" * 3)
    assert tuple(drive(DynamicScaler(policy), overflows)) == simulate(policy, overflows).scales[1:]


def test_deepspeed_ends_the_training_at_its_minimum():
    scaler = DynamicScaler(DeepSpeedPolicy(2.0, hysteresis=1))
    with pytest.raises(MinimumScaleError, match="at its minimum, 1"):
        drive(scaler, [True, True])


@pytest.mark.parametrize("kind", [StaticScaler, DynamicScaler])
@pytest.mark.parametrize(
    ("optimizer", "moved"),
    [
        (lambda p: SGD([p], lr=0.1), 0.0),
        (lambda p: SGD([p], lr=0.1, momentum=0.9), -0.09),  # lr * momentum * the clean step's gradient
        (lambda p: torch.optim.AdamW([p], lr=1e-2, weight_decay=0.1, betas=(0.0, 0.999)), -0.001),  # lr * decay
    ],
)
def test_a_zeroed_gradient_is_no_skipped_step(kind, optimizer, moved):
    weights = {}
    for policy in ("skip", "zero"):
        p = torch.ones(3, requires_grad=True)
        scaler, stepping = kind(on_overflow=policy), optimizer(p)
        assert scaler.skips == (policy == "skip")
        for gradient in (torch.ones(3), torch.tensor([math.inf, 1.0, math.nan])):
            p.grad = gradient * scaler.get_scale()
            scaler.step(stepping)
            scaler.update()
        weights[policy] = p.detach().clone()
    assert torch.allclose(weights["zero"] - weights["skip"], torch.full((3,), moved), atol=2e-5)


def test_optimizers_that_share_a_scaler_step_or_skip_each_for_itself_as_in_torch():
    ours, theirs = DynamicScaler(TorchPolicy(4.0)), torch.amp.GradScaler("cpu", init_scale=4.0)
    theirs.scale(torch.zeros(()))
    results = []
    for scaler in (ours, theirs):
        weights = [parameter(4.0), parameter(math.inf), parameter(8.0)]
        optimizers = [SGD([p], lr=1.0) for p in weights]
        scaler.unscale_(optimizers[0])
        for optimizer in optimizers:
            scaler.step(optimizer)
        scaler.update()
        results.append([p[0].item() for p in weights] + [scaler.get_scale()])
    assert results == [[-1.0, 0.0, -2.0, 2.0]] * 2


def test_the_state_of_another_kind_is_refused():
    with pytest.raises(ValueError, match=r"this scaler's state is scale; got .*growth_factor.*another kind"):
        StaticScaler().load_state_dict(DynamicScaler().state_dict())
    with pytest.raises(ValueError, match="this scaler's state is nothing; got scale"):
        NoScaler().load_state_dict(StaticScaler().state_dict())


@pytest.mark.parametrize("scale", [0, -1.0, math.nan, math.inf, 1e300, 1e-300, "8", None, True])
def test_a_bad_scale_is_named(scale):
    for make in (StaticScaler, TorchPolicy):
        with pytest.raises(ValueError, match=re.escape(f"float32 can hold, got {scale!r}")):
            make(scale)


def test_other_bad_arguments_are_named():
    with pytest.raises(ValueError, match="on_overflow must be one of skip, zero, got 'clip'"):
        StaticScaler(on_overflow="clip")
    with pytest.raises(
        TypeError, match="policy must be one of TorchPolicy, ApexPolicy, MegatronPolicy, DeepSpeedPolicy"
    ):
        DynamicScaler(1024)
    with pytest.raises(ValueError, match="this scaler's state is"):
        DynamicScaler(ApexPolicy()).load_state_dict(DynamicScaler(DeepSpeedPolicy()).state_dict())
