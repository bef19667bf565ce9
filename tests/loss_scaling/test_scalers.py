from __future__ import annotations

import copy
import json
import math
import re
from collections import namedtuple
from dataclasses import fields
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import SGD

from mixlab import ApexPolicy, DeepSpeedPolicy, DynamicScaler, MegatronPolicy, NoScaler, StaticScaler, TorchPolicy
from mixlab.loss_scaling import MinimumScaleError, ScalePolicy, simulate
from mixlab.loss_scaling.checked_steps import unscale_without_reading_

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
@settings(max_examples=300)
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


@pytest.mark.parametrize("name", ["static", "dynamic"])
def test_an_optimizer_without_gradients_is_unscaled_but_not_stepped_as_in_torch(name):
    idle, busy = SGD([torch.zeros(1, requires_grad=True)]), SGD([parameter(1.0)])
    ours, theirs = SCALERS[name](), torch.amp.GradScaler("cpu")
    theirs.scale(torch.zeros(()))
    for scaler in (ours, theirs):
        scaler.unscale_(idle)
        with pytest.raises((ValueError, AssertionError), match=r"call backward\(\) first|No inf checks were recorded"):
            scaler.step(idle)
        with pytest.raises((RuntimeError, AssertionError), match=r"no gradients were checked|No inf checks"):
            scaler.update()
        scaler.step(busy)
        scaler.update()
    with pytest.raises(ValueError, match=r"call backward\(\) first"):
        SCALERS[name]().step(idle)


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


@pytest.mark.parametrize("kind", get_args(ScalePolicy))
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


class Told(SGD):
    """Returns what it was given."""

    def step(self, closure=None, *, weight=1.0):
        return super().step(closure), weight


@pytest.mark.parametrize("name", [*SCALERS, "torch"])
def test_step_passes_on_what_it_is_given_and_returns_what_the_optimizer_returns(name):
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0) if name == "torch" else SCALERS[name]()
    scaler.scale(torch.zeros(()))
    first, second, third, bad = (
        make([parameter(g)]) for make, g in ((Told, 1.0), (Told, 1.0), (SGD, 1.0), (SGD, math.nan))
    )
    assert scaler.step(first, weight=3) == (None, 3)
    assert scaler.step(second, lambda: 5, weight=2) == (5, 2)
    assert scaler.step(third, lambda: 7.0) == 7.0
    if name != "none":
        assert scaler.step(bad, lambda: 7.0) is None
        scaler.update()
        p = parameter(1.0)
        optimizer = SGD([p])
        scaler.unscale_(optimizer)
        assert scaler.step(optimizer, lambda: 7.0) == 7.0  # a closure that computes no gradients


def problem():
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    return model, torch.randn(8, 3), torch.randn(8, 1)


@pytest.mark.parametrize("call", [None, lambda closure: {"closure": closure}], ids=["positional", "keyword"])
@pytest.mark.parametrize(
    "make",
    [
        lambda p: SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.AdamW(p, lr=0.1),
        lambda p: torch.optim.LBFGS(p, lr=0.5, max_iter=4),  # calls its closure several times a step
    ],
)
@pytest.mark.parametrize("name", SCALERS)
def test_a_closure_of_scaled_gradients_gives_the_weights_of_an_unscaled_training(name, make, call):
    ends = []
    for scaler in (NoScaler(), SCALERS[name]()):
        model, x, y = problem()
        optimizer, losses = make(model.parameters()), []

        def closure(model=model, optimizer=optimizer, scaler=scaler, x=x, y=y):
            optimizer.zero_grad()
            loss = (model(x) - y).square().mean()
            scaler.scale(loss).backward()
            return loss

        for _ in range(5):
            with torch.no_grad():
                loss = (
                    scaler.step(optimizer, closure)
                    if given == "positional"
                    else scaler.step(optimizer, closure=closure)
                )
            losses.append(loss.item())
            scaler.update()
        ends.append((losses, model.weight.tolist()))
    assert ends[0] == ends[1]  # scales are powers of two
    assert losses[-1] < losses[0]


def test_a_closure_is_called_once_also_if_the_step_is_skipped_and_never_between_unscaling_and_step():
    model, x, y = problem()
    scaler, optimizer, calls = DynamicScaler(), SGD(model.parameters(), lr=0.1), []

    def closure():
        optimizer.zero_grad()
        (scaler.scale((model(x) - y).square().mean()) * math.inf).backward()
        calls.append(1)

    before = model.weight.tolist()
    assert scaler.step(optimizer, closure) is None
    assert scaler.found_inf
    scaler.update()
    assert (len(calls), model.weight.tolist(), scaler.get_scale()) == (1, before, 2.0**15)
    scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match=r"unscale_ was called before the closure, which computes scaled gradients"):
        scaler.step(optimizer, closure)
    assert model.weight.tolist() == before


Pair = namedtuple("Pair", "a b")


@pytest.mark.parametrize("name", ["static", "dynamic"])
def test_lists_tuples_and_iterables_are_scaled_as_in_torch(name):
    ours, theirs = SCALERS[name](8.0), torch.amp.GradScaler("cpu", init_scale=8.0)
    x, y = torch.tensor(1.5), torch.tensor([2.0, 3.0], dtype=torch.bfloat16)
    for outputs in ([x, y], (x, [y, (x,)]), [], ()):
        assert str(ours.scale(outputs)) == str(theirs.scale(outputs))
    assert str(list(ours.scale(t for t in (x, y)))) == str(list(theirs.scale(t for t in (x, y))))
    assert ours.scale(Pair(x, y)).a == 12
    assert NoScaler().scale([x, y])[0] is x
    for wrong in (1.0, "loss", {"loss": x}, None, [x, 2.0]):
        with pytest.raises(ValueError, match="scale: outputs must be a tensor, or a list or tuple of tensors, got"):
            ours.scale(wrong)


def test_gradients_of_other_kinds_are_unscaled_as_in_torch():
    for dtype in (torch.float64, torch.bfloat16, torch.complex64):
        p = torch.zeros(3, dtype=dtype, requires_grad=True)
        p.grad = torch.full((3,), 8.0, dtype=dtype)
        scaler = StaticScaler(4.0)
        scaler.unscale_(SGD([p]))
        assert p.grad.tolist() == [2.0] * 3
    empty = torch.zeros(0, requires_grad=True)
    empty.grad = torch.zeros(0)
    StaticScaler(4.0).step(SGD([empty]))


@pytest.mark.parametrize("duplicates", [True, False])
def test_sparse_gradients_are_checked_as_in_torch(duplicates):
    """Two values of one row that are finite, and whose sum is not."""
    found = []
    for scaler in (DynamicScaler(TorchPolicy(4.0)), torch.amp.GradScaler("cpu", init_scale=4.0)):
        scaler.scale(torch.zeros(()))
        embedding = torch.nn.Embedding(4, 2, sparse=True)
        rows = torch.tensor([1, 1] if duplicates else [1, 2])
        embedding(rows).backward(torch.full((2, 2), 2.5e38))
        optimizer = SGD(embedding.parameters(), lr=1e-38)
        scaler.step(optimizer)
        scaler.update()
        found.append((scaler.get_scale(), embedding.weight.grad.to_dense().tolist()))
    assert found[0] == found[1]


BAD_STATES = [
    (StaticScaler(), {"scale": bad}) for bad in (0, -1.0, math.nan, math.inf, 1e300, 1e-300, "8", None, True, 10**400)
]
BAD_STATES += [
    (DynamicScaler(TorchPolicy()), bad)
    for bad in (
        *({"scale": scale} for scale in (-1.0, math.nan, math.inf, 1e300, "8", None, True, 10**400)),
        {"growth_factor": 1.0},
        {"backoff_factor": 2.0},
        {"growth_interval": 0},
        {"growth_interval": 2.5},
        {"_growth_tracker": -1},
        {"_growth_tracker": 0.5},
        {"_growth_tracker": None},
    )
]
BAD_STATES += [
    (DynamicScaler(ApexPolicy(min_scale=2.0)), bad)
    for bad in ({"scale": 1.0}, {"scale": 2.0**25}, {"max_scale": math.nan}, {"clean": "3"}, {"min_scale": -1})
]
BAD_STATES += [
    (DynamicScaler(kind()), bad)
    for kind in (MegatronPolicy, DeepSpeedPolicy)
    for bad in ({"scale": 0.0}, {"scale": math.nan}, {"hysteresis_left": None}, {"hysteresis": 0}, {"clean": True})
]


@pytest.mark.parametrize(
    ("scaler", "bad"),
    BAD_STATES,
    ids=lambda value: ",".join(value) if isinstance(value, dict) else type(value).__name__,
)
def test_a_loaded_state_is_checked_as_the_constructor_checks(scaler, bad):
    before = scaler.state_dict()
    (name,) = bad
    with pytest.raises(ValueError, match=name.removeprefix("_growth_tracker") or "clean"):
        scaler.load_state_dict(before | bad)
    assert scaler.state_dict() == before


def test_a_state_that_is_no_dict_is_named():
    for scaler in (NoScaler(), StaticScaler(), DynamicScaler()):
        with pytest.raises(TypeError, match="a state must be a dict, got list"):
            scaler.load_state_dict([])


@pytest.mark.parametrize("kind", get_args(ScalePolicy))
@pytest.mark.parametrize("of", [np.float64, np.float32, np.float16, np.int64, int])
def test_numbers_of_numpy_are_taken_and_become_pythons(kind, of):
    given = {
        "init_scale": of(1024),
        "growth_interval": np.int32(3),
        "min_scale": of(2),
        "max_scale": np.float64(2.0**20),
    }
    given |= {"hysteresis": np.int64(2), "consecutive_hysteresis": np.bool_(True), "growth_factor": of(2)}
    names = {field.name for field in fields(kind)}
    policy = kind(**{name: value for name, value in given.items() if name in names})
    assert all(type(getattr(policy, name)) in (int, float, bool) for name in names)
    scaler = DynamicScaler(policy)
    assert drive(scaler, [True, True, False, False, False]) == list(
        simulate(policy, [True, True, False, False, False]).scales[1:]
    )
    assert json.loads(json.dumps(scaler.state_dict())) == scaler.state_dict()
    loaded = {name: np.float64(v) if type(v) is float else v for name, v in scaler.state_dict().items()}
    scaler.load_state_dict(loaded)
    assert json.dumps(scaler.state_dict())
    assert StaticScaler(of(1024)).state_dict() == {"scale": 1024.0}
    assert type(StaticScaler(of(1024)).get_scale()) is float


@pytest.mark.parametrize("bad", [10**400, -(10**400), np.float64("nan"), np.bool_(True), np.array([8.0, 9.0]), 1j])
def test_numbers_that_cannot_be_scales_are_named_whatever_they_are(bad):
    for make in (StaticScaler, TorchPolicy, ApexPolicy, MegatronPolicy, DeepSpeedPolicy):
        with pytest.raises(ValueError, match="must be a positive number that float32 can hold, got"):
            make(bad)
    with pytest.raises(ValueError, match="max_scale must be a finite number"):
        ApexPolicy(max_scale=bad)
    with pytest.raises(ValueError, match="growth_factor must be a finite number above 1"):
        TorchPolicy(growth_factor=bad)


class Wrapper:
    """As accelerate's AcceleratedOptimizer, which may hold back a step while gradients accumulate."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    param_groups = property(lambda self: self.optimizer.param_groups)

    def step(self, closure=None):
        return self.optimizer.step(closure)


@pytest.mark.parametrize("wrapped", [(True, False), (False, True), (True, True)])
def test_a_wrapped_optimizer_is_unscaled_once_whichever_is_given(wrapped):
    p = parameter(2.0)
    inner = SGD([p], lr=1.0)
    first, second = (Wrapper(Wrapper(inner)) if wrap else inner for wrap in wrapped)
    scaler = StaticScaler(8.0)
    scaler.unscale_(first)
    with pytest.raises(RuntimeError, match="unscaled already"):
        scaler.unscale_(second)
    scaler.step(second)
    assert p.tolist() == [-0.25] * 3
    with pytest.raises(RuntimeError, match="stepped already"):
        scaler.step(first)
