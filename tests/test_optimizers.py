from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from mixlab.formats import BF16
from mixlab.optimizers import SGD, Adam, AdamW, Storage, state_tensors
from mixlab.rounding import round_to

TWINS = {
    "sgd": (SGD, torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3}),
    "plain sgd": (SGD, torch.optim.SGD, {"lr": 0.05}),
    "adam": (Adam, torch.optim.Adam, {"lr": 1e-3, "betas": (0.8, 0.99), "eps": 1e-6}),
    "adam with decay": (Adam, torch.optim.Adam, {"lr": 1e-3, "weight_decay": 1e-2}),
    "adamw": (AdamW, torch.optim.AdamW, {"lr": 1e-3, "weight_decay": 0.1}),
}
MEMBERS = [SGD, Adam, AdamW]
STORAGES = [
    Storage(torch.bfloat16, torch.bfloat16),
    Storage(torch.bfloat16, torch.float32, master_weights=True),
    Storage(torch.float16, torch.bfloat16, update="stochastic"),
    Storage(torch.bfloat16, torch.bfloat16, update="kahan"),
]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(9, 17), nn.Tanh(), nn.Linear(17, 3))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, *, start: int = 0) -> None:
    dtype = next(model.parameters()).dtype
    for step in range(start, start + steps):
        inputs = torch.randn(8, 9, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(inputs.to(dtype)).float().square().mean().backward()
        optimizer.step()


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("foreach", [False, True])
def test_with_float32_storage_a_thousand_steps_equal_torchs_bit_for_bit(name, foreach):
    ours, theirs, knobs = TWINS[name]
    left, right = network(), network()
    train(left, ours(left.parameters(), **knobs), 1000)
    train(right, theirs(right.parameters(), foreach=foreach, **knobs), 1000)
    assert torch.equal(flat(left), flat(right))
    assert not torch.equal(flat(left), flat(network()))


@pytest.mark.parametrize("member", MEMBERS)
def test_master_weights_are_float32_training_seen_through_16_bits(member):
    """With gradients given from outside, the master copy walks exactly the path of a float32 weight."""
    knobs = {"momentum": 0.9} if member is SGD else {}
    p, q = torch.ones(50).bfloat16().requires_grad_(), torch.ones(50, requires_grad=True)
    master = member([p], lr=1e-3, storage=Storage(master_weights=True), **knobs)
    plain = member([q], lr=1e-3, **knobs)
    generator = torch.Generator().manual_seed(1)
    for _ in range(30):
        p.grad = torch.randn(50, generator=generator).bfloat16()
        q.grad = p.grad.float()
        master.step()
        plain.step()
        assert torch.equal(master.state[p]["master"], q)
        assert torch.equal(p, q.bfloat16())


@pytest.mark.parametrize("update", ["nearest", "stochastic", "kahan"])
def test_small_updates_of_a_bf16_weight(update):
    """1000 updates of 1e-4 at w = 1, where bf16 values lie 2^-8 apart below and 2^-7 above: nearest loses all."""
    p = torch.ones(4096).bfloat16().requires_grad_()
    optimizer = SGD([p], lr=1e-4, storage=Storage(update=update), generator=torch.Generator().manual_seed(0))
    for _ in range(1000):
        p.grad = torch.ones_like(p)
        optimizer.step()
    mean = p.detach().double().mean().item()
    if update == "nearest":
        assert mean == 1.0
    elif update == "kahan":
        assert (p == p[0]).all()
        assert abs(mean - 0.9) <= 2**-8
    else:  # each step moves with probability 1e-4 * 2^8, by 2^-8: a binomial of 1000 draws, over 4096 weights
        chance = 1e-4 * 2**8
        sigma = math.sqrt(1000 * chance * (1 - chance) / 4096) * 2**-8
        assert abs(mean - 0.9) < 5 * sigma


def test_kahan_keeps_what_the_weight_cannot_hold():
    p = torch.ones(3).bfloat16().requires_grad_()
    optimizer = SGD([p], lr=1.0, storage=Storage(update="kahan"))
    p.grad = torch.full((3,), 2.0**-10).bfloat16()
    optimizer.step()
    assert (p == 1).all()
    assert (optimizer.state[p]["compensation"] == -(2.0**-10)).all()


def test_a_bf16_second_moment_does_not_decay():
    p = torch.zeros(1, requires_grad=True)
    slow, exact = (Adam([p], storage=Storage(exp_avg_sq_dtype=dtype)) for dtype in (torch.bfloat16, torch.float32))
    for optimizer in (slow, exact):
        for gradient in [1000.0] + [0.0] * 500:
            p.grad = torch.tensor([gradient])
            optimizer.step()
    assert slow.state[p]["exp_avg_sq"].item() == pytest.approx(1000, rel=2**-8)
    assert exact.state[p]["exp_avg_sq"].item() == pytest.approx(1000 * 0.999**500, rel=1e-4)


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("storage", STORAGES, ids=lambda s: f"{s.update}-{s.master_weights}")
def test_states_are_stored_and_come_back_as_told(member, storage):
    def make(model: nn.Module) -> torch.optim.Optimizer:
        knobs = {"momentum": 0.9} if member is SGD else {}
        return member(model.parameters(), lr=1e-2, storage=storage, generator=generator, **knobs)

    generator = torch.Generator()
    model = network().bfloat16()
    optimizer = make(model)
    train(model, optimizer, 5)
    wanted = {"exp_avg": storage.exp_avg_dtype, "exp_avg_sq": storage.exp_avg_sq_dtype}
    wanted |= {"momentum_buffer": storage.exp_avg_dtype, "master": torch.float32, "compensation": torch.bfloat16}
    assert all(tensor.dtype is wanted[name] for name, tensor in state_tensors(optimizer))

    resumed = copy.deepcopy(model)
    other = make(resumed)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for (name, ours), (_, theirs) in zip(state_tensors(optimizer), state_tensors(other), strict=True):
        assert ours.dtype is theirs.dtype, name
        assert torch.equal(ours, theirs), name
    for net, stepping in ((model, optimizer), (resumed, other)):
        generator.manual_seed(5)
        train(net, stepping, 5, start=5)
    assert torch.equal(flat(model), flat(resumed))


def test_stochastic_rounding_is_that_of_round_to():
    p = torch.full((100,), 0.3).bfloat16().requires_grad_()
    p.grad = torch.full((100,), 1e-3).bfloat16()
    exact = p.detach().float() - p.grad.float()
    SGD([p], lr=1.0, storage=Storage(update="stochastic"), generator=torch.Generator().manual_seed(3)).step()
    bits = torch.Generator().manual_seed(3)
    assert torch.equal(p.float(), round_to(exact, BF16, overflow="inf", rounding="stochastic", generator=bits))
    assert len(p.unique()) == 2


def test_groups_schedules_closures_and_missing_gradients():
    model = network()
    idle = nn.Parameter(torch.ones(2))
    groups = [{"params": [model[0].weight, idle], "lr": 0.0}, {"params": [model[2].weight], "weight_decay": 0.0}]
    optimizer = AdamW(groups, lr=1e-2)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    before = flat(model)

    def closure() -> float:
        optimizer.zero_grad()
        loss = model(torch.ones(1, 9)).square().sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) > 0
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, 5e-3]
    moved = flat(model) != before
    assert not moved[: 9 * 17].any()
    assert moved[-54:-3].all()
    assert not optimizer.state[idle]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: Storage(exp_avg_dtype=torch.int8), "exp_avg_dtype must be one of torch.float32, .* got torch.int8"),
        (lambda p: Storage(update="up"), "update must be one of nearest, stochastic, kahan, got 'up'"),
        (lambda p: Storage(master_weights=True, update="kahan"), "update=kahan has no effect with master weights"),
        (lambda p: SGD(p, lr=-1), "SGD: lr must be a finite number from 0 up, got -1"),
        (lambda p: AdamW(p, betas=(0.9, 1.0)), "AdamW: betas must be two numbers from 0 to below 1"),
        (lambda p: Adam(p, eps=math.nan), "Adam: eps must be a finite number from 0 up, got nan"),
    ],
)
def test_bad_knobs_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make([nn.Parameter(torch.ones(1))])


def test_storage_must_be_one():
    with pytest.raises(TypeError, match="storage must be a Storage, got 'bf16'"):
        SGD([nn.Parameter(torch.ones(1))], storage="bf16")
