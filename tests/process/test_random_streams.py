"""A stream's numbers are those after `torch.manual_seed`, and torch's own generator does not move."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import mixlab
from mixlab.process import RandomStream


class Seen(TorchDispatchMode):
    """A mode that looks at every op; below it an op made of others is not taken apart by the dispatcher."""

    def __init__(self) -> None:
        super().__init__()
        self.generators: list[object] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.generators += [value for value in (*args, *(kwargs or {}).values()) if isinstance(value, torch.Generator)]
        return func(*args, **(kwargs or {}))


def trained(model: nn.Module, x: Tensor) -> Tensor:
    model(x).square().sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def checkpointed(reentrant: bool) -> Callable[[], Tensor]:
    """The gradients of a part that is computed twice with the same dropout."""

    def run() -> Tensor:
        part = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 8))
        x = torch.randn(4, 8, requires_grad=True)
        y = checkpoint(part, x, use_reentrant=reentrant)
        torch.randn(3)  # what is drawn between must not count
        (y * torch.randn(8)).sum().backward()
        return torch.cat([x.grad.flatten(), *(p.grad.flatten() for p in part.parameters())])

    return run


def seeds_itself() -> Tensor:
    torch.manual_seed(5)
    first = torch.rand(3)
    state = torch.get_rng_state()
    with torch.random.fork_rng(devices=[]):
        torch.rand(2)
    second = torch.rand(3)
    torch.set_rng_state(state)
    return torch.cat([first, second, torch.rand(3), torch.tensor([float(torch.initial_seed())])])


x = torch.linspace(-1, 1, 32).reshape(4, 8)
DRAWS: dict[str, Callable[[], Tensor]] = {
    "rand": lambda: torch.rand(5),
    "randn": lambda: torch.randn(5),
    "randint": lambda: torch.randint(3, 100, (5,)),
    "randperm": lambda: torch.randperm(9),
    "rand_like": lambda: torch.rand_like(x),
    "randn_like": lambda: torch.randn_like(x),
    "randint_like": lambda: torch.randint_like(x, 9),
    "normal": lambda: torch.normal(x, x.abs() + 1),
    "normal, numbers": lambda: torch.normal(0.0, 1.0, (4,)),
    "rand, out": lambda: torch.rand(4, out=torch.empty(4)),
    "randperm, out": lambda: torch.randperm(4, out=torch.empty(4, dtype=torch.int64)),
    "bernoulli": lambda: torch.bernoulli(x.abs()),
    "multinomial": lambda: torch.multinomial(x.abs(), 3),
    "poisson": lambda: torch.poisson(x.abs() * 4),
    "binomial": lambda: torch.binomial(x.abs() * 9, x.abs()),
    "in place": lambda: torch.cat(
        [
            torch.empty(3).uniform_(),
            torch.empty(3).normal_(),
            torch.empty(3).exponential_(),
            torch.empty(3).cauchy_(),
            torch.empty(3).geometric_(0.3),
            torch.empty(3).log_normal_(),
            torch.empty(3).random_(),
        ]
    ),
    "complex": lambda: torch.view_as_real(torch.randn(3, dtype=torch.complex64)),
    "dropout": lambda: F.dropout(x),
    "native_dropout": lambda: torch.native_dropout(x, 0.5, True)[0],
    "feature dropout": lambda: F.feature_alpha_dropout(x[None], training=True),
    "rrelu": lambda: F.rrelu(x, training=True),
    "gumbel_softmax": lambda: F.gumbel_softmax(x),
    "fractional pool": lambda: F.fractional_max_pool2d(torch.ones(1, 1, 8, 8).cumsum(-1), 2, output_size=3),
    "attention": lambda: F.scaled_dot_product_attention(x[None], x[None], x[None], dropout_p=0.5),
    "gamma": lambda: torch.distributions.Gamma(x.abs() + 1, 1).sample(),
    "Dirichlet": lambda: torch.distributions.Dirichlet(x.abs() + 1).sample(),
    "svd_lowrank": lambda: torch.svd_lowrank(x, 2)[1],
    "init": lambda: nn.init.trunc_normal_(nn.init.orthogonal_(torch.empty(5, 5))) + nn.Linear(5, 5).weight,
    "LSTM": lambda: nn.LSTM(8, 8, 2, dropout=0.5)(x[None])[0],
    "transformer": lambda: trained(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3), x[None]),
    "vmap": lambda: torch.vmap(F.dropout, randomness="different")(x),
    "func.grad": lambda: torch.func.grad(lambda t: (F.dropout(t) * t).sum())(x),
    "DataLoader": lambda: torch.cat(list(torch.utils.data.DataLoader(list(range(9)), 3, shuffle=True))),
    "a generator of its own": lambda: torch.rand(5, generator=torch.Generator().manual_seed(3)),
    "checkpoint": checkpointed(False),
    "reentrant checkpoint": checkpointed(True),
    "seeds itself": seeds_itself,
}


@pytest.fixture(autouse=True)
def _nothing_global_moves():
    torch.manual_seed(1234)
    before = torch.get_rng_state()
    generator = vars(torch.random)["default_generator"]
    yield
    assert torch.equal(torch.get_rng_state(), before)
    assert vars(torch.random)["default_generator"] is generator is torch.default_generator


def after_manual_seed(draw: Callable[[], Tensor], seed: int) -> tuple[Tensor, Tensor]:
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    result = draw(), torch.rand(2)
    torch.set_rng_state(state)
    return result


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("watched", [False, True], ids=["", "under a mode"])
def test_the_numbers_are_those_of_manual_seed(name: str, watched: bool):
    draw = DRAWS[name]
    right = after_manual_seed(draw, 7)
    with RandomStream(7) as stream:
        if watched:
            with Seen() as seen:
                got = draw()
            assert stream.generator not in seen.generators
        else:
            got = draw()
        rest = torch.rand(2)
    assert torch.equal(got, right[0])
    assert torch.equal(rest, right[1])


def test_every_op_with_a_generator_has_a_kernel():
    with RandomStream(0):
        pass
    for schema in torch._C._jit_get_all_schemas():
        if schema.name.startswith("aten::") and any(one.name == "generator" for one in schema.arguments):
            name = f"{schema.name}.{schema.overload_name}".removesuffix(".")
            assert torch._C._dispatch_has_kernel_for_dispatch_key(name, "Fake"), name


def test_streams_nest():
    with RandomStream(1):
        first = torch.rand(2)
        with RandomStream(2):
            inner = torch.rand(2)
        second = torch.rand(2)
    assert torch.equal(torch.cat([first, second]), torch.rand(4, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(inner, torch.rand(2, generator=torch.Generator().manual_seed(2)))


def test_without_a_seed_it_goes_on_from_the_present_state():
    with RandomStream(None):
        seen = torch.rand(3)
    state = torch.get_rng_state()
    assert torch.equal(seen, torch.rand(3))
    torch.set_rng_state(state)


def test_an_error_leaves_nothing_behind():
    with pytest.raises(KeyboardInterrupt), RandomStream(0):
        raise KeyboardInterrupt
    state = torch.get_rng_state()
    torch.rand(1)
    assert not torch.equal(torch.get_rng_state(), state)
    torch.set_rng_state(state)


def test_fake_tensors_draw_nothing():
    with RandomStream(0) as stream, torch._subclasses.FakeTensorMode():
        F.dropout(torch.ones(5))
    assert torch.equal(stream.generator.get_state(), torch.Generator().manual_seed(0).get_state())


def test_compiled_code_draws_the_same_each_time():
    dropout = torch.compile(lambda: F.dropout(torch.ones(64)), backend="aot_eager")
    seen = []
    for _ in range(2):
        with RandomStream(3):
            seen.append(dropout())
    assert torch.equal(*seen)


def test_threads_do_not_see_each_other():
    """Two streams and a cell that seeds torch itself, with a pause after each draw for the others."""
    turn = threading.Barrier(3)
    seen: dict[int, Tensor] = {}

    def draw(seed: int) -> None:
        with RandomStream(seed):
            seen[seed] = torch.cat([(turn.wait(), torch.rand(2))[1] for _ in range(50)])

    threads = [threading.Thread(target=draw, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    state = torch.get_rng_state()
    torch.manual_seed(0)
    cell = torch.cat([(turn.wait(), torch.rand(2))[1] for _ in range(50)])
    for thread in threads:
        thread.join()
    torch.set_rng_state(state)
    for seed, numbers in ((0, cell), (1, seen[1]), (2, seen[2])):
        generator = torch.Generator().manual_seed(seed)
        assert torch.equal(numbers, torch.cat([torch.rand(2, generator=generator) for _ in range(50)]))


def test_seeded_models_are_those_of_manual_seed():
    task = mixlab.load_task("chars-gpt")
    state = torch.get_rng_state()
    torch.manual_seed(3)
    right = torch.cat([p.flatten() for p in task.make_model().parameters()])
    torch.set_rng_state(state)
    assert torch.equal(torch.cat([p.flatten() for p in task.seeded_model(3).parameters()]), right)
