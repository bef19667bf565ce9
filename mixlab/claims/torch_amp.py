"""Claims about PyTorch's autocast and GradScaler, tried with torch itself."""

from __future__ import annotations

import math

import torch
from torch import nn

from mixlab.claims.sources import TORCH
from mixlab.claims.speed import PRODUCTS, transformer_ops
from mixlab.claims.verdicts import Claim, Finding, Verdict
from mixlab.emulation import CastTrace, autocast, cast_trace
from mixlab.formats import dtype_name
from mixlab.optimizers import SGD, Storage
from mixlab.training import load_task

_IMPLEMENTATION, _FLOW = "PyTorch AMP implementation", "What is happening under the hood?"


def _gpt_trace() -> CastTrace:
    task = load_task("chars-gpt")
    return cast_trace(task.seeded_model(0), task.batch(0, 0))


def _deprecated() -> list[str]:
    """Returns the names of torch.cuda.amp that torch has marked as deprecated."""
    kinds = (torch.cuda.amp.autocast, torch.cuda.amp.GradScaler)
    makers = {kind: (kind.__new__, kind.__init__) for kind in kinds}
    marked = [kind for kind, both in makers.items() if any(hasattr(maker, "__deprecated__") for maker in both)]
    return [f"torch.cuda.amp.{kind.__name__}" for kind in marked]


def _old_names() -> Finding:
    deprecated = _deprecated()
    shown = f"torch {torch.__version__} marks as deprecated: {', '.join(deprecated) or 'nothing'}."
    return Finding.of(
        (name not in deprecated for name in ("torch.cuda.amp.autocast", "torch.cuda.amp.GradScaler")), shown
    )


def _code_runs() -> Finding:
    """The loop of the text, with the device as a parameter, on the CPU."""
    task = load_task("digits-mlp")
    model = task.seeded_model(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cpu")
    losses = []
    for step in range(60):
        inputs, targets = task.batch(0, step)
        optimizer.zero_grad()
        with torch.amp.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(model(inputs), targets)
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    deprecated = _deprecated()
    shown = (
        f"With torch.amp on a CPU the loop learns: loss {losses[0]:.2f} to {losses[-1]:.2f} in {len(losses)} "
        "steps. As printed it "
        f"warns of {len(deprecated)} names and needs CUDA."
    )
    return Finding.of([losses[-1] < 0.8 * losses[0], not deprecated], shown)


def _default_dtype() -> Finding:
    defaults = {device: torch.get_autocast_dtype(device) for device in ("cuda", "cpu")}
    shown = ", ".join(f"{device} {str(dtype).removeprefix('torch.')}" for device, dtype in defaults.items())
    return Finding.of(
        (dtype == torch.float16 for dtype in defaults.values()), f"The default dtype of autocast is: {shown}."
    )


def _safe_casts() -> Finding:
    """Products are cast, exponentials and norms are not; a product can overflow all the same."""
    with autocast("cpu", "fp16"):
        long_sum = nn.functional.linear(torch.full((1, 4096), 8.0), torch.full((1, 4096), 8.0))
    computed = {op.op: op.computed for op in _gpt_trace()}
    cases = [
        computed["linear"] == "fp16" and computed["layer_norm"] == "fp32",
        math.isfinite(float(long_sum)),
    ]
    shown = (
        f"linear computes in {computed['linear']}, layer_norm in {computed['layer_norm']}; 4096 products "
        f"of 8 * 8 sum to {float(long_sum):g}."
    )
    return Finding.of(cases, shown)


def _bulk() -> Finding:
    """Counts FLOPs of a GPT-2 layer, and looks in which format autocast computes the products of a small GPT."""
    products = [op for op in _gpt_trace() if op.op in ("linear", "scaled_dot_product_attention")]
    half = [op for op in products if op.computed == "fp16"]
    flops = transformer_ops()
    share = sum(flops[name][0] for name in PRODUCTS) / sum(work for work, _ in flops.values())
    shown = (
        f"{share:.0%} of the FLOPs of a GPT-2 layer are in products; autocast computes {len(half)} of "
        f"{len(products)} in fp16."
    )
    return Finding.of([len(half) == len(products) > 0 and share > 0.9], shown)


def _temporary_copy() -> Finding:
    model = nn.Linear(64, 64)
    stored = {p.dtype for p in model.parameters()}
    trace = cast_trace(model, torch.randn(8, 64, generator=torch.Generator().manual_seed(0)))
    after = {p.dtype for p in model.parameters()}
    cases = [
        stored == after == {torch.float32},
        len(trace.weight_casts) == 2,
        {one.times for one in trace.weight_casts} == {1},
    ]
    shown = (
        f"Stored before and after: float32; copies made in forward: {len(trace.weight_casts)}, "
        f"{trace.cache_bytes:,} bytes."
    )
    return Finding.of([all(cases)], shown)


def _gradient_formats() -> Finding:
    """Looks whether weight gradients are numbers of fp16: of an op that computes in fp16, and of one in fp32."""
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(16, 16, bias=False)
    model = nn.Sequential(linear, nn.LayerNorm(16))
    with torch.no_grad():
        linear.weight.copy_(torch.randn(16, 16, generator=generator))
    with autocast("cpu", "fp16"):
        loss = (model(torch.randn(8, 16, generator=generator)).float() * torch.randn(8, 16, generator=generator)).sum()
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if name.endswith("weight")}
    fits = {name: torch.equal(one, one.half().float()) for name, one in gradients.items() if one is not None}
    shown = (
        f"Stored in {', '.join(sorted({dtype_name(one.dtype) for one in gradients.values() if one is not None}))}; all "
        f"numbers of fp16: the Linear's gradient {'yes' if fits['0.weight'] else 'no'}, the LayerNorm's "
        f"{'yes' if fits['1.weight'] else 'no'}."
    )
    return Finding.of(fits.values(), shown)


def _converted_back() -> Finding:
    """Lets torch's scaler unscale gradients: of fp32 parameters, and of fp16 ones, which it refuses."""
    cases, words = [], []
    for dtype in (torch.float32, torch.float16):
        weight = nn.Parameter(torch.ones(2, dtype=dtype))
        scaler, optimizer = torch.amp.GradScaler("cpu", init_scale=1024.0), torch.optim.SGD([weight], lr=0.1)
        scaler.scale((weight.float() * 0.5).sum()).backward()  # type: ignore[no-untyped-call]
        assert weight.grad is not None
        before = weight.grad.dtype
        try:
            scaler.unscale_(optimizer)
        except ValueError as error:
            cases.append(False)
            words.append(f"{dtype_name(before)}: refused, {str(error).rstrip('.')}")
        else:
            cases.append(before != torch.float32 and bool((weight.grad == 0.5).all()))
            words.append(f"{dtype_name(before)}: multiplied by 1 / 1024, {float(weight.grad[0]):g}")
    return Finding.of(cases, f"Gradients of 0.5, scaled by 1024, as unscale_ finds them: {'; '.join(words)}.")


def _skips_and_moves() -> Finding:
    """Follows torch's scaler over clean and overflowing steps."""
    weight = nn.Parameter(torch.ones(1))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    optimizer = torch.optim.SGD([weight], lr=0.25)
    scales, weights = [], []
    for factor in (1.0, 1.0, math.inf, 1.0):
        optimizer.zero_grad()
        scaler.scale(weight.sum() * factor).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
        weights.append(float(weight.detach()))
    shown = (
        f"Clean, clean, inf, clean: scales {', '.join(f'{s:g}' for s in scales)}; weights "
        f"{', '.join(f'{w:g}' for w in weights)}."
    )
    return Finding.of([scales == [1024, 2048, 1024, 1024], weights == [0.75, 0.5, 0.5, 0.25]], shown)


def _applied_to_master() -> Finding:
    """Takes small steps on a bf16 weight, with and without an fp32 master copy."""
    ends = {}
    for master in (True, False):
        weight = nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
        optimizer = SGD([weight], lr=1e-3, storage=Storage(master_weights=master))
        for _ in range(20):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        ends[master] = float(weight.detach())
    shown = (
        f"20 updates of -0.001 to a bf16 weight of 1: {ends[True]:.4g} with a master copy, {ends[False]:.4g} without."
    )
    return Finding.of([abs(ends[True] - 0.98) < 2**-8 and ends[False] == 1.0], shown)


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "bulk-in-16-bits",
        "Lower precision is used for the bulk of the math.",
        "Introduction",
        "Nearly all operations of a transformer are in matrix products, and autocast computes these in 16 "
        f"bits. {TORCH}",
        Verdict.HOLDS,
        "",
        _bulk,
    ),
    Claim(
        "update-on-master-copy",
        "Gradients are applied to the fp32 master copy, which keeps the accuracy.",
        "2. The underlying memory structure",
        "An update below half the gap of a 16-bit weight is lost; fp32 keeps it. Micikevicius et al., Mixed "
        "Precision Training, "
        "2018.",
        Verdict.HOLDS,
        "",
        _applied_to_master,
    ),
    Claim(
        "automatic-and-safe-casts",
        "autocast casts only the operations where it is safe and beneficial, like matrix products.",
        _IMPLEMENTATION,
        f"It goes by lists of ops, not by values: a product beyond 65504 is inf in fp16. {TORCH}",
        Verdict.HOLDS_IF,
        "if the results fit the 16-bit format",
        _safe_casts,
    ),
    Claim(
        "torch-cuda-amp",
        "Use torch.cuda.amp.autocast and torch.cuda.amp.GradScaler.",
        _IMPLEMENTATION,
        f"Both names are deprecated. {TORCH}",
        Verdict.DOES_NOT_HOLD,
        "torch.amp.autocast(device_type, dtype=...) and torch.amp.GradScaler(device)",
        _old_names,
    ),
    Claim(
        "code-example",
        "The example of autocast and GradScaler trains a model.",
        _IMPLEMENTATION,
        f"Its calls are right, its names are deprecated, and it moves the model to CUDA. {TORCH}",
        Verdict.HOLDS_IF,
        "with the names of torch.amp and a device that is there; as printed it warns, and needs CUDA",
        _code_runs,
    ),
    Claim(
        "autocast-casts-to-fp16",
        "autocast() casts the weights to fp16.",
        _IMPLEMENTATION,
        f"Without a dtype it takes the device's default. {TORCH}",
        Verdict.HOLDS_IF,
        "on CUDA; on a CPU the default is bf16: pass the dtype",
        _default_dtype,
    ),
    Claim(
        "temporary-16-bit-copy",
        "The fp32 master weights remain in memory; a temporary 16-bit version is made for the forward pass.",
        _FLOW,
        f"autocast casts each weight once and keeps the copy until backward has used it. {TORCH}",
        Verdict.HOLDS,
        "",
        _temporary_copy,
    ),
    Claim(
        "16-bit-gradients",
        "In the backward pass, gradients are calculated in 16 bits.",
        _FLOW,
        "Backward of an op computes in the op's format. The gradient of a weight passes the cast back to "
        f"fp32, in which it is stored. {TORCH}",
        Verdict.HOLDS_IF,
        "of ops that autocast runs in 16 bits, their weights included: these gradients can underflow, and are "
        "then stored in fp32; ops in fp32 have fp32 gradients",
        _gradient_formats,
    ),
    Claim(
        "converted-back-and-divided",
        "Valid gradients are converted back to fp32 and divided by the scale.",
        _FLOW,
        "The cast's own backward converts a weight's gradient to fp32, before the check; unscaling multiplies "
        f"by 1 / scale. fp16 gradients are refused. {TORCH}",
        Verdict.DOES_NOT_HOLD,
        "they are converted in backward, before the check, valid or not; unscaling only multiplies by 1 / scale",
        _converted_back,
    ),
    Claim(
        "scaler-skips-lowers-grows",
        "scaler.step skips an update with inf or NaN; scaler.update lowers the scale after it, or else keeps "
        "or grows it.",
        _FLOW,
        f"The scale is halved after an overflow and doubled after growth_interval clean steps. {TORCH}",
        Verdict.HOLDS,
        "",
        _skips_and_moves,
    ),
)
