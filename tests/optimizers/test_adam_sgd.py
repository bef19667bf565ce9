from __future__ import annotations

import copy
import math
from functools import cache

import pytest
import torch
from torch import nn

from mixlab.formats import BF16, round_to
from mixlab.formats.random_bits import hashed_bits
from mixlab.optimizers import SGD, Adam, AdamW, Storage, read_state, state_tensors
from mixlab.optimizers.step import _step_, compiled_step

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


@cache
def trained(name: str) -> dict[int, torch.Tensor]:
    """Returns our optimizer's weights after 100 steps and after 1000."""
    make, _, knobs = TWINS[name]
    model = network()
    optimizer = make(model.parameters(), **knobs)
    train(model, optimizer, 100)
    early = flat(model)
    train(model, optimizer, 900, start=100)
    return {100: early, 1000: flat(model)}


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize(
    ("foreach", "steps"), [(False, 1000), (True, 100), pytest.param(True, 1000, marks=pytest.mark.slow)]
)
def test_with_float32_storage_a_thousand_steps_equal_torchs_bit_for_bit(name, foreach, steps):
    _, theirs, knobs = TWINS[name]
    right = network()
    train(right, theirs(right.parameters(), foreach=foreach, **knobs), steps)
    assert torch.equal(trained(name)[steps], flat(right))
    assert not torch.equal(flat(right), flat(network()))


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


@pytest.mark.parametrize("update", ["nearest_even", "stochastic", "kahan"])
def test_small_updates_of_a_bf16_weight(update):
    """1000 updates of 1e-4 at w = 1, where bf16 values lie 2^-8 apart below and 2^-7 above: nearest loses all."""
    p = torch.ones(4096).bfloat16().requires_grad_()
    optimizer = SGD([p], lr=1e-4, storage=Storage(update=update), generator=torch.Generator().manual_seed(0))
    for _ in range(1000):
        p.grad = torch.ones_like(p)
        optimizer.step()
    mean = p.detach().double().mean().item()
    if update == "nearest_even":
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
    assert {name for name, _ in state_tensors(optimizer)} >= ({"momentum_buffer"} if member is SGD else {"exp_avg_sq"})
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
        (lambda p: Storage(update="up"), "update must be one of nearest_even, stochastic, kahan, got 'up'"),
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


EIGHT_BIT = [torch.float8_e4m3fn, torch.float8_e5m2, "dynamic8"]


def pair(shape: tuple[int, ...] = (40, 30), *, dtype: torch.dtype = torch.float32) -> tuple[nn.Parameter, ...]:
    torch.manual_seed(1)
    value = torch.randn(shape).to(dtype)
    return nn.Parameter(value.clone()), nn.Parameter(value.clone())


def step_together(p, q, left, right, steps: int, *, seed: int = 2) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
        q.grad = p.grad.clone()
        left.step()
        right.step()


@pytest.mark.cpu_kernels
@pytest.mark.parametrize("numel", [1, 3 * (1 << 17) + 5])
def test_pieces_equal_the_whole(numel):
    """Over one piece and its ends, too, equal to torch bit for bit."""
    p, q = pair((numel,))
    left, right = AdamW([p], lr=1e-2), torch.optim.AdamW([q], lr=1e-2)
    step_together(p, q, left, right, 3)
    assert torch.equal(p, q)


@pytest.mark.parametrize("dtype", EIGHT_BIT, ids=str)
def test_pieces_begin_at_blocks(dtype, monkeypatch):
    storage = Storage(dtype, dtype, block_size=100)
    p, q = pair((1234,))
    left, right = AdamW([p], storage=storage), AdamW([q], storage=storage)
    step_together(p, q, left, right, 2)
    q.grad = torch.randn(1234, generator=torch.Generator().manual_seed(9))
    p.grad = q.grad.clone()
    right.step()
    monkeypatch.setattr("mixlab.optimizers.pieces._PIECE", 250)
    left.step()
    assert torch.equal(p, q)
    assert torch.equal(left.state[p]["exp_avg_scale"], right.state[q]["exp_avg_scale"])


@pytest.mark.parametrize("storage", [Storage(), Storage("dynamic8", torch.float8_e4m3fn, block_size=64)], ids=str)
@pytest.mark.parametrize("way", ["channels last", "transposed", "with gaps"])
def test_any_layout_in_memory(way, storage):
    p, q = pair((4, 6, 5, 3))
    if way == "channels last":
        p = nn.Parameter(p.detach().contiguous(memory_format=torch.channels_last))
    elif way == "transposed":
        p = nn.Parameter(p.detach().transpose(0, 2).contiguous().transpose(0, 2))
    else:
        p = nn.Parameter(torch.zeros(4, 6, 5, 6)[..., ::2].copy_(p.detach()))
    left, right = AdamW([p], storage=storage), torch.optim.AdamW([q])
    step_together(p, q, left, right, 5)
    if storage == Storage():
        assert torch.equal(p, q)
    else:
        torch.testing.assert_close(p, q, rtol=0, atol=1e-3)
    torch.testing.assert_close(left.read_state(p, "exp_avg"), right.state[q]["exp_avg"], rtol=0.2, atol=0.1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, *EIGHT_BIT], ids=str)
def test_states_in_any_format_train(dtype):
    p, q = pair()
    left, right = AdamW([p], lr=1e-2, storage=Storage(dtype, dtype)), torch.optim.AdamW([q], lr=1e-2)
    step_together(p, q, left, right, 50)
    coarse = 0.15 if dtype is torch.float8_e5m2 else 0.05
    assert 0 < (p - q).abs().mean() < coarse * 1e-2 * 50
    assert read_state(left, p, "exp_avg_sq").shape == p.shape
    assert torch.equal(read_state(right, q, "exp_avg"), right.state[q]["exp_avg"])


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("numel", [1, 256, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, *EIGHT_BIT], ids=str)
def test_state_bytes_are_those_of_the_formats(member, numel, dtype):
    storage = Storage(dtype, dtype)
    p = nn.Parameter(torch.ones(numel))
    optimizer = member([p], storage=storage, **({"momentum": 0.9} if member is SGD else {}))
    p.grad = torch.ones(numel)
    optimizer.step()
    told = storage.exp_avg.bytes(numel) + (0 if member is SGD else storage.exp_avg_sq.bytes(numel))
    assert sum(tensor.nbytes for _, tensor in state_tensors(optimizer)) == told


def test_groups_and_schedules_are_those_of_torch():
    left, right = network(), network()
    ours, theirs = (
        make(
            [
                {"params": model[0].parameters(), "lr": 3e-3, "weight_decay": 0.0},
                {"params": model[2].parameters(), "betas": (0.5, 0.9), "eps": 1e-4},
            ],
            lr=1e-2,
        )
        for make, model in ((AdamW, left), (torch.optim.AdamW, right))
    )
    for model, optimizer in ((left, ours), (right, theirs)):
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=[1e-2, 2e-2], total_steps=60)
        for step in range(50):
            train(model, optimizer, 1, start=step)
            schedule.step()
    assert torch.equal(flat(left), flat(right))


@pytest.mark.parametrize("member", MEMBERS)
def test_a_checkpoint_of_torchs_is_gone_on_with(member):
    theirs_class = getattr(torch.optim, member.__name__)
    knobs = {"lr": 1e-2} | ({"momentum": 0.9} if member is SGD else {})
    model, twin = network(), network()
    theirs = theirs_class(model.parameters(), **knobs)
    train(model, theirs, 5)
    twin.load_state_dict(model.state_dict())
    ours = member(twin.parameters(), **knobs)
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    if member is SGD:  # torch counts no steps there, and ours need none
        assert all(state["step"] == 0 for state in ours.state.values())
    train(model, theirs, 5, start=5)
    train(twin, ours, 5, start=5)
    assert torch.equal(flat(model), flat(twin))


@pytest.mark.parametrize("start", [torch.float32, torch.bfloat16, *EIGHT_BIT], ids=str)
@pytest.mark.parametrize("end", [torch.float32, torch.float16, *EIGHT_BIT], ids=str)
def test_states_are_converted_on_loading(start, end, tmp_path):
    p, q = pair()
    first = AdamW([p], storage=Storage(start, start))
    p.grad = torch.randn(p.shape)
    first.step()
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = AdamW([q], storage=Storage(end, end))
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert second.state[q]["exp_avg"].dtype is second.storage.exp_avg.dtype
    assert second.state[q]["step"] == 1
    for name in ("exp_avg", "exp_avg_sq"):
        before, after = first.read_state(p, name), second.read_state(q, name)
        if start == end:
            assert torch.equal(before, after)
        else:
            assert (before - after).abs().mean() < 0.1 * before.abs().mean()


def test_another_block_size_is_refused():
    p, q = pair()
    first = AdamW([p], storage=Storage("dynamic8", "dynamic8", block_size=100))
    p.grad = torch.ones_like(p)
    first.step()
    for storage in (Storage("dynamic8", "dynamic8"), Storage()):
        with pytest.raises(ValueError, match=r"exp_avg.* was saved with .*block_size"):
            AdamW([q], storage=storage).load_state_dict(first.state_dict())


COMPILED = [
    (torch.float32, Storage()),
    (torch.float32, Storage(torch.bfloat16, torch.bfloat16)),
    (torch.bfloat16, Storage(torch.bfloat16, torch.bfloat16)),
    (torch.bfloat16, Storage(torch.bfloat16, torch.bfloat16, update="kahan")),
    (torch.float16, Storage(torch.float16, torch.float16, update="kahan")),
    (torch.bfloat16, Storage(master_weights=True)),
]


@pytest.mark.parametrize(("dtype", "storage"), COMPILED, ids=str)
def test_compiled_steps_equal_eager_ones_up_to_last_bits(dtype, storage):
    p, q = pair((777,), dtype=dtype)
    left = AdamW([p], lr=1e-2, storage=storage, compiled=True)
    right = AdamW([q], lr=1e-2, storage=storage)
    step_together(p, q, left, right, 20)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(p, q, rtol=4 * eps, atol=4 * eps)
    for name, ours in state_tensors(left):
        theirs = right.state[q][name]
        eps = torch.finfo(theirs.dtype).eps
        scale = 0 if name == "compensation" else eps
        torch.testing.assert_close(ours, theirs, rtol=4 * eps, atol=max(scale * float(theirs.abs().max()), 2**-8))
    if storage.update == "kahan":
        assert left.state[p]["compensation"].abs().max() > 0


IN_BLOCKS = [
    (torch.float32, Storage(torch.float8_e4m3fn, torch.float8_e4m3fn)),
    pytest.param(torch.float32, Storage("dynamic8", "dynamic8"), marks=pytest.mark.cpu_kernels),
    (torch.bfloat16, Storage("dynamic8", torch.bfloat16, update="kahan", block_size=100)),
]


@pytest.mark.parametrize(("dtype", "storage"), IN_BLOCKS, ids=str)
def test_compiled_steps_in_blocks_equal_eager_ones(dtype, storage):
    """Full blocks with a rest, less than one block, and in the last step blocks of inf and NaN."""
    left, right = ([pair((numel,), dtype=dtype)[which] for numel in (777, 60)] for which in (0, 1))
    ours = AdamW(left, lr=1e-2, storage=storage, compiled=True)
    theirs = AdamW(right, lr=1e-2, storage=storage)
    generator = torch.Generator().manual_seed(0)
    for step in range(11):
        for p, q in zip(left, right, strict=True):
            p.grad = torch.randn(p.shape, generator=generator).to(dtype)
            if step == 10:
                p.grad[[10, 700 % p.numel()]] = torch.tensor([math.inf, math.nan]).to(dtype)
            q.grad = p.grad.clone()
        ours.step()
        theirs.step()
    eps = torch.finfo(dtype).eps
    for p, q in zip(left, right, strict=True):
        torch.testing.assert_close(p, q, rtol=4 * eps, atol=4 * eps, equal_nan=True)
        for name, mine in ours.state[p].items():
            if name != "step":
                assert_stored_alike(mine, theirs.state[q][name])
    assert ours.state[left[0]]["exp_avg_scale"].isnan().sum() == 2


def assert_stored_alike(mine, wanted):
    """Scales and 16-bit states up to last bits, codes up to one in a hundred, which lies beside."""
    assert (mine.shape, mine.dtype) == (wanted.shape, wanted.dtype)
    if mine.element_size() > 1:
        eps = 4 * torch.finfo(mine.dtype).eps
        torch.testing.assert_close(mine, wanted, rtol=eps, atol=eps, equal_nan=True)
    else:
        apart = (mine.view(torch.uint8).int() - wanted.view(torch.uint8).int()).abs()
        assert (apart > 0).float().mean() < 0.01
        assert apart.max() <= 1


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, pytest.param("dynamic8", marks=pytest.mark.slow)])
def test_compiled_blocks_are_rounded_with_the_bits_of_the_whole_parameter(dtype, monkeypatch):
    """In two pieces, of which one has a single block, and a rest."""
    monkeypatch.setattr("mixlab.optimizers.pieces._PIECE", 512)
    p, q = pair((777,))
    storage = Storage(dtype, dtype, state_rounding="stochastic")
    ours = AdamW([p], storage=storage, compiled=True, generator=torch.Generator().manual_seed(7))
    p.grad = torch.randn(p.shape)
    ours.step()
    group = ours.param_groups[0]
    plan, theirs = ours._plan(q, group), {}
    ours._prepare(q, theirs, group)
    piece = {"weight": q.detach(), "gradient": p.grad} | {name: t for name, t in theirs.items() if name != "step"}
    ours.generator.manual_seed(7)
    seed = ours._seed(plan, p.device)
    index = torch.arange(777, dtype=torch.int32)
    bits = lambda stream: hashed_bits(index, (seed[0], seed[1] + stream))  # noqa: E731
    _step_(plan, piece, torch.tensor(ours._numbers(group, 1)).unbind(), bits)
    torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)
    for name in ("exp_avg", "exp_avg_scale", "exp_avg_sq", "exp_avg_sq_scale"):
        assert_stored_alike(ours.state[p][name], theirs[name])


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("rounding", ["nearest_even", "stochastic"])
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, "dynamic8"])
def test_a_compiled_step_in_blocks_is_one_kernel(dtype, rounding, device):
    from torch._inductor.utils import run_and_get_code

    compiled_step.cache_clear()
    torch._dynamo.reset()
    p = nn.Parameter(torch.ones(2048, device=device))
    p.grad = torch.ones_like(p)
    optimizer = AdamW([p], storage=Storage(dtype, dtype, state_rounding=rounding), compiled=True)
    _, codes = run_and_get_code(optimizer.step)
    assert len(codes) == 1
    assert codes[0].count("@triton.jit" if device == "cuda" else "async_compile.cpp_pybinding(") == 1


@pytest.mark.parametrize("member", MEMBERS)
def test_compiled_members_equal_eager_ones_up_to_last_bits(member):
    knobs = {"lr": 1e-2, "weight_decay": 0.1} | ({"momentum": 0.9} if member is SGD else {})
    p, q = pair((300,))
    step_together(p, q, member([p], **knobs, compiled=True), member([q], **knobs), 10)
    torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_compiled_once_for_all_steps_and_sizes(monkeypatch):
    """Neither a new step, a learning rate nor a size compiles anything again."""
    made = []
    monkeypatch.setattr("mixlab.optimizers.step.hashed_bits", lambda *_: made.append(1))
    torch._dynamo.reset()
    counter = torch._dynamo.utils.counters
    p, q = nn.Parameter(torch.ones(1000)), nn.Parameter(torch.ones(77, 31))
    optimizer = AdamW([p, q], storage=Storage(torch.bfloat16, torch.float32), compiled=True)
    for step in range(5):
        optimizer.param_groups[0]["lr"] = 1e-3 / (1 + step)
        p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
        optimizer.step()
        if step == 0:
            graphs = counter["stats"]["unique_graphs"]
    assert counter["stats"]["unique_graphs"] == graphs
    assert not made  # nothing is rounded at random, so nothing is hashed


def test_compiled_stochastic_updates_are_right_on_average():
    """As for eager ones: each step moves with probability 1e-4 * 2^8, by 2^-8."""
    p = torch.ones(4096).bfloat16().requires_grad_()
    generator = torch.Generator().manual_seed(0)
    optimizer = SGD([p], lr=1e-4, storage=Storage(update="stochastic"), generator=generator, compiled=True)
    for _ in range(300):
        p.grad = torch.ones_like(p)
        optimizer.step()
    chance = 1e-4 * 2**8
    sigma = math.sqrt(300 * chance * (1 - chance) / 4096) * 2**-8
    assert abs(p.detach().double().mean().item() - (1 - 0.03)) < 5 * sigma


def test_a_stochastic_second_moment_decays_where_a_nearest_one_cannot():
    """v = 1 with no gradient: bf16 stays, rounded at random it follows 0.999^500 within five standard errors."""
    ends = {}
    for rounding in ("nearest_even", "stochastic"):
        p = nn.Parameter(torch.zeros(4096))
        storage = Storage(exp_avg_sq_dtype=torch.bfloat16, state_rounding=rounding)
        optimizer = AdamW([p], storage=storage, generator=torch.Generator().manual_seed(0))
        for gradient in [1000.0] + [0.0] * 500:
            p.grad = torch.full_like(p, gradient)
            optimizer.step()
        ends[rounding] = optimizer.state[p]["exp_avg_sq"].double()
    assert (ends["nearest_even"] == 1000).all()
    wanted = 1000 * 0.999**500
    assert abs(ends["stochastic"].mean() - wanted) < 5 * ends["stochastic"].std() / math.sqrt(4096)
    assert ends["stochastic"].std() < 0.1 * wanted


@pytest.mark.parametrize(
    ("act", "kind", "words"),
    [
        (lambda: AdamW([nn.Parameter(torch.ones(2).double())]), TypeError, "parameters must be .*, got torch.float64"),
        (lambda: Storage(exp_avg_dtype="int4"), ValueError, "exp_avg_dtype must be one of .*dynamic8, got 'int4'"),
        (lambda: Storage(block_size=0), ValueError, "block_size must be a whole number from 1 up, got 0"),
        (lambda: Storage(state_rounding="up"), ValueError, "state_rounding must be one of nearest_even, stochastic"),
        (lambda: Storage(master_weights=1), ValueError, "master_weights must be True or False, got 1"),
        (
            lambda: AdamW([{"params": [nn.Parameter(torch.ones(2))], "lr": -1}]),
            ValueError,
            "AdamW: lr must be a finite number from 0 up, got -1",
        ),
    ],
)
def test_bad_storages_and_groups_are_named(act, kind, words):
    with pytest.raises(kind, match=words):
        act()


def test_sparse_gradients_are_refused():
    embedding = nn.Embedding(5, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="gradients must be dense"):
        AdamW(embedding.parameters()).step()


def test_a_refused_group_is_not_kept():
    optimizer = AdamW([nn.Parameter(torch.ones(2))])
    for group in (
        {"params": [nn.Parameter(torch.ones(2).double())]},
        {"params": [nn.Parameter(torch.ones(2))], "lr": -1},
    ):
        with pytest.raises((TypeError, ValueError), match="float64|from 0 up"):
            optimizer.add_param_group(group)
    assert len(optimizer.param_groups) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, *EIGHT_BIT], ids=str)
@pytest.mark.parametrize("compiled", [False, True])
def test_on_cuda_as_on_a_cpu(dtype, compiled):
    p, q = pair()
    p = nn.Parameter(p.detach().cuda())
    left, right = (
        AdamW([w], lr=1e-2, storage=Storage(dtype, dtype), compiled=c) for w, c in ((p, compiled), (q, False))
    )
    for step in range(20):
        q.grad = torch.randn(q.shape, generator=torch.Generator().manual_seed(step))
        p.grad = q.grad.cuda()
        left.step()
        right.step()
    assert (p.cpu() - q).abs().mean() < 1e-2 * (q - pair()[0]).abs().mean()


def widened(piece, rounding, monkeypatch, vectors="AVX512"):
    """Returns weights and second moments after compiled steps on float32 weights with bf16 moments, piece by piece."""
    monkeypatch.setattr("mixlab.optimizers.pieces._VECTORS", vectors)
    monkeypatch.setattr("mixlab.optimizers.pieces._WIDE_PIECE", piece)
    torch.manual_seed(0)
    half = torch.randn(640)
    parameter = torch.nn.Parameter(torch.cat([half, half]))
    storage = Storage(torch.bfloat16, torch.bfloat16, state_rounding=rounding)
    generator = torch.Generator().manual_seed(1)
    optimizer = AdamW([parameter], storage=storage, generator=generator, compiled=True)
    for step in range(3):
        gradient = torch.randn(640, generator=torch.Generator().manual_seed(step))
        parameter.grad = torch.cat([gradient, gradient])
        optimizer.step()
    return parameter.detach(), optimizer.state[parameter]["exp_avg_sq"]


def test_pieces_of_a_compiled_step_equal_the_whole(monkeypatch):
    whole, pieces = (widened(piece, "nearest_even", monkeypatch) for piece in (1280, 640))
    assert all(map(torch.equal, whole, pieces))
    weight, second = whole
    assert torch.equal(weight[:640], weight[640:])
    assert second.dtype is torch.bfloat16


@pytest.mark.cpu_kernels
def test_a_compiled_step_is_the_same_with_vectors_of_any_width(monkeypatch):
    (wide, wide_second), (weight, second) = (widened(1280, "nearest_even", monkeypatch, v) for v in ("AVX512", "AVX2"))
    torch.testing.assert_close(wide, weight, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(wide_second, second, rtol=2**-7, atol=0)


@pytest.mark.cpu_kernels
def test_a_compiled_step_is_rounded_with_the_same_bits_with_vectors_of_any_width(monkeypatch):
    """In pieces for 512-bit vectors, and as a whole for others; a last bit may fall on the other side of a number."""
    pieces, whole = (widened(640, "stochastic", monkeypatch, v)[1] for v in ("AVX512", "AVX2"))
    assert (pieces != whole).float().mean() < 0.01


def test_pieces_of_a_compiled_step_draw_bits_of_their_own(monkeypatch):
    for piece in (1280, 640):
        _, second = widened(piece, "stochastic", monkeypatch)
        differ = (second[:640] != second[640:]).float().mean()
        assert 0.2 < float(differ) < 0.95
