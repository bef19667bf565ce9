"""Every optimizer of torch.optim, timm, transformers, optimi, torchao and bitsandbytes under a watch.

About 20 seconds, most of them imports and torchao's compiled step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from importlib import import_module

import pytest
import torch
from torch import nn

import tests.models  # noqa: F401  names torchvision's ops, which timm imports
from mixlab.optimizers import read_state, state_bytes, state_tensors
from mixlab.probes import Lost, track_updates

pytestmark = [
    pytest.mark.models,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:timm"),
    pytest.mark.filterwarnings("ignore:.*create_graph=True:UserWarning"),  # Adahessian
    pytest.mark.filterwarnings("ignore::FutureWarning:torchao"),
    pytest.mark.filterwarnings("ignore:.*Enum subclass:UserWarning"),
    pytest.mark.filterwarnings("ignore:It is highly recommended to have 'opt_einsum':UserWarning"),  # Kron
    pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU:UserWarning"),
]

Make = Callable[[nn.Module], torch.optim.Optimizer]

# Their second moments are means of squared gradients at every step of the training here.
JUDGED = {
    "torch.optim": "Adadelta Adam AdamW NAdam RAdam RMSprop",
    "transformers": "",
    "optimi": "Adam AdamW RAdam Ranger StableAdamW",
    "torchao.optim": "Adam4bit Adam8bit AdamFp8 AdamW4bit AdamW8bit AdamWFp8 _AdamW",
    "bitsandbytes.optim": "Adam Adam32bit Adam8bit AdamW AdamW32bit AdamW8bit",
}
NOT_ON_A_CPU = ("apex", "bnb", "fused")


def classes(package: str) -> Iterator[tuple[str, Make]]:
    module = import_module(package)
    for name in dir(module):
        made = getattr(module, name)
        if isinstance(made, type) and issubclass(made, torch.optim.Optimizer) and made is not torch.optim.Optimizer:
            yield name, lambda model, made=made: made(matrices_for(made, model), lr=1e-3)


def matrices_for(made: type, model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.dim() == 2 or made.__name__ != "Muon"]


def of_timm() -> Iterator[tuple[str, Make]]:
    optim = import_module("timm.optim")
    for name in optim.list_optimizers():
        if not name.startswith(NOT_ON_A_CPU):
            yield name, lambda model, name=name: optim.create_optimizer_v2(model, name, lr=1e-3, weight_decay=0.01)


def of_transformers() -> Iterator[tuple[str, Make]]:
    yield "Adafactor", lambda model: import_module("transformers").Adafactor(model.parameters())


def train(make: Make, *, watch: bool) -> tuple[track_updates, torch.optim.Optimizer, list[torch.Tensor]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    optimizer = make(model)
    lost = track_updates(model, optimizer)
    data = torch.Generator().manual_seed(1)
    with lost if watch else nullcontext():
        for _ in range(3):
            batch = torch.randn(5, 4, generator=data)

            def closure(batch: torch.Tensor = batch) -> torch.Tensor:
                optimizer.zero_grad()
                loss = model(batch).square().sum()
                loss.backward(create_graph=type(optimizer).__name__ == "Adahessian")
                return loss

            if type(optimizer).__name__ == "LBFGS":
                optimizer.step(closure)
            else:
                closure()
                optimizer.step()
    return lost, optimizer, [p.detach().clone() for p in model.parameters()]


def is_judged(lost: track_updates) -> bool:
    def counts(one: Lost) -> bool:
        return one.stuck_falling.of + one.stuck_rising.of > 0

    return bool(len(lost)) and not lost.left_out and all(map(counts, lost))


def watched(found: Iterator[tuple[str, Make]]) -> tuple[int, set[str], set[str]]:
    """Trains with each that trains alone; returns how many, whose second moments are judged, and what is left out."""
    count, judged, left_out = 0, set(), set()
    for name, make in found:
        try:
            _, _, alone = train(make, watch=False)
        except (AssertionError, NotImplementedError, RuntimeError, UnboundLocalError):  # needs CUDA, sparse gradients
            continue
        lost, optimizer, weights = train(make, watch=True)
        assert all(map(torch.equal, alone, weights)), name
        assert len(lost), name
        assert not any("could not be read" in why for why in lost.left_out.values()), name
        assert state_bytes(optimizer) >= 0
        for state, _ in state_tensors(optimizer):
            for parameter in optimizer.state:
                with suppress(KeyError, TypeError):
                    assert read_state(optimizer, parameter, state).is_floating_point()
        count += 1
        judged |= {name} if is_judged(lost) else set()
        left_out |= set(lost.left_out.values())
    return count, judged, left_out


@pytest.mark.parametrize("package", ["torch.optim", "optimi", "torchao.optim", "bitsandbytes.optim"])
def test_every_optimizer_of_a_package_is_watched(package: str):
    count, judged, _ = watched(classes(package))
    assert count >= 7
    assert judged >= set(JUDGED[package].split())
    assert judged.isdisjoint({"Adan", "Lion", "SGD", "Muon", "Adagrad"})


def test_every_optimizer_of_timm_is_watched():
    count, judged, left_out = watched(of_timm())
    assert count >= 80
    assert {"adamw", "adamp", "radam", "laprop", "nadamw", "adafactor"} <= judged
    assert judged.isdisjoint({"adan", "mars", "adamuon", "novograd", "lion", "kron", "adabelief", "madgrad"})
    assert left_out >= {"exp_avg_sq is no mean of the squared gradients", "exp_avg_sq are not in the parameter's shape"}


def test_the_adafactor_of_transformers_is_watched():
    count, judged, left_out = watched(of_transformers())
    assert (count, judged) == (1, set())
    assert left_out == {"exp_avg_sq_row and exp_avg_sq_col are not in the parameter's shape"}


def test_codes_of_8_bit_optimizers_are_never_values():
    optim = import_module("bitsandbytes.optim")
    weight = nn.Parameter(torch.randn(64, 64))
    optimizer = optim.AdamW8bit([weight])
    with track_updates(nn.ParameterList([weight]), optimizer) as lost:
        weight.grad = torch.randn(64, 64)
        optimizer.step()
    with pytest.raises(TypeError, match="'state2' holds codes in torch.uint8, which only AdamW8bit reads"):
        read_state(optimizer, weight, "state2")
    assert lost.left_out == {"0": "state1 and state2 hold codes that only the optimizer reads"}
    assert lost["0"][0].swallowed.of == 64 * 64


@pytest.mark.parametrize("wrapper", ["accelerate", "lightning", "lookahead"])
def test_an_optimizer_in_a_real_wrapper_is_watched_and_read_like_the_one_inside(wrapper: str):
    wrap = {
        "accelerate": lambda inner: import_module("accelerate").Accelerator(cpu=True).prepare_optimizer(inner),
        "lightning": lambda inner: import_module("lightning.pytorch.core.optimizer").LightningOptimizer(inner),
        "lookahead": lambda inner: import_module("timm.optim.lookahead").Lookahead(inner, k=100),
    }[wrapper]
    seen = []
    for wrapped in (False, True):
        weight = nn.Parameter(torch.ones(3))
        optimizer = torch.optim.AdamW([weight])
        if wrapped:
            optimizer = wrap(optimizer)
            if wrapper == "lightning":
                optimizer._strategy = Strategy()
        with track_updates(nn.ParameterList([weight]), optimizer) as lost:
            for gradient in ([1.0, 1e-30, 0.0], [0.5, 0.0, 0.0]):
                weight.grad = torch.tensor(gradient)
                optimizer.step()
        seen.append((list(lost), read_state(optimizer, weight, "exp_avg_sq").tolist(), state_bytes(optimizer)))
    assert seen[0] == seen[1]
    assert len(seen[0][0]) == 2


class Strategy:
    """What a LightningOptimizer asks of its trainer."""

    def optimizer_step(self, optimizer, closure, **kwargs):
        return optimizer.step(closure)
