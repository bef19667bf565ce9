"""Small models of many kinds, each of which trains on rows of 64 pixels: for tests that hold any tool against all."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True, eq=False)
class Kind:
    """A model and what is known of it.

    Args:
        make: Returns a new one.
        casts: Parameters that autocast converts in a forward pass.
        plain: Returns one with the same parameters and mathematics and nothing special; None: it is nothing special.
        logits: What of its output are the logits.
        optimizer: Its optimizer, of torch.optim.
        refused: The words of each tool that refuses it; "training" is every tool that makes a `Trainer`.
    """

    make: Callable[[], nn.Module]
    casts: tuple[str, ...]
    plain: Callable[[], nn.Module] | None = None
    logits: Callable[[Any], Tensor] = lambda output: output
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam
    refused: dict[str, str] = field(default_factory=dict)

    def refusal(self, tool: str) -> str | None:
        trains = tool in ("Trainer", "dtype_ledger", "predict_windows", "dissect")
        return self.refused.get(tool) or (self.refused.get("training") if trains else None)


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))


def frozen() -> nn.Module:
    model = perceptron()
    model[0].requires_grad_(False)
    return model


def noisy() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.ReLU(), nn.Linear(16, 10))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 10, bias=False), nn.Linear(64, 10)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x.flip(-1))


class Looked(nn.Module):
    def __init__(self, sparse: bool) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(17, 4, sparse=sparse), nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.table((x.detach() * 16).long()).flatten(1))


class Twice(nn.Module):
    """One layer called twice; in a checkpoint, or not."""

    def __init__(self, reentrant: bool | None = None) -> None:
        super().__init__()
        self.first, self.again, self.out = nn.Linear(64, 16), nn.Linear(16, 16), nn.Linear(16, 10)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for _ in range(2):
            x = self.part(x) if self.reentrant is None else checkpoint(self.part, x, use_reentrant=self.reentrant)
        return self.out(x)

    def part(self, x: Tensor) -> Tensor:
        return torch.tanh(self.again(x))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn, self.out = kind(8, 12, batch_first=True), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x.unflatten(1, (8, 8)))[0][:, -1])


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.out = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(1, (8, 8))
        return self.out(self.attention(x, x, x, need_weights=False)[0].flatten(1))


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return nn.Sequential(nn.Unflatten(1, (8, 8)), nn.TransformerEncoder(layer, 1), nn.Flatten(), nn.Linear(64, 10))


def volumes() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 4, 4, 4)),
        nn.Conv3d(1, 4, 3, padding=1),
        nn.MaxPool3d(2),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def parametrized() -> nn.Module:
    return nn.Sequential(
        parametrizations.weight_norm(nn.Linear(64, 16)),
        nn.ReLU(),
        parametrizations.spectral_norm(nn.Linear(16, 10, bias=False)),
    )


class Answering(nn.Module):
    """Returns its logits in some container."""

    def __init__(self, pack: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.linear, self.scale = nn.Linear(64, 10), nn.Parameter(torch.tensor(1.5))
        self.pack = pack

    def forward(self, x: Tensor) -> Any:
        return self.pack(self.linear(x) * self.scale)


@dataclass
class Answer:
    logits: Tensor


def unused() -> nn.Module:
    class Unused(Twice):
        def __init__(self) -> None:
            super().__init__()
            self.never = nn.Linear(3, 3)

    return Unused()


class Scaled(nn.Module):
    """With a 0-dim parameter of its own, and one in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.scale = nn.Linear(64, 10), nn.Parameter(torch.tensor(1.5))
        self.shifts = nn.ParameterList([nn.Parameter(torch.zeros(10))])

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * self.scale + self.shifts[0]


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(16), nn.Tanh(), nn.LazyLinear(10))


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(perceptron())


def compiled() -> nn.Module:
    return torch.compile(perceptron(), backend="eager")


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(64, 16), nn.Linear(16, 10).bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(self.wide(x).bfloat16()).float()


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.double())


class Waves(nn.Module):
    """Complex numbers inside."""

    def __init__(self) -> None:
        super().__init__()
        self.phases, self.out = nn.Linear(33, 16, dtype=torch.complex64), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.phases(torch.fft.rfft(x)).abs()))


def no_float32(which: str) -> dict[str, str]:
    return {"training": f"make_model must return a module in float32, .* got {which}"}


def no_logits(came: str) -> dict[str, str]:
    words = f"must return logits, .* got an output that is {came} for targets"
    return {"training": words}


KINDS: dict[str, Kind] = {
    "frozen": Kind(frozen, ("0.weight", "0.bias", "2.weight", "2.bias")),
    "dropout and batch norm": Kind(noisy, ("0.weight", "0.bias", "4.weight", "4.bias")),
    "tied": Kind(Tied, ("a.weight", "b.bias")),
    "sparse": Kind(
        lambda: Looked(True),
        ("out.weight", "out.bias"),
        plain=lambda: Looked(False),
        optimizer=torch.optim.SGD,
        refused={"trace": r"module 'table' \(Embedding\) cannot be traced: its gradient is sparse"},
    ),
    "called twice": Kind(Twice, ("first.weight", "first.bias", "again.weight", "again.bias", "out.weight", "out.bias")),
    "checkpoint": Kind(
        lambda: Twice(False),
        ("first.weight", "first.bias", "again.weight", "again.bias", "out.weight", "out.bias"),
        plain=Twice,
    ),
    "reentrant checkpoint": Kind(
        lambda: Twice(True),
        ("first.weight", "first.bias", "again.weight", "again.bias", "out.weight", "out.bias"),
        plain=Twice,
    ),
    "lstm": Kind(
        lambda: Recurrent(nn.LSTM),
        ("rnn.weight_ih_l0", "rnn.weight_hh_l0", "rnn.bias_ih_l0", "rnn.bias_hh_l0", "out.weight", "out.bias"),
    ),
    "gru": Kind(
        lambda: Recurrent(nn.GRU),
        ("rnn.weight_ih_l0", "rnn.weight_hh_l0", "rnn.bias_ih_l0", "rnn.bias_hh_l0", "out.weight", "out.bias"),
    ),
    "attention": Kind(
        Attending,
        (
            *("attention.in_proj_weight", "attention.in_proj_bias"),
            *("attention.out_proj.weight", "attention.out_proj.bias", "out.weight", "out.bias"),
        ),
    ),
    "encoder": Kind(
        encoder,
        (
            *(f"1.layers.0.self_attn.{name}" for name in ("in_proj_weight", "in_proj_bias")),
            *(f"1.layers.0.self_attn.out_proj.{name}" for name in ("weight", "bias")),
            *(f"1.layers.0.linear{i}.{name}" for i in (1, 2) for name in ("weight", "bias")),
            *("3.weight", "3.bias"),
        ),
    ),
    "volumes": Kind(volumes, ("1.weight", "1.bias", "4.weight", "4.bias")),
    "parametrized": Kind(parametrized, ("0.bias", "2.parametrizations.weight.original")),
    "dict": Kind(
        lambda: Answering(lambda x: {"logits": x}),
        ("linear.weight", "linear.bias"),
        logits=lambda output: output["logits"],
    ),
    "dataclass": Kind(
        lambda: Answering(Answer),
        ("linear.weight", "linear.bias"),
        logits=lambda output: output.logits,
    ),
    "list": Kind(
        lambda: Answering(lambda x: [3, [x]]),
        ("linear.weight", "linear.bias"),
        logits=lambda output: output[1][0],
        refused=no_logits("a list of 2"),
    ),
    "unused": Kind(unused, ("first.weight", "first.bias", "again.weight", "again.bias", "out.weight", "out.bias")),
    "0-dim": Kind(Scaled, ("linear.weight", "linear.bias")),
    "mixed": Kind(
        Mixed,
        ("wide.weight", "wide.bias", "narrow.weight", "narrow.bias"),
        refused={
            **no_float32("torch.bfloat16 in narrow.weight"),
            "trace": "addmm.* of narrow failed with RuntimeError: addmm takes operands of one dtype",
        },
    ),
    "float64": Kind(
        Wide,
        (),
        refused={
            **no_float32("torch.float64 in linear.weight"),
            "trace": "addmm.* of linear failed with RuntimeError: addmm takes operands of one dtype",
            "track": "track: activation of layer 'linear': .* at most 32 bits, got torch.float64",
        },
    ),
    "complex": Kind(
        Waves,
        ("out.weight", "out.bias"),
        refused={
            **no_float32("torch.complex64 in phases.weight"),
            "track": "track: activation of layer 'phases': .* at most 32 bits, got torch.complex64",
        },
    ),
    "lazy": Kind(
        lazy,
        (),
        refused={
            "training": "0.weight has none, because its lazy module was not called",
            "track": "track: parameter 0.weight has no shape yet, because its lazy module was not called",
            "cast_trace": "cast_trace: parameter 0.weight has no shape yet",
            "trace": "module '0' .* its parameter weight has no shape before the first batch",
        },
    ),
    "script": Kind(
        scripted,
        (),
        plain=perceptron,
        refused={
            "reference_gradients": "the model is a TorchScript module",
            "track": "track: the model is a TorchScript module",
            "cast_trace": "cast_trace: the model is a TorchScript module",
            "trace": "the model .* it is TorchScript",
            "predict_windows": "track: the model is a TorchScript module",
            "dissect": "dissect: the model is a TorchScript module",
        },
    ),
    "compiled": Kind(
        compiled,
        ("_orig_mod.0.weight", "_orig_mod.0.bias", "_orig_mod.2.weight", "_orig_mod.2.bias"),
        plain=perceptron,
        refused={
            "track": "track: the model is compiled",
            "trace": "the model .* it is compiled",
            "predict_windows": "track: the model is compiled",
            "dissect": "dissect: the model is compiled",
        },
    ),
}
