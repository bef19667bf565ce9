"""CUDA's autocast itself, asked without a GPU: its kernels are in every build of torch, and run on fake CUDA tensors.

They say which dtype each op returns; the emulation on real CPU tensors must say the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mixlab import TASKS, autocast, load_task
from mixlab.emulation.lists import BANNED_OPS, RECURRENT_OPS, RULES
from mixlab.formats import BF16, FP16
from tests.reference.cuda_autocast import cuda_autocast

Tensors = Callable[..., Tensor]


HEADER = Path(torch.__file__).parent / "include/ATen/autocast_mode.h"
MACROS = {
    "compute": "AT_FORALL_LOWER_PRECISION_FP",
    "float32": "AT_FORALL_FP32",
    "float32 result": "AT_FORALL_FP32_SET_OPT_DTYPE",
    "float32 overload": "AT_FORALL_DIFFERENT_REDISPATCH_SIGNATURE",
    "widest": "AT_FORALL_PROMOTE",
}


def listed(macro: str) -> set[str]:
    """Reads the ops of one of CUDA's lists from the header that torch ships."""
    block = re.search(rf"#define {macro}\(_\)((?:.*\\\n)*.*)", HEADER.read_text())[1]
    if macro == MACROS["float32 overload"]:
        return set(re.findall(r'"([\w.]+)"', block))
    return {f"{op}.{overload}" if overload else op for op, overload in re.findall(r"_\((\w+)(?:, (\w+))?\)", block)}


def registered(key: str) -> set[str]:
    return {name.removeprefix("aten::") for name in torch._C._dispatch_get_registrations_for_dispatch_key(key)}


@pytest.mark.parametrize("rule", MACROS)
def test_the_lists_are_those_of_torchs_header(rule):
    header = listed(MACROS[rule])
    assert len(header) > 1
    assert header == (RULES[rule] - RECURRENT_OPS) & registered("AutocastCUDA")


def test_nothing_else_is_cast_on_cuda():
    """But for cuDNN's own convolutions, which a CPU does not have."""
    in_header = set().union(*map(listed, MACROS.values()))
    rest = {name for name in registered("AutocastCUDA") - in_header if not name.startswith(("cudnn_", "_cudnn_"))}
    assert rest == BANNED_OPS


def outcome(run: Callable[[Tensors], object], kinds: tuple[torch.dtype, ...], device: str) -> str:
    """Returns the dtype of what `run` returns, or "error"; its n-th tensor has the n-th dtype of `kinds`, in turn."""
    made = 0

    def tensor(*shape: int) -> Tensor:
        nonlocal made
        made += 1
        return (torch.rand(shape, device=device) + 0.5).to(kinds[(made - 1) % len(kinds)])

    try:
        result = run(tensor)
    except (RuntimeError, TypeError, ValueError):
        return "error"
    result = result[0] if isinstance(result, tuple) else result
    return str(result.dtype)


def index_like(x: Tensor, *shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.long, device=x.device)


OPS: dict[str, Callable[[Tensors], object]] = {
    # on the list of 16-bit ops
    "linear": lambda t: F.linear(t(4, 8), t(3, 8), t(3)),
    "matmul": lambda t: t(4, 8) @ t(8, 3),
    "mm": lambda t: torch.mm(t(4, 8), t(8, 3)),
    "mv": lambda t: torch.mv(t(4, 8), t(8)),
    "bmm": lambda t: torch.bmm(t(2, 4, 8), t(2, 8, 3)),
    "baddbmm": lambda t: torch.baddbmm(t(2, 4, 3), t(2, 4, 8), t(2, 8, 3)),
    "addmm": lambda t: torch.addmm(t(4, 3), t(4, 8), t(8, 3)),
    "addmv": lambda t: torch.addmv(t(4), t(4, 8), t(8)),
    "addr": lambda t: torch.addr(t(4, 3), t(4), t(3)),
    "addbmm": lambda t: torch.addbmm(t(4, 3), t(2, 4, 8), t(2, 8, 3)),
    "chain_matmul": lambda t: torch.linalg.multi_dot([t(4, 8), t(8, 3), t(3, 2)]),
    "einsum": lambda t: torch.einsum("bij,bjk->bik", t(2, 4, 8), t(2, 8, 3)),
    "conv1d": lambda t: F.conv1d(t(2, 3, 8), t(4, 3, 3)),
    "conv2d": lambda t: F.conv2d(t(2, 3, 8, 8), t(4, 3, 3, 3), t(4)),
    "conv3d": lambda t: F.conv3d(t(2, 3, 4, 4, 4), t(4, 3, 3, 3, 3)),
    "conv_transpose2d": lambda t: F.conv_transpose2d(t(2, 3, 8, 8), t(3, 4, 3, 3)),
    "prelu": lambda t: F.prelu(t(4, 8), t(8)),
    "attention": lambda t: F.scaled_dot_product_attention(t(2, 2, 4, 8), t(2, 2, 4, 8), t(2, 2, 4, 8)),
    "causal attention": lambda t: F.scaled_dot_product_attention(
        t(2, 2, 4, 8), t(2, 2, 4, 8), t(2, 2, 4, 8), is_causal=True
    ),
    # on the list of float32 ops
    "softmax": lambda t: torch.softmax(t(4, 8), -1),
    "F.softmax": lambda t: F.softmax(t(4, 8), -1),
    "log_softmax": lambda t: F.log_softmax(t(4, 8), -1),
    "softmin": lambda t: F.softmin(t(4, 8), -1),
    "logsumexp": lambda t: torch.logsumexp(t(4, 8), -1),
    "layer_norm": lambda t: F.layer_norm(t(4, 8), (8,), t(8), t(8)),
    "group_norm": lambda t: F.group_norm(t(4, 8), 2, t(8), t(8)),
    "exp": lambda t: t(4).exp(),
    "expm1": lambda t: torch.expm1(t(4)),
    "log": lambda t: t(4).log(),
    "log2": lambda t: torch.log2(t(4)),
    "log1p": lambda t: torch.log1p(t(4)),
    "log10": lambda t: torch.log10(t(4)),
    "pow": lambda t: t(4).pow(2.5),
    "power operator": lambda t: t(4) ** 3,
    "power of two": lambda t: 2 ** t(4),
    "rsqrt": lambda t: t(4).rsqrt(),
    "reciprocal": lambda t: t(4).reciprocal(),
    "sinh": lambda t: t(4).sinh(),
    "cosh": lambda t: t(4).cosh(),
    "tan": lambda t: t(4).tan(),
    "acos": lambda t: t(4).acos(),
    "asin": lambda t: t(4).asin(),
    "erfinv": lambda t: t(4).erfinv(),
    "softplus": lambda t: F.softplus(t(4)),
    "sum": lambda t: t(4, 8).sum(),
    "sum of a dimension": lambda t: torch.sum(t(4, 8), 1),
    "prod": lambda t: t(4, 8).prod(),
    "cumsum": lambda t: t(4, 8).cumsum(0),
    "cumprod": lambda t: t(4, 8).cumprod(0),
    "norm": lambda t: t(4, 8).norm(),
    "vector_norm": lambda t: torch.linalg.vector_norm(t(4, 8)),
    "matrix_norm": lambda t: torch.linalg.matrix_norm(t(4, 8)),
    "normalize": lambda t: F.normalize(t(4, 8)),
    "dist": lambda t: torch.dist(t(4), t(4)),
    "cdist": lambda t: torch.cdist(t(4, 8), t(3, 8)),
    "pdist": lambda t: F.pdist(t(4, 8)),
    "renorm": lambda t: torch.renorm(t(4, 8), 2, 0, 1.0),
    "cosine_similarity": lambda t: F.cosine_similarity(t(4, 8), t(4, 8)),
    "cross_entropy": lambda t: F.cross_entropy(x := t(4, 8), index_like(x, 4)),
    "nll_loss": lambda t: F.nll_loss(x := t(4, 8), index_like(x, 4)),
    "mse_loss": lambda t: F.mse_loss(t(4), t(4)),
    "l1_loss": lambda t: F.l1_loss(t(4), t(4)),
    "smooth_l1_loss": lambda t: F.smooth_l1_loss(t(4), t(4)),
    "huber_loss": lambda t: F.huber_loss(t(4), t(4)),
    "kl_div": lambda t: F.kl_div(t(4, 8), t(4, 8), reduction="batchmean"),
    "soft_margin_loss": lambda t: F.soft_margin_loss(t(4), t(4)),
    "poisson_nll_loss": lambda t: F.poisson_nll_loss(t(4), t(4)),
    "hinge_embedding_loss": lambda t: F.hinge_embedding_loss(t(4), t(4)),
    "margin_ranking_loss": lambda t: F.margin_ranking_loss(t(4), t(4), t(4)),
    "triplet_margin_loss": lambda t: F.triplet_margin_loss(t(4, 8), t(4, 8), t(4, 8)),
    "cosine_embedding_loss": lambda t: F.cosine_embedding_loss(t(4, 8), t(4, 8), t(4)),
    "bce with logits": lambda t: F.binary_cross_entropy_with_logits(t(4), t(4)),
    "binary_cross_entropy": lambda t: F.binary_cross_entropy(t(4) / 2, t(4) / 2),
    "interpolate": lambda t: F.interpolate(t(2, 3, 8, 8), scale_factor=2),
    "interpolate bilinear": lambda t: F.interpolate(t(2, 3, 8, 8), scale_factor=2, mode="bilinear"),
    # on the list of ops that take the widest of their inputs
    "addcdiv": lambda t: torch.addcdiv(t(4), t(4), t(4)),
    "addcmul": lambda t: torch.addcmul(t(4), t(4), t(4)),
    "atan2": lambda t: torch.atan2(t(4), t(4)),
    "bilinear": lambda t: F.bilinear(t(4, 3), t(4, 5), t(2, 3, 5)),
    "cross": lambda t: torch.cross(t(4, 3), t(4, 3), dim=1),
    "dot": lambda t: torch.dot(t(4), t(4)),
    "vdot": lambda t: torch.vdot(t(4), t(4)),
    "index_put": lambda t: torch.index_put(x := t(4), (index_like(x, 2),), t(2)),
    "scatter_add": lambda t: torch.scatter_add(x := t(4), 0, index_like(x, 4), t(4)),
    "tensordot": lambda t: torch.tensordot(t(4, 8), t(8, 3), dims=1),
    # on no list
    "add": lambda t: t(4) + t(4),
    "multiply": lambda t: t(4) * t(4),
    "divide": lambda t: t(4) / t(4),
    "where": lambda t: torch.where((x := t(4)) > 0, x, t(4)),
    "cat": lambda t: torch.cat([t(4), t(4)]),
    "stack": lambda t: torch.stack([t(4), t(4)]),
    "gelu": lambda t: F.gelu(t(4)),
    "silu": lambda t: F.silu(t(4)),
    "relu": lambda t: F.relu(t(4)),
    "leaky_relu": lambda t: F.leaky_relu(t(4)),
    "tanh": lambda t: t(4).tanh(),
    "sigmoid": lambda t: t(4).sigmoid(),
    "sqrt": lambda t: t(4).sqrt(),
    "abs": lambda t: t(4).abs(),
    "clamp": lambda t: t(4).clamp(0, 1),
    "mean": lambda t: t(4, 8).mean(),
    "var": lambda t: t(4, 8).var(),
    "std": lambda t: t(4, 8).std(),
    "max": lambda t: t(4, 8).max(),
    "embedding": lambda t: F.embedding(index_like(x := t(5, 8), 4), x),
    "dropout": lambda t: F.dropout(t(4), 0.5, training=True),
    "max_pool2d": lambda t: F.max_pool2d(t(2, 3, 8, 8), 2),
    "avg_pool2d": lambda t: F.avg_pool2d(t(2, 3, 8, 8), 2),
    "adaptive_avg_pool2d": lambda t: F.adaptive_avg_pool2d(t(2, 3, 8, 8), 1),
    "batch_norm": lambda t: F.batch_norm(t(4, 3), None, None, training=True),
    "rms_norm": lambda t: F.rms_norm(t(4, 8), (8,), t(8)),
    "masked_fill": lambda t: (x := t(4)).masked_fill(x > 1, 0.0),
    "gather": lambda t: torch.gather(x := t(4), 0, index_like(x, 2)),
    "outer": lambda t: torch.outer(t(4), t(3)),
}
KINDS = {
    "all fp32": lambda half: (torch.float32,),
    "all 16-bit": lambda half: (half,),
    "16-bit then fp32": lambda half: (half, torch.float32),
    "fp32 then 16-bit": lambda half: (torch.float32, half),
}


@pytest.mark.parametrize("fmt", [FP16, BF16], ids=str)
@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("op", OPS)
def test_every_op_returns_the_dtype_that_cuda_returns(op, kinds, fmt):
    dtypes = KINDS[kinds](fmt.dtype)
    with FakeTensorMode(), cuda_autocast(fmt.dtype):
        on_cuda = outcome(OPS[op], dtypes, "cuda")
    with autocast("cpu", fmt):
        emulated = outcome(OPS[op], dtypes, "cpu")
    assert emulated == on_cuda


class OpsThatRun(TorchDispatchMode):
    """Notes the ops of floating tensors that are no views, with the dtypes that come in."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, ...]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        dtypes = [str(a.dtype) for a in args if isinstance(a, Tensor) and a.is_floating_point()]
        if dtypes and not func.is_view and func.namespace == "aten":
            self.seen.append((func.overloadpacket.__name__.rstrip("_"), *dtypes))
        return func(*args, **(kwargs or {}))


LOSSES: dict[str, tuple[bool, dict[str, object]]] = {  # targets are probabilities, and arguments
    "classes": (False, {}),
    "classes, sum": (False, {"reduction": "sum"}),
    "classes, none, ignored": (False, {"reduction": "none", "ignore_index": 0}),
    "classes, weights": (False, {"weight": True}),
    "classes, smoothed": (False, {"label_smoothing": 0.1}),
    "classes, smoothed, weights, ignored": (False, {"label_smoothing": 0.1, "weight": True, "ignore_index": 1}),
    "probabilities": (True, {}),
    "probabilities, sum, weights": (True, {"reduction": "sum", "weight": True}),
    "probabilities, none, smoothed": (True, {"reduction": "none", "label_smoothing": 0.2}),
}


def cross_entropy(name: str, logits: Tensor) -> Tensor:
    probabilities, arguments = LOSSES[name]
    rows, device = logits.shape[0], logits.device
    target = torch.zeros(rows, dtype=torch.long, device=device)
    if probabilities:
        target = torch.full(logits.shape, 0.2, device=device)
    weight = torch.ones(logits.shape[1], device=device) if "weight" in arguments else None
    return F.cross_entropy(logits, target, **{**arguments, "weight": weight})


@pytest.mark.parametrize("fmt", [FP16, BF16], ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_cross_entropy_is_made_of_the_ops_that_cuda_runs(name, fmt):
    with FakeTensorMode(), cuda_autocast(fmt.dtype):
        logits = torch.empty(8, 5, device="cuda", dtype=fmt.dtype)
        with OpsThatRun() as on_cuda:
            cross_entropy(name, logits)
    logits = torch.randn(8, 5).to(fmt.dtype)
    with autocast("cpu", fmt), OpsThatRun() as emulated:
        cross_entropy(name, logits)
    for op in ("_log_softmax", "nll_loss_forward", "mul"):
        tensors = 2 if op == "mul" else 1
        ours, theirs = ([one for one in ops.seen if one[0] == op and len(one) > tensors] for ops in (emulated, on_cuda))
        assert ours == theirs
    # Sums have fp32 operands here, where CUDA's read 16 bits and add in fp32.
    sums = [sum(op == "sum" for op, *_ in ops.seen) for ops in (emulated, on_cuda)]
    assert sums[0] == sums[1]
    assert ("_log_softmax", str(fmt.dtype)) in on_cuda.seen


def test_the_oracle_tells_formats_apart():
    with FakeTensorMode(), cuda_autocast(torch.bfloat16):
        seen = {op: outcome(OPS[op], (torch.float32,), "cuda") for op in ("linear", "softmax", "gelu")}
        seen["binary_cross_entropy"] = outcome(OPS["binary_cross_entropy"], (torch.float32,), "cuda")
    assert seen == {
        "linear": "torch.bfloat16",
        "softmax": "torch.float32",
        "gelu": "torch.float32",
        "binary_cross_entropy": "error",
    }


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    **{
        name: (lambda name=name: load_task(name).seeded_model(0), lambda name=name: load_task(name).batch(0, 0)[0])
        for name in TASKS
    },
    "cnn with norms": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4, track_running_stats=False),
            nn.SiLU(),
            nn.GroupNorm(2, 4),
            nn.AvgPool2d(2),
        ),
        lambda: torch.randn(2, 1, 8, 8),
    ),
}


@pytest.mark.parametrize("fmt", [FP16, BF16], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_every_layer_of_a_model_returns_the_dtype_that_cuda_returns(name, fmt):
    make, batch = MODELS[name]

    def layer_dtypes(model: nn.Module, inputs: Tensor) -> list[tuple[str, torch.dtype]]:
        seen: list[tuple[str, torch.dtype]] = []
        for layer, module in model.named_modules():

            def note(_m: nn.Module, _i: object, out: object, layer: str = layer) -> None:
                out = out[0] if isinstance(out, tuple) else out
                seen.append((layer, out.dtype))

            module.register_forward_hook(note)
        model(inputs)
        return seen

    with autocast("cpu", fmt):
        emulated = layer_dtypes(make(), batch())
    inputs = batch()
    model = make()
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake = _fake_on_cuda(model)
        like = torch.empty(inputs.shape, dtype=inputs.dtype, device="cuda")
        with cuda_autocast(fmt.dtype):
            on_cuda = layer_dtypes(fake, like)
    assert emulated == on_cuda
    assert fmt.dtype in {dtype for _, dtype in emulated}


def _fake_on_cuda(model: nn.Module) -> nn.Module:
    """Replaces parameters and buffers by fake ones that say they are on a GPU; autocast's cache cannot hold such."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            fake = torch.empty(parameter.shape, dtype=parameter.dtype, device="cuda")
            setattr(module, name, nn.Parameter(fake, requires_grad=False))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda"))
    return model
