"""torch.autocast, checkpoints and custom functions of model code under `mixlab.autocast` on a CPU."""

from __future__ import annotations

import subprocess
import sys
import threading
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mixlab import arithmetic, autocast
from mixlab.emulation.model_contexts import _Nodes

X, W = torch.randn(4, 4), torch.randn(4, 4, requires_grad=True)
HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def state() -> tuple[object, ...]:
    """Everything that autocast keeps for this thread."""
    devices = [(torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in ("cpu", "cuda")]
    include, exclude = torch._C._dispatch_tls_local_include_set(), torch._C._dispatch_tls_local_exclude_set()
    return *devices, torch.is_autocast_cache_enabled(), str(include), str(exclude)


@pytest.mark.parametrize("compute", HALVES)
def test_questions_are_answered_as_on_cuda_and_put_back(compute):
    before = state()
    with autocast("cpu", compute):
        assert torch.is_autocast_enabled("cuda")
        assert torch.is_autocast_enabled("cpu")
        assert torch.get_autocast_dtype("cuda") is torch.get_autocast_dtype("cpu") is HALVES[compute]
    assert state() == before
    with pytest.raises(KeyError), autocast("cpu", compute), torch.autocast("cuda", enabled=False):
        raise KeyError
    assert state() == before


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_inner_autocast_changes_what_is_emulated(device):
    with autocast("cpu", "fp16"):
        with torch.autocast(device, enabled=False):
            assert (X @ W).dtype is torch.float32
            assert X.half().square().dtype is torch.float16
            assert not torch.is_autocast_enabled("cuda")
            with torch.autocast(device, dtype=torch.bfloat16):
                assert (X @ W.detach()).dtype is torch.bfloat16
                assert F.avg_pool2d(X[None].bfloat16(), 2).softmax(-1).dtype is torch.float32
        with torch.autocast(device, dtype=torch.float32):
            assert (X.half() @ W).dtype is torch.float32
        assert (X @ W).dtype is torch.float16


@torch.autocast("cuda", enabled=False)
def in_float32(x: Tensor) -> Tensor:
    return x @ x


def test_a_decorator_from_before_switches_it_off_too():
    with autocast("cpu", "fp16"):
        assert in_float32(X).dtype is torch.float32
        assert (X @ X).dtype is torch.float16


def test_the_old_context_of_torch_cuda_amp():
    with warnings.catch_warnings(), autocast("cpu", "fp16"):
        warnings.simplefilter("ignore", FutureWarning)
        with torch.cuda.amp.autocast(dtype=torch.bfloat16):
            assert (X @ X).dtype is torch.bfloat16
        with torch.cuda.amp.autocast(enabled=False):
            assert (X @ X).dtype is torch.float32


class Product(torch.autograd.Function):
    """A custom function as model code for CUDA writes it; notes how its backward computes."""

    seen: list[torch.dtype] = []  # noqa: RUF012

    @staticmethod
    @torch.amp.custom_fwd(device_type="cuda")
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x @ w

    @staticmethod
    @torch.amp.custom_bwd(device_type="cuda")
    def backward(ctx, upstream):
        x, w = ctx.saved_tensors
        product = upstream @ w.T
        Product.seen.append(product.dtype)
        return product.to(x.dtype), (x.T @ upstream).to(w.dtype)


class InFloat32(torch.autograd.Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cuda", cast_inputs=torch.float32)
    def forward(ctx, x):
        Product.seen.append((x @ x).dtype)
        return 2 * x

    @staticmethod
    @torch.amp.custom_bwd(device_type="cuda")
    def backward(ctx, upstream):
        return 2 * upstream


def test_custom_functions_for_cuda_compute_as_there():
    Product.seen.clear()
    x = X.clone().requires_grad_()
    with autocast("cpu", "fp16"):
        y = Product.apply(x, W)
        z = InFloat32.apply(y)
    z.sum().backward()
    assert (y.dtype, z.dtype) == (torch.float16, torch.float32)
    assert Product.seen == [torch.float32, torch.float16]


def attend(x: Tensor, w: Tensor) -> Tensor:
    return (x @ w).softmax(-1).square() @ w  # softmax in float32, which a CPU's own autocast computes in 16 bits


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.one, self.two = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(F.gelu(self.one(self.norm(x)))) * x.float().exp().mean()


@pytest.mark.parametrize("inside", [False, True], ids=["after", "inside"])
@pytest.mark.parametrize("reentrant", [False, True], ids=["without reentry", "reentrant"])
@pytest.mark.parametrize("compute", HALVES)
def test_checkpoints_compute_again_by_the_same_rules(compute, reentrant, inside):
    """With the caller's own `loss.backward()`, inside the context or after it."""
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        block, w, x = Block(), torch.randn(8, 8, requires_grad=True), torch.randn(4, 8, requires_grad=True)

        def part(x: Tensor, block: nn.Module = block, w: Tensor = w) -> Tensor:
            return block(attend(x, w))

        with arithmetic("cpu"):
            with autocast("cpu", compute):
                y = checkpoint(part, x, use_reentrant=reentrant) if recompute else part(x)
                loss = y.float().square().mean()
                if inside:
                    loss.backward()
            if not inside:
                loss.backward()
        gradients.append([t.grad for t in (x, w, *block.parameters())])
    for whole, again in zip(*gradients, strict=True):
        assert torch.equal(whole, again)


@pytest.mark.parametrize("reentrant", [False, True], ids=["without reentry", "reentrant"])
def test_a_checkpoint_under_torchs_own_autocast_stays_torchs(reentrant):
    """Also after emulation, which numbers nodes of autograd's graph, and with both graphs alive."""
    w, x = torch.randn(8, 8, requires_grad=True), torch.randn(4, 8, requires_grad=True)
    seen: list[torch.dtype] = []

    def part(x: Tensor) -> Tensor:
        seen.append(F.avg_pool3d((x @ w)[None, None, None], 1).softmax(-1).dtype)
        return attend(x, w)

    with autocast("cpu", "bf16"):
        ours = checkpoint(part, x, use_reentrant=reentrant).float().mean()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        native = checkpoint(part, x, use_reentrant=reentrant).float().mean()
        seen.append(torch.ones(2, dtype=torch.bfloat16).square().dtype)
    native.backward()
    ours.backward()
    assert seen == [torch.float32, torch.float32, torch.bfloat16, torch.float32, torch.float32]


def test_torchs_own_autocast_is_bit_for_bit_what_it_was():
    """Beside a fresh Python that has never emulated anything; its warnings come from the caller's line."""
    program = """
import hashlib, torch, torch.nn.functional as F, warnings
torch.manual_seed(0)
def digest():
    x = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    w = torch.randn(8, 8, generator=torch.Generator().manual_seed(1), requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = F.avg_pool3d((x @ w).square().softmax(-1)[None, None, None], 1).flatten()
        parts = [y, F.mse_loss(x @ w, x), torch.stack([x.bfloat16(), x]), (x @ w).exp()]
    sum(part.float().sum() for part in parts).backward()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.autocast("cuda")
    where = [(str(one.message), one.filename, one.lineno) for one in seen]
    values = [(p.dtype, hashlib.sha256(p.detach().float().numpy().tobytes()).hexdigest()) for p in (*parts, w.grad)]
    return values, where
before = digest()
from mixlab import autocast
with autocast("cpu", "fp16"):
    torch.ones(2).exp()
assert digest() == before, (before, digest())
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_other_threads_are_left_alone():
    """A thread that emulates, one with torch's own autocast and one with none, at once, a hundred times."""
    start, wrong = threading.Barrier(3), []
    wanted: list[tuple[Callable[[], object], torch.dtype]] = [
        (lambda: autocast("cpu", "fp16"), torch.float32),
        (lambda: torch.autocast("cpu", dtype=torch.bfloat16), torch.bfloat16),
        (lambda: torch.autocast("cpu", enabled=False), torch.float16),
    ]

    def run(context: Callable[[], object], dtype: torch.dtype) -> None:
        start.wait()
        for _ in range(100):
            with context():
                x = X.bfloat16() if dtype is torch.bfloat16 else X.half()
                if x.square().dtype is not dtype:
                    wrong.append(dtype)

    threads = [threading.Thread(target=run, args=one) for one in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_casts_of_weights_are_of_one_thread():
    """Another thread that leaves autocast clears torch's cache, but not this one: a tied weight keeps one cast."""
    weight = torch.randn(4, 4, requires_grad=True)

    def other() -> None:
        with autocast("cpu", "fp16"):
            X @ W

    with autocast("cpu", "fp16"):
        first = X @ weight
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        second = X @ weight
        third = torch.mv(weight, X[0])
        torch.clear_autocast_cache()
        fourth = X @ weight
    casts = [one.grad_fn.next_functions[place][0] for one, place in ((first, 1), (second, 1), (third, 0), (fourth, 1))]
    assert casts[0] is casts[1] is casts[2]
    assert casts[3] is not casts[0]


def test_a_cast_without_gradient_is_made_again_where_one_is_needed():
    weight = torch.randn(4, 4, requires_grad=True)
    with autocast("cpu", "bf16"):
        with torch.no_grad():
            X @ weight
        (X @ weight).float().sum().backward()
    assert weight.grad is not None


def test_compiled_models_and_function_transforms_follow():
    layer = nn.Linear(4, 4)

    def function(x: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast("cuda", enabled=False):
            outside = layer(x)
        return layer(x), layer(x).square(), outside, x.half().square()

    compiled = torch.compile(function, backend="aot_eager")
    with autocast("cpu", "fp16"):
        eager = function(X)
        assert [one.dtype for one in eager] == [torch.float16, torch.float32, torch.float32, torch.float32]
        assert all(map(torch.equal, compiled(X), eager))
        assert torch.vmap(lambda row: (row @ W.detach()).exp())(X).dtype is torch.float32
        assert torch.func.grad(lambda x: (x @ W.detach()).softmax(-1).sum())(X).dtype is torch.float32
    assert [one.dtype for one in compiled(X)] == [torch.float32] * 3 + [torch.float16]


def test_softmax_inside_multi_head_attention_is_in_float32():
    attention, x = nn.MultiheadAttention(8, 2, batch_first=True), torch.randn(2, 5, 8)
    with arithmetic("cpu"), autocast("cpu", "fp16"):
        out, weights = attention(x, x, x, need_weights=True)
    assert (out.dtype, weights.dtype) == (torch.float16, torch.float32)


def test_what_the_lists_missed():
    """An RMSNorm of 400s is 1, gumbel_softmax is float32, and what writes in place or to `out=` writes or raises."""
    x = torch.full((4,), 400.0).half()
    with autocast("cpu", "fp16"):
        assert torch.equal(x * torch.rsqrt(x.square().mean()), torch.ones(4))
        assert F.gumbel_softmax(X.half()).dtype is torch.float32
        assert [y.dtype for y in (1 / x, 2**x, x**2, x.__rpow__(2))] == [torch.float32] * 4
        with pytest.raises(RuntimeError, match="source and destination dtypes match"):
            x.index_put_((torch.tensor([0]),), torch.ones(1))
        out = torch.zeros(4, dtype=torch.bfloat16)
        assert torch.exp(torch.ones(4).half(), out=out) is out
        assert torch.equal(out, torch.full((4,), 2.7183).bfloat16())
        assert torch.ones(4).half().exp_().dtype is torch.float16


@pytest.mark.parametrize("compute", HALVES)
@pytest.mark.parametrize("pool", [F.avg_pool3d, F.max_pool3d, lambda x, n: F.adaptive_avg_pool3d(x, 2)])
def test_pooling_in_three_dimensions_stays_in_16_bits(pool, compute):
    image = torch.randn(1, 2, 4, 4, 4).to(HALVES[compute]).requires_grad_()
    with autocast("cpu", compute):
        pooled = pool(image, 2)
    assert pooled.dtype is HALVES[compute]
    assert torch.equal(pooled, pool(image.float(), 2).to(pooled.dtype))
    pooled.sum().backward()
    assert image.grad.dtype is image.dtype


def test_nodes_are_remembered_by_their_numbers():
    nodes = _Nodes()
    for first, end in ((3, 5), (5, 8), (9, 9), (10, 12)):
        nodes.note(first, end)
    assert [number for number in range(14) if number in nodes] == [3, 4, 5, 6, 7, 10, 11]
    for first in range(20, 20 + 4 * nodes.LIMIT, 4):
        nodes.note(first, first + 2)
    assert len(nodes.spans) <= nodes.LIMIT
    assert first in nodes
    assert 21 not in nodes
