"""Everything that people do with an optimizer, done with ours and with torch.optim's: equal weights, bit for bit."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import SWALR

from mixlab.optimizers import SGD, Adam, AdamW, Storage, read_state, state_tensors

MEMBERS = {
    "sgd": (SGD, torch.optim.SGD, {"lr": 0.05}),
    "sgd with momentum": (SGD, torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3}),
    "adam": (Adam, torch.optim.Adam, {"lr": 1e-2, "weight_decay": 1e-2}),
    "adamw": (AdamW, torch.optim.AdamW, {"lr": 1e-2, "weight_decay": 0.1}),
}


class Net(nn.Module):
    """A convolution, a frozen layer, a parameter without any element, and one that no gradient reaches."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 3, 3)
        self.frozen = nn.Linear(12, 5).requires_grad_(False)
        self.head = nn.Linear(5, 2)
        self.empty = nn.Parameter(torch.zeros(0, 4))
        self.idle = nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.frozen(self.conv(x).flatten(1)))) + self.empty.sum()


Make = Callable[..., torch.optim.Optimizer]
Trained = tuple[nn.Module, torch.optim.Optimizer]


def backward(model: nn.Module, step: int) -> torch.Tensor:
    x = torch.randn(4, 2, 4, 4, generator=torch.Generator().manual_seed(step))
    loss = model(x).square().mean()
    loss.backward()
    return loss


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range, schedule=None) -> None:
    for step in steps:
        optimizer.zero_grad()
        loss = backward(model, step)
        optimizer.step()
        if schedule is not None:
            schedule.step(loss.detach()) if isinstance(schedule, lr_scheduler.ReduceLROnPlateau) else schedule.step()


def closures(make: Make) -> Trained:
    model = Net()
    optimizer = make(model.parameters())
    for step in range(3):

        def closure(step: int = step) -> torch.Tensor:
            optimizer.zero_grad()
            return backward(model, step)

        with torch.no_grad():
            assert optimizer.step(closure).item() > 0
    return model, optimizer


def changed_later(make: Make) -> Trained:
    model = Net()
    optimizer = make(model.parameters())
    (group,) = optimizer.param_groups
    changes = [
        {"lr": 0.02, "weight_decay": 0.0},
        {"momentum": 0.8} if "momentum" in group else {"betas": (0.7, 0.95), "eps": 1e-5},
        {"momentum": 0.0} if "momentum" in group else {"betas": (0.0, 0.5)},
        {"momentum": 0.6, "weight_decay": 0.3} if "momentum" in group else {"weight_decay": 0.3},
        {"lr": 0.0},
    ]
    for number, change in enumerate(changes):
        train(model, optimizer, range(2 * number, 2 * number + 2))
        group |= change
    train(model, optimizer, range(10, 12))
    return model, optimizer


def group_added_later(make: Make) -> Trained:
    model = Net()
    optimizer = make(model.conv.parameters())
    train(model, optimizer, range(2))
    optimizer.add_param_group({"params": model.head.weight, "lr": 0.3})
    optimizer.add_param_group({"params": [model.head.bias, model.empty], "weight_decay": 0.0})
    train(model, optimizer, range(2, 5))
    return model, optimizer


def unfrozen_later(make: Make) -> Trained:
    model = Net()
    optimizer = make(model.named_parameters())
    train(model, optimizer, range(2))
    model.frozen.requires_grad_(True)
    model.conv.requires_grad_(False)
    train(model, optimizer, range(2, 5))
    return model, optimizer


def deep_copied(make: Make) -> Trained:
    model = Net()
    optimizer = make(model.parameters())
    train(model, optimizer, range(2))
    other, twin = copy.deepcopy((model, optimizer))
    train(model, optimizer, range(7, 9))  # leaves the copy alone
    train(other, twin, range(2, 5))
    return other, twin


def pickled(make: Make) -> Trained:
    model = Net()
    optimizer = make(model.parameters())
    train(model, optimizer, range(2))
    model, optimizer = pickle.loads(pickle.dumps((model, optimizer)))
    train(model, optimizer, range(2, 5))
    return model, optimizer


def saved(make: Make) -> Trained:
    model = Net()
    optimizer = make(model.parameters())
    schedule = lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=9)
    train(model, optimizer, range(3), schedule)
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict(), schedule.state_dict()], file)
    file.seek(0)
    weights, states, places = torch.load(file, weights_only=True)
    model = Net()
    model.load_state_dict(weights)
    optimizer = make(model.parameters())
    schedule = lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=9)
    optimizer.load_state_dict(states)
    schedule.load_state_dict(places)
    train(model, optimizer, range(3, 6), schedule)
    return model, optimizer


def channels_last_later(make: Make) -> Trained:
    model = Net()
    optimizer = make(model.parameters())
    train(model, optimizer, range(2))
    model.to(memory_format=torch.channels_last)
    train(model, optimizer, range(2, 5))
    return model, optimizer


def zeros_kept(make: Make) -> Trained:
    model = Net()
    optimizer = make(model.parameters())
    for step in range(3):
        optimizer.zero_grad(set_to_none=False)
        backward(model, step)
        model.idle.grad = torch.tensor([-0.0, 0.0, 1e-45])
        optimizer.step()
    return model, optimizer


def hooks(make: Make) -> Trained:
    model, seen = Net(), []
    optimizer = make(model.parameters())
    optimizer.register_step_pre_hook(lambda _o, args, kwargs: seen.append("pre"))
    optimizer.register_step_post_hook(lambda _o, args, kwargs: seen.append("post"))
    optimizer.register_load_state_dict_pre_hook(lambda _o, state: {**state, "state": {}})
    optimizer.register_load_state_dict_post_hook(lambda o: seen.append(len(o.state)))
    optimizer.register_state_dict_post_hook(lambda _o, state: {**state, "more": 1})
    train(model, optimizer, range(2))
    optimizer.load_state_dict(optimizer.state_dict())
    train(model, optimizer, range(2, 4))
    assert seen == ["pre", "post"] * 2 + [0] + ["pre", "post"] * 2
    return model, optimizer


def tensors_for_numbers(make: Make) -> Trained:
    model = Net()
    optimizer = make(model.parameters())
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(0.013)
        if "betas" in group:
            group["betas"] = (torch.tensor(0.85), torch.tensor(0.97))
    train(model, optimizer, range(3), lr_scheduler.ExponentialLR(optimizer, 0.7))
    return model, optimizer


def numbers_of_numpy(make: Make) -> Trained:
    model = Net()
    optimizer = make([{"params": model.parameters(), "lr": np.float64(0.013), "weight_decay": np.float32(0.1)}])
    train(model, optimizer, range(3))
    return model, optimizer


def two_models_one_after_the_other(make: Make) -> Trained:
    model, other = Net(), Net()
    optimizer = make(list(model.parameters()) + list(other.head.parameters()))
    train(model, optimizer, range(2))
    train(other, optimizer, range(2, 4))
    train(model, optimizer, range(4, 6))
    return nn.ModuleList([model, other]), optimizer


def averaged(make: Make) -> Trained:
    model = Net()
    optimizer = make(model.parameters())
    average = torch.optim.swa_utils.AveragedModel(model)
    schedule = SWALR(optimizer, 0.02, anneal_epochs=2)
    for step in range(4):
        train(model, optimizer, range(step, step + 1), schedule)
        average.update_parameters(model)
    return average, optimizer


USES = (
    closures,
    changed_later,
    group_added_later,
    unfrozen_later,
    deep_copied,
    pickled,
    saved,
    channels_last_later,
    zeros_kept,
    hooks,
    tensors_for_numbers,
    numbers_of_numpy,
    two_models_one_after_the_other,
    averaged,
)
SCHEDULES = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda epoch: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [1, 3]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, total_iters=3),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, total_iters=4),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.8),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 3),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 4, power=2.0),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 1e-3, 0.1, step_size_up=2),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=8),
    "OneCycleLR three": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=8, three_phase=True),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=0.9),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.LinearLR(o, total_iters=4), lr_scheduler.ExponentialLR(o, 0.8)]
    ),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, total_iters=3), lr_scheduler.ExponentialLR(o, 0.8)], [2]
    ),
}


def bits(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()]).view(torch.int32)


def assert_equal(use: Callable[[Make], Trained], name: str) -> None:
    ours, theirs, knobs = MEMBERS[name]
    (mine, optimizer), (right, reference) = (
        use(lambda params, make=make, more=more: make(params, **knobs, **more))
        for make, more in ((ours, {}), (theirs, {"foreach": False}))
    )
    assert torch.equal(bits(mine), bits(right))
    assert not torch.equal(bits(right)[:50], bits(Net())[:50])
    for p, q in zip(mine.parameters(), right.parameters(), strict=True):
        for state, value in reference.state.get(q, {}).items():
            if state != "step" and value is not None:
                assert torch.equal(optimizer.state[p][state].flatten(), value.flatten()), state


@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)
@pytest.mark.parametrize("name", MEMBERS)
def test_every_use_gives_the_weights_of_torch(use, name):
    assert_equal(use, name)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", MEMBERS)
def test_every_schedule_gives_the_weights_of_torch(schedule, name):
    def scheduled(make: Make) -> Trained:
        model = Net()
        optimizer = make([{"params": model.conv.parameters()}, {"params": model.head.parameters(), "lr": 0.03}])
        train(model, optimizer, range(7), SCHEDULES[schedule](optimizer))
        return model, optimizer

    assert_equal(scheduled, name)


ACTIONS = st.one_of(
    st.just(("step", 0.0)),
    st.just(("step without head", 0.0)),
    st.just(("copy", 0.0)),
    st.just(("reload", 0.0)),
    st.just(("last", 0.0)),
    st.tuples(st.sampled_from(["lr", "weight_decay", "beta"]), st.sampled_from([0.0, 1e-3, 0.1, 0.5])),
)


@given(name=st.sampled_from(sorted(MEMBERS)), actions=st.lists(ACTIONS, max_size=8))
@settings(max_examples=60)
def test_any_order_of_uses_gives_the_weights_of_torch(name, actions):
    ours, theirs, knobs = MEMBERS[name]
    ends = []
    for make, more in ((ours, {}), (theirs, {"foreach": False})):
        model = Net()
        optimizer = make(model.parameters(), **knobs, **more)
        for step, (action, value) in enumerate([*actions, ("step", 0.0)]):
            (group,) = optimizer.param_groups
            if action.startswith("step"):
                model.head.requires_grad_(action == "step")
                train(model, optimizer, range(step, step + 1))
            elif action == "copy":
                model, optimizer = copy.deepcopy((model, optimizer))
            elif action == "reload":
                state = copy.deepcopy(optimizer.state_dict())
                optimizer = make(model.parameters(), **knobs, **more)
                optimizer.load_state_dict(state)
            elif action == "last":
                model.to(memory_format=torch.channels_last)
            elif action == "beta":
                group |= {"momentum": value} if "momentum" in group else {"betas": (value, 0.9)}
            else:
                group[action] = value
        ends.append(bits(model))
    assert torch.equal(*ends)


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("way", ["from torch", "to torch"])
@pytest.mark.parametrize("how", [{}, {"foreach": True}, {"fused": True}, {"foreach": False}], ids=str)
def test_states_go_on_from_torch_and_to_torch(name, way, how):
    """Settings that only say how a step is computed are taken, whatever they are."""
    ours, theirs, knobs = MEMBERS[name]
    model = Net()
    first = theirs(model.parameters(), **knobs, **how) if way == "from torch" else ours(model.parameters(), **knobs)
    train(model, first, range(3))
    ends = []
    for make, more in ((ours, {}), (theirs, {"foreach": False})):
        twin = copy.deepcopy(model)
        second = make(twin.parameters(), **knobs, **more)
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        for group in second.param_groups:
            group |= {"foreach": False, "fused": None}
        train(twin, second, range(3, 6))
        ends.append(bits(twin))
    assert torch.equal(*ends)


REFUSED = [
    (SGD, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}, "nesterov must be False, got True"),
    (SGD, torch.optim.SGD, {"momentum": 0.9, "dampening": 0.1}, "dampening must be 0, got 0.1"),
    (SGD, torch.optim.SGD, {"maximize": True}, "maximize must be False, got True; negate the loss"),
    (SGD, torch.optim.SGD, {"differentiable": True}, "differentiable must be False, got True"),
    (Adam, torch.optim.Adam, {"amsgrad": True}, "amsgrad must be False, got True"),
    (Adam, torch.optim.Adam, {"maximize": True}, "maximize must be False"),
    (Adam, torch.optim.Adam, {"differentiable": True}, "differentiable must be False"),
    (Adam, torch.optim.Adam, {"decoupled_weight_decay": True}, "decoupled_weight_decay must be False.*use AdamW"),
    (Adam, torch.optim.AdamW, {}, "decoupled_weight_decay must be False.*use AdamW"),
    (AdamW, torch.optim.Adam, {"weight_decay": 0.1}, "decoupled_weight_decay must be True.*use Adam"),
    (AdamW, torch.optim.AdamW, {"amsgrad": True}, "amsgrad must be False"),
    (AdamW, torch.optim.AdamW, {"maximize": True}, "maximize must be False"),
    *[
        (kind, other, {}, f"{kind.__name__}: .* belongs to another optimizer|another optimizer; this one keeps|must be")
        for kind in (SGD, Adam, AdamW)
        for other in (
            torch.optim.Adadelta,
            torch.optim.Adafactor,
            torch.optim.Adagrad,
            torch.optim.Adamax,
            torch.optim.ASGD,
            torch.optim.LBFGS,
            torch.optim.NAdam,
            torch.optim.RAdam,
            torch.optim.RMSprop,
            torch.optim.Rprop,
        )
    ],
    (SGD, torch.optim.Adam, {}, "lacks momentum"),
    (Adam, torch.optim.SGD, {"momentum": 0.9}, "lacks eps"),
    (Adam, AdamW, {}, "decoupled_weight_decay must be False"),
    (SGD, Adam, {}, "lacks momentum"),
    (AdamW, SGD, {}, "lacks eps"),
]


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize(("kind", "other", "knobs", "words"), REFUSED)
def test_what_we_do_not_have_is_refused_by_name_and_leaves_the_optimizer_as_it_was(kind, other, knobs, words, steps):
    parameter, theirs = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer, foreign = kind([parameter], lr=0.1), other([theirs], **{"lr": 0.2} | knobs)
    parameter.grad, theirs.grad = torch.ones(3), torch.ones(3)
    optimizer.step()
    if steps and not knobs.get("differentiable"):
        foreign.step(lambda: theirs.sum())
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=words):
        optimizer.load_state_dict(foreign.state_dict())
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert after["state"][0].keys() == before["state"][0].keys()
    assert all(
        torch.equal(torch.as_tensor(value), torch.as_tensor(after["state"][0][name]))
        for name, value in before["state"][0].items()
    )


@pytest.mark.parametrize(("kind", "setting"), [(SGD, {"nesterov": True}), (Adam, {"amsgrad": True})])
def test_settings_that_we_do_not_have_are_refused_wherever_they_are_set(kind, setting):
    parameter = nn.Parameter(torch.ones(3))
    (name,) = setting
    with pytest.raises(ValueError, match=f"{kind.__name__}: {name} must be False, got True"):
        kind([{"params": [parameter], **setting}])
    optimizer = kind([parameter])
    with pytest.raises(ValueError, match=f"{name} must be False"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], **setting})
    optimizer.param_groups[0] |= setting
    parameter.grad = torch.ones(3)
    with pytest.raises(ValueError, match=f"{name} must be False"):
        optimizer.step()
    assert (parameter == 1).all()


@pytest.mark.parametrize(
    "bad",
    [{"lr": -1.0}, {"lr": float("nan")}, {"lr": "0.1"}, {"lr": None}, {"lr": torch.ones(2)}, {"weight_decay": -1}],
)
@pytest.mark.parametrize("kind", [SGD, Adam, AdamW])
def test_bad_numbers_are_refused_when_they_are_set_later_too(kind, bad):
    first, second = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = kind([{"params": [first]}, {"params": [second]}])
    first.grad = second.grad = torch.ones(3)
    optimizer.param_groups[1] |= bad
    with pytest.raises(ValueError, match=f"{kind.__name__}: {next(iter(bad))} must be a finite number from 0 up, got"):
        optimizer.step()
    assert (first == 1).all()
    assert not optimizer.state


@pytest.mark.parametrize("betas", [(0.9,), 0.9, "ab", (0.9, 1.0), (-0.1, 0.9), (None, 0.9), (0.9, float("nan"))])
def test_bad_betas_are_refused_when_they_are_set_later_too(betas):
    parameter = nn.Parameter(torch.ones(3))
    optimizer = Adam([parameter])
    parameter.grad = torch.ones(3)
    optimizer.param_groups[0]["betas"] = betas
    with pytest.raises(ValueError, match="Adam: betas must be two numbers from 0 to below 1, got"):
        optimizer.step()


def test_the_first_momentum_is_the_gradient_with_its_sign_of_zero():
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2):
        parameter = nn.Parameter(torch.tensor([-0.0, 1.0]))
        optimizer = SGD([parameter], lr=0.1, momentum=0.9, storage=Storage(dtype))
        parameter.grad = torch.tensor([-0.0, 0.0])
        optimizer.step()
        assert read_state(optimizer, parameter, "momentum_buffer").signbit().tolist() == [True, False]


@pytest.mark.parametrize("kind", [SGD, Adam, AdamW])
@pytest.mark.parametrize(
    "storage", [Storage(master_weights=True), Storage(update="kahan"), Storage(update="stochastic")]
)
def test_a_model_cast_after_the_first_step_goes_on_as_one_that_was_cast_before(kind, storage):
    """As an optimizer that was made after the cast, with the same moments."""
    knobs = {"momentum": 0.9} if kind is SGD else {}
    seeds = [torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)]
    model = Net()
    optimizer = kind(model.parameters(), storage=storage, generator=seeds[0], **knobs)
    train_cast(model, optimizer, range(2))
    model.to(torch.bfloat16)
    twin = copy.deepcopy(model)
    fresh = kind(twin.parameters(), storage=storage, generator=seeds[1], **knobs)
    fresh.load_state_dict(optimizer.state_dict())
    for net, one in ((model, optimizer), (twin, fresh)):
        train_cast(net, one, range(2, 6))
    kept = {"master": torch.float32} if storage.master_weights else {}
    kept = {"compensation": torch.bfloat16} if storage.update == "kahan" else kept
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)
        if p in optimizer.state and p.numel():
            assert {name: optimizer.state[p][name].dtype for name in kept} == kept
            for (name, a), (_, b) in zip(state_tensors(optimizer, p), state_tensors(fresh, q), strict=True):
                assert torch.equal(a, b), name
            if storage.master_weights:
                assert torch.equal(p, optimizer.state[p]["master"].bfloat16())
    model.float()  # and back: what lay beside the weights is now in them
    whole = {
        p: optimizer.state[p]["master"].clone() if storage.master_weights else None
        for p in model.parameters()
        if p in optimizer.state
    }
    optimizer.zero_grad()
    for p in whole:
        p.grad = torch.zeros_like(p)
    for group in optimizer.param_groups:
        group |= {"lr": 0.0}
    optimizer.step()
    for p, master in whole.items():
        assert optimizer.state[p].keys().isdisjoint(("master", "compensation"))
        assert master is None or torch.equal(p, master)


def train_cast(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    dtype = model.conv.weight.dtype
    for step in steps:
        optimizer.zero_grad()
        x = torch.randn(4, 2, 4, 4, generator=torch.Generator().manual_seed(step))
        model(x.to(dtype)).float().square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, "dynamic8"])
def test_blocks_follow_a_parameter_that_is_laid_out_anew(dtype):
    """The moments of one weight stay its own; before, they were mixed with those of its new neighbours."""
    storage = Storage(dtype, dtype, block_size=8)
    parameter = nn.Parameter(torch.zeros(4, 3, 2, 2))
    optimizer = Adam([parameter], storage=storage)
    parameter.grad = torch.logspace(-3, 3, 48).view_as(parameter)
    optimizer.step()
    before = [read_state(optimizer, parameter, name) for name in ("exp_avg", "exp_avg_sq")]
    state = copy.deepcopy(optimizer.state_dict())
    parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    loaded = Adam([parameter], storage=storage)
    loaded.load_state_dict(state)
    optimizer.param_groups[0]["betas"] = (0.0, 0.0)  # the next step leaves gradients as moments
    optimizer.step()
    for name, value in zip(("exp_avg", "exp_avg_sq"), before, strict=True):
        torch.testing.assert_close(
            read_state(loaded, parameter, name), value, rtol=0.15, atol=0.05 * float(value.max())
        )
        assert (read_state(loaded, parameter, name).argsort() == value.argsort()).float().mean() > 0.5
    torch.testing.assert_close(read_state(optimizer, parameter, "exp_avg"), parameter.grad, rtol=0.15, atol=30)


def test_what_cannot_be_stepped_is_refused_by_name_before_anything_has_moved():
    torch.manual_seed(0)
    model = nn.ModuleDict({"fine": nn.Linear(2, 2), "words": nn.Embedding(5, 2, sparse=True)})
    model["fine"](model["words"](torch.tensor([1, 1, 2]))).sum().backward()
    for kind in (SGD, Adam, AdamW):
        weights = copy.deepcopy(model.state_dict())
        with pytest.raises(
            RuntimeError, match=r"gradients must be dense, got torch.sparse_coo of 'words.weight'; make"
        ):
            kind(model.named_parameters(), lr=0.1).step()
        with pytest.raises(RuntimeError, match=r"of parameter 2 of its group, of shape \(5, 2\); make the embedding"):
            kind(model.parameters(), lr=0.1).step()
        assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64])
def test_other_dtypes_are_refused_by_name_also_after_a_cast(dtype):
    model = nn.Linear(2, 2)
    optimizer = AdamW(model.named_parameters())
    for p in model.parameters():
        p.data = p.data.to(dtype)
    with pytest.raises(TypeError, match=f"parameters must be torch.float32, .* got {dtype} of 'weight'"):
        AdamW(model.named_parameters())
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    with pytest.raises(TypeError, match=f"got {dtype} of 'weight'"):
        optimizer.step()


def test_sharded_parameters_are_refused_by_name():
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor, Replicate, init_device_mesh

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        weight = nn.Parameter(DTensor.from_local(torch.ones(2), mesh, [Replicate()]))
        for kind in (SGD, Adam, AdamW):
            with pytest.raises(TypeError, match=f"{kind.__name__}: 'w' is a DTensor, but must be a plain tensor; for"):
                kind([("w", weight)])
        model = fully_shard(nn.Linear(4, 3), mesh=mesh)
        with pytest.raises(TypeError, match="AdamW: 'weight' is a DTensor.*use an optimizer of torch.optim or torchao"):
            AdamW(model.named_parameters())
    finally:
        torch.distributed.destroy_process_group()


def test_a_parameter_on_another_device_or_of_another_shape_is_named():
    parameter = nn.Parameter(torch.ones(3))
    optimizer = AdamW([parameter])
    parameter.grad = torch.ones(3)
    optimizer.step()
    parameter.data = torch.ones(4)
    parameter.grad = torch.ones(4)
    with pytest.raises(ValueError, match=r"is \(4,\) on cpu, but its exp_avg is \(3,\) on cpu: make a new optimizer"):
        optimizer.step()
    moved = nn.Parameter(torch.ones(3, device="meta"))
    moved.grad = torch.ones_like(moved)
    optimizer.state[moved] = optimizer.state.pop(parameter)
    optimizer.param_groups[0]["params"] = [moved]
    with pytest.raises(ValueError, match=r"is \(3,\) on meta, but its exp_avg is \(3,\) on cpu"):
        optimizer.step()


@pytest.mark.parametrize(
    "storage",
    [
        Storage(),
        Storage("dynamic8", "dynamic8"),
        Storage(torch.float8_e4m3fn, torch.float8_e5m2, block_size=100),
        Storage(master_weights=True),
        Storage(torch.bfloat16, update="stochastic", state_rounding="stochastic"),
        Storage(update="kahan"),
    ],
    ids=str,
)
def test_a_copied_optimizer_is_stored_as_the_first_and_goes_on_as_it_would(storage):
    parameter = nn.Parameter(torch.ones(300).bfloat16())
    optimizer = AdamW([parameter], storage=storage, generator=torch.Generator().manual_seed(1))
    parameter.grad = torch.linspace(-1, 1, 300).bfloat16()
    optimizer.step()
    both = parameter, optimizer
    ends = []
    for weight, one in (both, copy.deepcopy(both), pickle.loads(pickle.dumps(both))):
        assert (one.storage, one.compiled, repr(one)) == (storage, False, repr(optimizer))
        weight.grad = torch.linspace(1, -2, 300).bfloat16()
        one.step()
        ends.append([weight, *(value for _, value in state_tensors(one))])
    for end in ends[1:]:
        for mine, first in zip(end, ends[0], strict=True):
            assert mine.dtype is first.dtype
            assert torch.equal(mine.float(), first.float())
    other = copy.copy(optimizer)
    assert torch.equal(other.state[parameter]["exp_avg"].float(), ends[0][1].float())
    other.add_param_group({"params": [nn.Parameter(torch.ones(2))]})


@pytest.mark.parametrize("storage", [Storage(), Storage("dynamic8", torch.float8_e4m3fn)], ids=str)
def test_saved_states_of_other_shapes_are_refused(storage):
    parameter, other = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(1))
    first, second = AdamW([other], storage=storage), AdamW([parameter])
    other.grad = torch.ones(1)
    first.step()
    with pytest.raises(ValueError, match=r"exp_avg was saved with shape \(1,\), but this optimizer needs \(4,\)"):
        second.load_state_dict(first.state_dict())


def test_a_pre_hook_that_returns_a_new_state_and_a_post_hook_that_sees_it():
    parameter, seen = nn.Parameter(torch.ones(3)), []
    optimizer = AdamW([parameter])
    parameter.grad = torch.ones(3)
    optimizer.step()
    state = copy.deepcopy(optimizer.state_dict())

    def double(_optimizer, given):
        doubled = {number: {**kept, "exp_avg": 2 * kept["exp_avg"]} for number, kept in given["state"].items()}
        return {**given, "state": doubled}

    optimizer.register_load_state_dict_pre_hook(double)
    optimizer.register_load_state_dict_post_hook(lambda o: seen.append(o.state[parameter]["exp_avg"].tolist()))
    optimizer.load_state_dict(state)
    assert seen == [(2 * state["state"][0]["exp_avg"]).tolist()]
    assert len(optimizer._optimizer_load_state_dict_pre_hooks) == 1
    assert len(optimizer._optimizer_load_state_dict_post_hooks) == 1
