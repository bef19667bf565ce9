"""Models of other people: traced as they train, or refused in words that name the module."""

from __future__ import annotations

import sys
import threading
import types
import warnings
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixlab import Recipe
from mixlab.measure import real_steps
from mixlab.memory import TraceError, trace
from mixlab.memory.categories import PHASES

BATCH = torch.zeros(16, 8), torch.zeros(16, dtype=torch.long)
CPU = torch.device("cpu")


def assert_as_a_real_step(make, batch=BATCH, recipe="fp32") -> None:
    found = trace(make(), batch, recipe, as_on="cpu")
    (step,) = real_steps(make, batch, Recipe.parse(recipe), device=CPU)
    assert (found.after, found.phase_peaks) == (step.after, step.phase_peaks)
    assert [found.peak_bytes] + [found.phase_peaks[phase] for phase in PHASES] == [
        step.peak_bytes,
        *(step.phase_peaks[phase] for phase in PHASES),
    ]


class Holder(nn.Module):
    """Tensors in containers, one of them twice, one that is no leaf, a parameter that nobody registered, and a lock."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.by_name = {"scale": torch.ones(8), "more": [torch.ones(8), (torch.ones(8),)]}
        self.plain = torch.ones(8)
        self.again = [self.plain]
        self.free = [nn.Parameter(torch.ones(8), requires_grad=False)]
        self.registry = types.SimpleNamespace(lock=threading.Lock(), shift=torch.zeros(8))
        self.lock = threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        with self.lock, self.registry.lock:
            y = self.layer(x) * self.by_name["scale"]
        first, (second,) = self.by_name["more"]
        return (y * first + second) * self.again[0] + self.free[0] + self.registry.shift


def test_tensors_in_containers_and_locks():
    model = Holder()
    found = trace(model, BATCH, as_on="cpu")
    assert not model.lock.locked()
    assert found.at_end["step"]["batch and buffers"] >= 16 * 8 * 4 + 16 * 8 + 5 * 8 * 4

    class WithoutLock(Holder):
        def __init__(self) -> None:
            super().__init__()
            self.registry = types.SimpleNamespace(lock=self.registry.lock, shift=self.plain)

    assert_as_a_real_step(WithoutLock)


@pytest.mark.parametrize("recipe", ["fp32", "amp-bf16"])
def test_mixtures_of_experts_by_grouped_products(recipe):
    """As transformers makes them: rows sorted by expert, products in groups, in any dtype."""

    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.router = nn.Linear(8, 4)
            self.up, self.down = nn.Parameter(torch.ones(4, 8, 16)), nn.Parameter(torch.ones(4, 16, 8))

        def forward(self, x: Tensor) -> Tensor:
            weights, experts = self.router(x).softmax(-1).topk(2)
            order = experts.flatten().argsort()
            rows = x[order // 2]
            ends = torch.histc(experts.flatten().float(), 4, 0, 3).cumsum(0).int()
            y = F.silu(torch._grouped_mm(rows.to(self.up.dtype), self.up, offs=ends))
            y = torch._grouped_mm(y.to(self.down.dtype), self.down, offs=ends) * weights.flatten()[order, None]
            return torch.zeros_like(y[: len(x)]).index_add(0, order // 2, y)

    assert trace(Experts(), BATCH, recipe, as_on="cuda").peak_bytes
    found = trace(Experts(), BATCH, recipe, as_on="cpu")
    (step,) = real_steps(Experts, BATCH, Recipe.parse(recipe), device=CPU)
    assert found.after == step.after


def test_rows_of_grouped_products_are_padded_to_16_bytes_on_cuda():
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.Parameter(torch.ones(1, 8, 9))

        def forward(self, x: Tensor, ends: Tensor) -> dict[str, Tensor]:
            return {"loss": torch._grouped_mm(x, self.weights, offs=ends).square().mean()}

    batch = {"x": torch.zeros(64, 8), "ends": torch.tensor([64], dtype=torch.int32)}
    made = [one.bytes for one in trace(Grouped(), batch, "bf16").allocations if "grouped" in one.op]
    assert made[0] == 64 * 16 * 2


class Lazy(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.LazyLinear(8))


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return nn.Sequential(torch.jit.script(nn.Linear(8, 8)))


def compiled_in_place() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 8))
    model[0].compile()
    return model


@pytest.fixture
def one_process() -> Iterator[None]:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            Lazy,
            r"module '0' \(LazyLinear\) cannot be traced: its parameter weight has no shape before .*: call",
        ),
        (
            scripted,
            r"module '0' \(RecursiveScriptModule\) .*: it is TorchScript.*: trace the original module",
        ),
        (lambda: torch.compile(nn.Linear(8, 8)), r"the model \(OptimizedModule\) .*: trace model\._orig_mod"),
        (
            compiled_in_place,
            r"module '0' \(Linear\) cannot be traced: model\.0\.compile\(\) was called",
        ),
        (
            lambda: nn.Sequential(nn.Embedding(9, 8, sparse=True)),
            r"module '0' \(Embedding\) .*: set model\.0\.sp",
        ),
        (lambda: nn.Sequential(nn.EmbeddingBag(9, 8, sparse=True)), r"module '0' \(EmbeddingBag\) .*sparse=False"),
        (lambda: nn.DataParallel(nn.Linear(8, 8)), r"the model \(DataParallel\) .*: trace model\.module"),
    ],
)
def test_what_cannot_be_traced_is_refused_by_its_name(make, words):
    with pytest.raises(TraceError, match=words):
        trace(make(), BATCH)
    assert nn.Linear(2, 2)(torch.ones(1, 2)).requires_grad


def test_a_model_divided_over_processes_is_refused(one_process):
    model = nn.parallel.DistributedDataParallel(nn.Linear(8, 8))
    with pytest.raises(TraceError, match=r"the model \(DistributedDataParallel\) .*: trace model\.module"):
        trace(model, BATCH)
    assert trace(model.module, BATCH) == trace(nn.Linear(8, 8), BATCH)


def test_a_sparse_gradient_of_a_function_is_refused():
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(9, 8))

        def forward(self, x: Tensor) -> Tensor:
            return F.embedding(x, self.weight, sparse=True)

    words = zeros = torch.zeros(2, 3, dtype=torch.long)
    with pytest.raises(TraceError, match=r"cannot be traced: its result is sparse.*: use sparse=False"):
        trace(nn.Sequential(Own()), (words, zeros))


def test_transformers_causal_mask_is_skipped_as_in_real_steps(monkeypatch):
    """Stands for transformers: it takes fake tensors for tracing, and has a mask of all scores made."""
    asked, masks = types.ModuleType("transformers.utils.import_utils"), types.ModuleType("transformers.masking_utils")
    asked.is_fake_tensor = lambda x: isinstance(x, torch._subclasses.FakeTensor)  # type: ignore[attr-defined]

    def find_packed_sequence_indices(position_ids: Tensor) -> Tensor | None:
        packed = (position_ids.diff(prepend=position_ids[:, :1] - 1, dim=-1) != 1).cumsum(-1)
        return packed if asked.is_fake_tensor(packed) or not bool((packed[:, -1] == 0).all()) else None

    masks.find_packed_sequence_indices = find_packed_sequence_indices  # type: ignore[attr-defined]
    for module in (asked, masks):
        monkeypatch.setitem(sys.modules, module.__name__, module)

    class Model(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            packed = masks.find_packed_sequence_indices(torch.arange(x.shape[1])[None])
            mask = None if packed is None else packed[:, :, None] == packed[:, None, :]
            q = super().forward(x)[:, None]
            return F.scaled_dot_product_attention(q, q, q, mask, is_causal=mask is None)

    batch = torch.zeros(2, 64, 8), torch.zeros(2, 1, 64, dtype=torch.long)
    found = trace(Model(8, 8), batch, as_on="cpu")
    (step,) = real_steps(lambda: Model(8, 8), batch, Recipe.parse("fp32"), device=CPU)
    assert found.after == step.after
    assert masks.find_packed_sequence_indices is find_packed_sequence_indices
