"""Traces as on a CPU against real steps, to the byte: layers of torch.nn, and ops whose fakes differ."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mixlab import Recipe
from mixlab.measure import real_steps
from mixlab.memory import trace
from mixlab.memory.categories import PHASES
from mixlab.memory.tracing import Loss
from tests.reference.real_allocations import steps_without_scratch

CPU = torch.device("cpu")
RECIPES = ("fp32", "amp-bf16", "bf16")
EXACT = [0] * 7


@pytest.fixture(autouse=True, scope="module")
def little_to_collect() -> Iterator[None]:
    """Every real step collects garbage, which takes long among all modules that were imported."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def differences(
    make: Callable[[], nn.Module],
    batch: tuple[Tensor, Tensor],
    recipe: str,
    loss: Loss,
    *,
    scratch: bool = False,
) -> list[int]:
    """Returns bytes traced less bytes seen: the peak, what is left after each phase, the peak of each.

    Args:
        scratch: Whether what kernels allocate and free inside counts as seen.
    """
    found = trace(make(), batch, recipe, loss=loss, optimizer="sgd", as_on="cpu")
    steps = real_steps if scratch else steps_without_scratch
    (step,) = steps(make, batch, Recipe.parse(recipe), device=CPU, loss=loss, optimizer="sgd")
    pairs = [(found.peak_bytes, step.peak_bytes)]
    pairs += [(found.after[phase], step.after[phase]) for phase in PHASES]
    pairs += [(found.phase_peaks[phase], step.phase_peaks[phase]) for phase in PHASES]
    return [traced - seen for traced, seen in pairs]


def mean_square(y: Tensor, _target: Tensor) -> Tensor:
    return (y * y).mean()


class Around(nn.Module):
    """A layer between what makes its input of the batch and what picks a tensor of its results."""

    def __init__(self, before: nn.Module, layer: nn.Module, pick: Callable[[Any], Tensor] = lambda y: y) -> None:
        super().__init__()
        self.before, self.layer, self.pick = before, layer, pick

    def forward(self, x: Tensor) -> Tensor:
        return self.pick(self.layer(self.before(x)))


class Called(nn.Module):
    """Calls a function of a layer and its input, that of a linear layer."""

    def __init__(self, width: int, layer: nn.Module, call: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.before, self.layer, self.call = nn.Linear(8, width), layer, call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.layer, self.before(x))


def first(results: Any) -> Tensor:
    return results[0]


ROWS, IMAGES, VOLUMES = torch.zeros(6, 8), torch.zeros(2, 4, 9, 9), torch.zeros(2, 4, 5, 5, 5)
SEQUENCES, SIGNALS = torch.zeros(3, 7, 8), torch.zeros(2, 4, 9)
WORDS = torch.zeros(3, 5, dtype=torch.long)
BATCHES = {1: SIGNALS, 2: IMAGES, 3: VOLUMES}


def in_rows(layer: Callable[[], nn.Module], width: int = 16) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(8, 16), layer(), nn.Linear(width, 4))


def among_convolutions(layer: Callable[[], nn.Module], dims: int, channels: int = 6) -> Callable[[], nn.Module]:
    kind = getattr(nn, f"Conv{dims}d")
    return lambda: nn.Sequential(kind(4, 6, 1), layer(), kind(channels, 4, 1))


def in_order(*layers: Callable[[], nn.Module], training: bool = True) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*(layer() for layer in layers)).train(training)


def steps_of(cell: nn.Module, x: Tensor) -> Tensor:
    state = None
    for step in x.unbind(1):
        state = cell(step, state)
    return state[0] if isinstance(state, tuple) else state


def layers() -> dict[str, tuple[Callable[[], nn.Module], Tensor]]:
    found: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
        "Linear": (lambda: nn.Linear(8, 16), ROWS),
        "Bilinear": (lambda: Called(16, nn.Bilinear(16, 16, 5), lambda f, y: f(y, y)), ROWS),
        "Embedding": (lambda: nn.Sequential(nn.Embedding(50, 8, padding_idx=0), nn.Linear(8, 4)), WORDS),
        "LayerNorm": (in_rows(lambda: nn.LayerNorm(16)), ROWS),
        "LayerNorm first": (lambda: nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 4)), ROWS),
        "RMSNorm": (in_rows(lambda: nn.RMSNorm(16)), ROWS),
        "GroupNorm": (among_convolutions(lambda: nn.GroupNorm(3, 6), 2), IMAGES),
        "LocalResponseNorm": (among_convolutions(lambda: nn.LocalResponseNorm(3), 2), IMAGES),
        "Fold": (lambda: Around(nn.Linear(8, 4), nn.Fold((3, 3), 2)), torch.zeros(2, 8, 8)),
        "Unfold": (lambda: Around(nn.Conv2d(4, 8, 1), nn.Unfold(3)), IMAGES),
        "Unfold with strides": (lambda: Around(nn.Conv2d(4, 8, 1), nn.Unfold(1, stride=3)), IMAGES),
        "CosineSimilarity": (lambda: Called(16, nn.CosineSimilarity(), lambda f, y: f(y, y.tanh())), ROWS),
        "PairwiseDistance": (lambda: Called(16, nn.PairwiseDistance(), lambda f, y: f(y, y.tanh())), ROWS),
        "PixelShuffle": (lambda: Around(nn.Conv2d(4, 8, 1), nn.PixelShuffle(2)), IMAGES),
        "PReLU": (in_rows(nn.PReLU), ROWS),
        "GLU": (in_rows(nn.GLU, 8), ROWS),
        "Softmax2d": (lambda: Around(nn.Conv2d(4, 6, 1), nn.Softmax2d()), IMAGES),
        "MultiheadAttention": (attention(), SEQUENCES),
        "MultiheadAttention with weights": (attention(need_weights=True), SEQUENCES),
        "MultiheadAttention with dropout": (attention(dropout=0.1), SEQUENCES),
        "MultiheadAttention with added biases": (attention(add_bias_kv=True, add_zero_attn=True), SEQUENCES),
        "TransformerEncoder": (
            lambda: nn.Sequential(nn.Linear(8, 16), nn.TransformerEncoder(encoder_layer(), 2)),
            SEQUENCES,
        ),
        "TransformerEncoderLayer, norm first": (
            lambda: nn.Sequential(nn.Linear(8, 16), encoder_layer(norm_first=True, activation="gelu", dropout=0.0)),
            SEQUENCES,
        ),
        "Transformer": (
            lambda: Called(16, nn.Transformer(16, 4, 1, 1, 32, batch_first=True), lambda f, y: f(y, y)),
            SEQUENCES,
        ),
    }
    for mode in ("sum", "mean", "max"):
        bags = partial(lambda mode: nn.Sequential(nn.EmbeddingBag(50, 8, mode=mode), nn.Linear(8, 4)), mode)
        found[f"EmbeddingBag {mode}"] = bags, WORDS
    found["EmbeddingBag with padding"] = (
        lambda: nn.Sequential(nn.EmbeddingBag(50, 8, mode="sum", padding_idx=0), nn.Linear(8, 4)),
        WORDS,
    )
    for dims, batch in BATCHES.items():
        wrapped = partial(among_convolutions, dims=dims)

        def of(name: str, *args: Any, dims: int = dims, **options: Any) -> Callable[[], nn.Module]:
            return partial(getattr(nn, f"{name}{dims}d"), *args, **options)

        reflecting = of("Conv", 6, 6, 3, padding=1, padding_mode="reflect", bias=False)
        found |= {
            f"Conv{dims}d": (wrapped(of("Conv", 6, 6, 3, padding=1, groups=2)), batch),
            f"Conv{dims}d reflect": (wrapped(reflecting), batch),
            f"ConvTranspose{dims}d": (wrapped(of("ConvTranspose", 6, 6, 3, stride=2)), batch),
            f"BatchNorm{dims}d": (wrapped(of("BatchNorm", 6)), batch),
            f"BatchNorm{dims}d first": (in_order(of("BatchNorm", 4), of("Conv", 4, 2, 1)), batch),
            f"BatchNorm{dims}d plain": (wrapped(of("BatchNorm", 6, affine=False, track_running_stats=False)), batch),
            f"BatchNorm{dims}d eval": (in_order(of("Conv", 4, 6, 1), of("BatchNorm", 6), training=False), batch),
            f"InstanceNorm{dims}d": (wrapped(of("InstanceNorm", 6, affine=True)), batch),
            f"LPPool{dims}d": (wrapped(of("LPPool", 2, 2)), batch),
            f"AdaptiveMaxPool{dims}d": (wrapped(of("AdaptiveMaxPool", 1)), batch),
            f"ConstantPad{dims}d": (wrapped(of("ConstantPad", 2, 0.5)), batch),
            f"Dropout{dims}d": (wrapped(of("Dropout")), batch),
            f"Upsample{dims}d": (wrapped(partial(nn.Upsample, scale_factor=2)), batch),
        }
        for name in ("MaxPool", "AvgPool", "AdaptiveAvgPool", "ReflectionPad", "ReplicationPad", "CircularPad"):
            found[f"{name}{dims}d"] = wrapped(of(name, 2)), batch
    for mode in ("bilinear", "bicubic"):
        upsample = partial(nn.Upsample, scale_factor=2, mode=mode)
        found[f"Upsample2d {mode}"] = among_convolutions(upsample, 2), IMAGES
    for name in ACTIVATIONS:
        found[name] = in_rows(getattr(nn, name)), ROWS
        if name in INPLACE:
            found[f"{name} in place"] = in_rows(partial(getattr(nn, name), inplace=True)), ROWS
    for name in ("Softmin", "Softmax", "LogSoftmax"):
        found[name] = in_rows(partial(getattr(nn, name), dim=-1)), ROWS
    for name in ("RNN", "GRU", "LSTM"):
        kind = getattr(nn, name)
        cell = partial(lambda name: Called(8, getattr(nn, f"{name}Cell")(8, 16), steps_of), name)
        found |= {
            name: (lambda k=kind: Around(nn.Identity(), k(8, 16), first), SEQUENCES),
            f"{name}, 2 layers": (
                lambda k=kind: Around(nn.Linear(8, 8), k(8, 16, 2, batch_first=True, dropout=0.2), first),
                SEQUENCES,
            ),
            f"{name}, both ways": (
                lambda k=kind: Around(nn.Linear(8, 8), k(8, 16, 2, bidirectional=True, bias=False), first),
                SEQUENCES,
            ),
            f"{name}Cell": (cell, SEQUENCES),
        }
    found["LSTM, projected"] = (lambda: Around(nn.Identity(), nn.LSTM(8, 16, proj_size=4), first), SEQUENCES)
    return found


def encoder_layer(**options: Any) -> nn.Module:
    return nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, **options)


def attention(*, need_weights: bool = False, **options: Any) -> Callable[[], nn.Module]:
    def attend(layer: nn.Module, x: Tensor) -> Tensor:
        return layer(x, x, x, need_weights=need_weights)[0]

    return lambda: Called(16, nn.MultiheadAttention(16, 4, batch_first=True, **options), attend)


ACTIVATIONS = (
    *("ELU", "Hardshrink", "Hardsigmoid", "Hardtanh", "Hardswish", "LeakyReLU", "LogSigmoid", "ReLU", "ReLU6", "RReLU"),
    *("SELU", "CELU", "GELU", "Sigmoid", "SiLU", "Mish", "Softplus", "Softshrink", "Softsign", "Tanh", "Tanhshrink"),
    *("Identity", "Dropout", "AlphaDropout", "FeatureAlphaDropout"),
)
INPLACE = ("ELU", "Hardswish", "LeakyReLU", "ReLU", "SiLU", "Dropout")

# Kernels that no CPU has in bfloat16.
MISSING = ("AvgPool3d", "LPPool3d", "LocalResponseNorm")
LAYERS = layers()
# These in all recipes by default, the rest in a run of slow tests.
QUICK = (
    *("Linear", "LayerNorm", "Conv2d", "BatchNorm2d", "BatchNorm2d first", "EmbeddingBag sum", "EmbeddingBag mean"),
    *("LSTM", "LSTM, 2 layers", "LSTM, both ways", "MultiheadAttention", "TransformerEncoder", "Unfold", "Fold"),
)


CASES = [
    pytest.param(name, recipe, id=f"{name} {recipe}", marks=() if name in QUICK else pytest.mark.slow)
    for name in LAYERS
    for recipe in RECIPES
]


@pytest.mark.parametrize(("name", "recipe"), CASES)
def test_layers(name, recipe):
    make, batch = LAYERS[name]
    if recipe == "bf16" and name in MISSING:
        pytest.skip("no CPU has this kernel in bfloat16")
    assert differences(make, (batch, torch.zeros(1)), recipe, mean_square) == EXACT


NAMES = [name for name in LAYERS if name not in QUICK]


@pytest.mark.parametrize("name", NAMES[::6])
def test_a_sixth_of_the_other_layers_under_autocast(name):
    make, batch = LAYERS[name]
    assert differences(make, (batch, torch.zeros(1)), "amp-bf16", mean_square) == EXACT


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 5))


def square_of(z: Tensor) -> Tensor:
    return z * z.conj()


OPS: dict[str, Callable[[Tensor], Tensor]] = {
    "index": lambda y: y[:, torch.zeros(3, dtype=torch.long)],
    "index of rows": lambda y: y[torch.zeros(3, dtype=torch.long)],
    "index_select": lambda y: y.index_select(1, torch.zeros(3, dtype=torch.long)),
    "gather": lambda y: y.gather(1, torch.zeros(40, 1, dtype=torch.long)),
    "take": lambda y: y.take(torch.zeros(3, dtype=torch.long)),
    "take_along_dim": lambda y: torch.take_along_dim(y, torch.zeros(40, 1, dtype=torch.long), 1),
    "max": lambda y: y.max(1)[0],
    "min": lambda y: y.min(1, keepdim=True)[0],
    "topk": lambda y: y.topk(2)[0],
    "sort": lambda y: y.sort()[0],
    "kthvalue": lambda y: y.kthvalue(3)[0],
    "median": lambda y: y.median(1)[0],
    "cummax": lambda y: y.cummax(1)[0],
    "amax": lambda y: y.amax(1),
    "max of all": lambda y: y * y.max() + torch.min(y),
    "median of all": lambda y: y * y.median() + torch.nanmedian(input=y),
    "prod": lambda y: y.prod(1) + torch.prod(y, dim=1, keepdim=True),
    "prod of all": lambda y: y * y.prod(),
    "cumprod": lambda y: y.cumprod(1) + torch.cumprod(input=y, dim=0),
    "clamp between tensors": lambda y: y.clamp(y.tanh(), y.exp()),
    "var_mean": lambda y: sum(torch.var_mean(y, 1)),
    "scatter_reduce": lambda y: torch.zeros_like(y).scatter_reduce(1, torch.zeros(40, 5, dtype=torch.long), y, "amax"),
    "complex": lambda y: torch.view_as_real(square_of(torch.view_as_complex(y[:, :4].float().reshape(40, 2, 2)))),
    "layer norm of columns": lambda y: F.layer_norm(y.t(), (40,)).t() @ y.t(),
    "activations of columns": lambda y: (F.hardswish(y.t()) + F.softplus(y.t()) + F.elu(y.t())) @ y,
    "learnt targets": lambda y: F.binary_cross_entropy_with_logits(y, y.sigmoid(), reduction="none"),
    "scatter_add": lambda y: torch.zeros(40, 9, dtype=y.dtype).scatter_add(1, torch.zeros(40, 5, dtype=torch.long), y),
    "index_add": lambda y: torch.zeros(40, 9, dtype=y.dtype).index_add(1, torch.zeros(5, dtype=torch.long), y),
    "one_hot": lambda y: F.one_hot(torch.zeros(40, dtype=torch.long), 5) * y,
    "slices": lambda y: y[:, :3] + y[:, 1:4],
    "several uses": lambda y: y.sin() + y.cos() + y.tanh() + y,
    "attention in float32": lambda y: (y @ y.t()).softmax(-1, dtype=torch.float32).to(y.dtype) @ y,
}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", OPS)
def test_backward_of_ops_that_autograd_computes_in_place(name, recipe):
    if recipe == "fp32" and name not in ("index", "max", "topk", "gather"):
        pytest.skip("like the others")

    class Op(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return OPS[name](super().forward(x))

    found = differences(lambda: Op(8, 5), (torch.zeros(40, 8), torch.zeros(1)), recipe, mean_square)
    assert found == EXACT


class InParts(nn.Module):
    """Layers that are computed again in backward, each with dropout."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options
        self.parts = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Dropout(0.1)) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = x.requires_grad_() if self.options.get("use_reentrant") else x
        for part in self.parts:
            x = checkpoint(part, x, **self.options)
        return x


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("preserve", [False, True])
def test_checkpoints_keep_the_state_of_random_numbers(reentrant, preserve):
    """5056 bytes each, on a CPU; a GPU's host has them."""
    make = partial(InParts, use_reentrant=reentrant, preserve_rng_state=preserve)
    batch = torch.zeros(16, 8), torch.zeros(1)
    state = torch.get_rng_state()
    found = trace(make(), batch, loss=mean_square, optimizer="sgd", as_on="cpu")
    assert torch.get_rng_state is torch.random.get_rng_state
    kept = [
        allocation
        for allocation in found.allocations
        if allocation.bytes == len(state) and allocation.category == "activations"
    ]
    assert len(kept) == (6 if preserve else 0)
    torch.set_rng_state(state)
    assert differences(make, batch, "fp32", mean_square) == EXACT
    on_cuda = [
        trace(InParts(**{**make.keywords, "preserve_rng_state": one}), batch, loss=mean_square) for one in (0, 1)
    ]
    assert on_cuda[0].peak_bytes == on_cuda[1].peak_bytes


class Channels(nn.Module):
    """Normalizes channels that come last, twice: a batch norm's input is a transposed view."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.wide, self.narrow = nn.BatchNorm1d(16), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = x + self.narrow(F.gelu(self.wide(self.norm(x.transpose(1, 2)).transpose(1, 2))))
        return x


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_batch_norm_of_transposed_rows_lies_in_order(recipe: str):
    assert differences(Channels, (torch.randn(4, 4, 16), torch.zeros(4)), recipe, mean_square) == EXACT
