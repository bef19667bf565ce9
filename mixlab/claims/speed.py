"""Claims about speed. Speeds of the machine at hand are shown, but data sheets and a recorded GPU decide."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from functools import cache

import torch

from mixlab.claims.sources import OWED_PRODUCTS, ROOFLINE, recorded_on_gpu
from mixlab.claims.verdicts import Claim, Finding, Verdict
from mixlab.formats import BF16, FP32
from mixlab.matmul import Matmul, roofs_of
from mixlab.measure import shipped
from mixlab.memory import GPUS
from mixlab.process import THREADS
from mixlab.shapes import model_shape
from mixlab.training import Trainer, load_task

_SHEETS = "Data sheets of the GPUs, with dense products."
_MODES = "Comparison of training modes"
PRODUCTS = ("qkv", "attention out", "mlp in", "mlp out")  # of `transformer_ops`; attention itself is left out


def _speeds(mode: str) -> Mapping[str, float]:
    """Returns tokens/s by recipe, as recorded on a GPU."""
    name = f" {mode}, tokens/s"
    return {
        series.name.removesuffix(name): series.median
        for series in recorded_on_gpu("train").series
        if series.name.endswith(name)
    }


def _recorded_speeds() -> str:
    eager = _speeds("eager")
    speeds = ", ".join(f"{recipe} {speed / eager['fp32']:.1f}" for recipe, speed in eager.items())
    return f"A GPT in eager mode, tokens/s as a multiple of fp32: {speeds}; {recorded_on_gpu('train').summary}"


@cache
def _here() -> str:
    """Times a product of two matrices in fp32 and bf16 on this machine's CPU."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, times = torch.ones(512, 512, dtype=dtype), []
        for _ in range(9):
            start_s = time.perf_counter()
            with THREADS.held(1):
                a @ a
            times.append(time.perf_counter() - start_s)
        seconds[dtype] = sorted(times)[4]
    ratio = seconds[torch.float32] / seconds[torch.bfloat16]
    return f"Here, on one CPU thread, bf16 multiplies 512 x 512 matrices {ratio:.2g} times as fast as fp32."


def _peak_ratios(fmt: str) -> dict[str, float]:
    peaks = {gpu.name: gpu.peak_flops for gpu in GPUS.values()}
    return {name: peak[fmt] / peak["fp32"] for name, peak in peaks.items() if fmt in peak}


def _eight_to_sixteen() -> Finding:
    cases, words = [], []
    for fmt in ("fp16", "fp8"):
        ratios = _peak_ratios(fmt)
        inside = [name for name, ratio in ratios.items() if 7.9 <= ratio <= 16.1]
        low, high = min(ratios, key=ratios.__getitem__), max(ratios, key=ratios.__getitem__)
        cases += [name in inside for name in ratios]
        words.append(
            f"{fmt}: 8 to 16 on {len(inside)} of {len(ratios)} GPUs ({', '.join(inside)}), {ratios[low]:.1f} on {low}, "
            f"{ratios[high]:.0f} on {high}"
        )
    return Finding.of(cases, f"Peak / fp32 peak outside tensor cores, {'; '.join(words)}.")


def _travels_faster() -> Finding:
    """Compares numbers per second of recorded copies in fp32 and bf16, larger than any cache."""
    record = shipped("matmul")[0]
    numel = record.parameters["numel"]
    rates = {fmt: record[f"copy {fmt} {numel}"].median / size for fmt, size in (("fp32", 8), ("bf16", 4))}
    shown = (
        f"Copies of {numel:,} numbers, recorded on {record.machine['cpu']}, {record.date[:10]}: {rates['fp32']:.2f} "
        f"billion a second in fp32, {rates['bf16']:.2f} in bf16."
    )
    return Finding.of([rates["bf16"] > 1.5 * rates["fp32"]], shown)


def _trains_faster() -> Finding:
    eager = _speeds("eager")
    ratios = {"fp32": eager["amp-bf16"] / eager["fp32"], "tf32": eager["amp-bf16"] / eager["tf32"]}
    shown = (
        f"On the recorded GPU AMP bf16 trains a GPT {ratios['fp32']:.1f} times as fast as fp32, "
        f"{ratios['tf32']:.1f} as tf32. {_here()}"
    )
    return Finding.of((ratio > 2 for ratio in ratios.values()), shown)


def _two_to_four() -> Finding:
    ratios = {
        f"{recipe} {mode} against {base}": _speeds(mode)[recipe] / _speeds(mode)[base]
        for recipe in ("amp-fp16", "amp-bf16")
        for mode in ("eager", "compiled")
        for base in ("fp32", "tf32")
        if recipe in _speeds(mode)
    }
    shown = ", ".join(f"{ratio:.1f} ({words})" for words, ratio in ratios.items())
    return Finding.of((2 <= ratio <= 4 for ratio in ratios.values()), f"On the recorded GPU: {shown}. {_here()}")


def _pure_is_fastest() -> Finding:
    """Looks for the fastest of the recorded trainings that do train."""
    parameters = recorded_on_gpu("train").parameters
    cases, words = [], []
    for mode in ("eager", "compiled"):
        speeds = _speeds(mode)
        trains = [name for name in speeds if not str(parameters.get(f"{name} {mode}", "")).startswith("diverged")]
        fastest = max(trains, key=speeds.__getitem__)
        cases += ["fp16" in trains, fastest == "bf16"]
        words.append(
            f"{mode}: of those that train {fastest} is fastest, {speeds[fastest] / speeds['amp-bf16']:.2f} times AMP"
            if "amp-bf16" in speeds
            else f"{mode}: of those that train {fastest} is fastest"
        )
    eager = _speeds("eager")
    shown = (
        f"On the recorded GPU, {'; '.join(words)}. Pure fp16 took {eager['fp16'] / eager['amp-fp16']:.2f} times AMP's "
        "steps per second, with NaN from step 1 on."
    )
    return Finding.of(cases, shown)


def transformer_ops() -> dict[str, tuple[float, float]]:
    """Returns FLOP and bytes, in bf16, of the kinds of ops in one layer of GPT-2 small with 8 x 1024 tokens."""
    shape, rows, seq = model_shape("gpt2"), 8, 1024
    tokens, width, heads = rows * seq, shape.width, shape.heads
    sizes = {
        "qkv": (3 * width, width),
        "attention out": (width, width),
        "mlp in": (4 * width, width),
        "mlp out": (width, 4 * width),
    }
    products = {name: Matmul(tokens, n, k, BF16, BF16, FP32, BF16) for name, (n, k) in sizes.items()}
    ops = {name: (float(one.flops), float(one.compulsory_bytes)) for name, one in products.items()}
    scores = float(rows * heads * seq * seq)
    for name, numel, flops, streams in (
        ("layer norm", tokens * width, 8, 2),
        ("softmax", scores, 5, 2),
        ("mask", scores, 1, 2),
        ("gelu", 4 * tokens * width, 10, 2),
        ("bias of qkv", 3 * tokens * width, 1, 2),
        ("bias of mlp", 4 * tokens * width, 1, 2),
        ("residual", tokens * width, 1, 3),
        ("second layer norm", tokens * width, 8, 2),
        ("second residual", tokens * width, 1, 3),
    ):
        ops[name] = (flops * float(numel), 2.0 * streams * float(numel))
    return ops


def _memory_bound() -> Finding:
    """Compares the FLOP per byte of each op of a layer with the ridge points of all GPUs that have bf16."""
    ops = transformer_ops()
    roofs = {roof.name: roof for name in GPUS for roof in roofs_of(name) if roof.format == "bf16"}
    bound = {
        name: sum(roof.limit(flops / moved) == "memory" for flops, moved in ops.values())
        for name, roof in roofs.items()
    }
    work = sum(flops for flops, _ in ops.values())
    h100 = roofs["h100-sxm"]
    share = sum(flops for flops, moved in ops.values() if h100.limit(flops / moved) == "compute") / work
    shown = (
        f"Of {len(ops)} ops of a GPT-2 layer, {min(bound.values())} to {max(bound.values())} are memory-bound, "
        "depending on the GPU; the "
        f"others, matrix products, do {share:.0%} of the FLOPs on an H100."
    )
    return Finding.of([*(count > len(ops) / 2 for count in bound.values()), share < 0.5], shown)


def _hardware() -> Finding:
    """Takes a step of AMP in this machine's own arithmetic, without a tensor core where there is no GPU."""
    with THREADS.held(1):
        record = next(Trainer(load_task("digits-mlp"), "amp-bf16", seed=0, device="cpu", native=True).steps(1))
    shown = f"AMP bf16 takes a step on this CPU, in its own arithmetic: loss {record.loss:.2f}."
    return Finding.of([not math.isfinite(record.loss)], shown)


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "trains-faster",
        "Mixed precision trains models faster; bf16 can be more than twice as fast.",
        "Introduction",
        f"Products and bytes both gain, but only if the model fills the hardware. {ROOFLINE}",
        Verdict.HOLDS_IF,
        "on a GPU with 16-bit matrix units, with a model that fills it, compared with full fp32; compared with "
        "tf32 AMP is less than twice as fast on the recorded H100",
        _trains_faster,
        _recorded_speeds,
    ),
    Claim(
        "smaller-numbers-travel-faster",
        "Smaller numbers travel faster between memory and cores.",
        "1. What problem is it solving?",
        f"The time is bytes / bandwidth. {ROOFLINE}",
        Verdict.HOLDS,
        "",
        _travels_faster,
        owed=OWED_PRODUCTS,
    ),
    Claim(
        "tensor-cores-8-to-16",
        "Tensor cores do 16-bit or 8-bit operations 8 to 16 times faster than 32-bit ones.",
        "1. What problem is it solving?",
        _SHEETS,
        Verdict.HOLDS_IF,
        "in 16 bits on V100, T4, A100, H100, H200, MI300X and MI355X; 2 times on GeForce RTX cards, 4 on A10, "
        "L4, L40S and RTX A6000, 28 on a B200. In 8 bits on L4, L40S and MI300X; more on H100 and B200",
        _eight_to_sixteen,
        _recorded_speeds,
        owed=OWED_PRODUCTS,
    ),
    Claim(
        "most-ops-memory-bound",
        "Most operations are memory-bound.",
        "3. Mathematical explanation and advantages",
        "An op on single numbers does about one FLOP per byte; the ridge points of GPUs in bf16 are some tens "
        f"to hundreds. {ROOFLINE}",
        Verdict.HOLDS_IF,
        "by count of ops; nearly all FLOPs of a transformer are in products, which are compute-bound if they are large",
        _memory_bound,
        owed=OWED_PRODUCTS,
    ),
    Claim(
        "amp-2-to-4-times",
        "AMP is 2 to 4 times faster than fp32.",
        _MODES,
        "It depends on the GPU, the model and on whether fp32 products run in tf32.",
        Verdict.HOLDS_IF,
        "on some GPUs and models; on the recorded H100 it is about 2 times tf32, and more than 4 times full fp32",
        _two_to_four,
        _recorded_speeds,
    ),
    Claim(
        "pure-fp16-fastest",
        "Pure fp16 is the fastest.",
        _MODES,
        "No casts, and half the bytes for optimizer and gradients.",
        Verdict.HOLDS_IF,
        "of pure 16 bits: bf16 is the fastest of the recorded recipes that train; fp16 with Adam computed with "
        "NaN, so its speed counts for nothing",
        _pure_is_fastest,
        _recorded_speeds,
    ),
    Claim(
        "amp-needs-tensor-cores",
        "Hardware: fp32 any GPU; AMP and pure fp16 tensor-core GPUs (Volta and later).",
        _MODES,
        "autocast runs wherever torch does; matrix units make it fast. Volta and Turing have no bf16 units.",
        Verdict.DOES_NOT_HOLD,
        "AMP runs without tensor cores, on a CPU too; it is fast on hardware with 16-bit matrix units, in bf16 "
        "from Ampere on",
        _hardware,
    ),
)
