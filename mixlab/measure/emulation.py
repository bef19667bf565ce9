"""Compares emulated arithmetic with a device's own: op by op, forward and backward, on the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixlab import emulation
from mixlab.formats import Format
from mixlab.machine import usable_device
from mixlab.measure.record import Record, Series, now, record_here
from mixlab.measure.requests import check_emulation
from mixlab.process import RandomStream
from mixlab.training.models import TransformerBlock

Op = tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...]]


class _Apply(nn.Module):
    """Wraps a function as a module, so that ops and layers are measured alike."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


def _cross_entropy(logits: Tensor) -> Tensor:
    return F.cross_entropy(logits, torch.arange(logits.shape[0], device=logits.device) % logits.shape[1])


# By name: how to make the module, and the shapes of its inputs.
OPS: dict[str, Op] = {
    "linear": (lambda: nn.Linear(256, 128), ((64, 256),)),
    "matmul": (lambda: _Apply(torch.matmul), ((96, 320), (320, 64))),
    "bmm": (lambda: _Apply(torch.bmm), ((4, 32, 64), (4, 64, 48))),
    "conv2d": (lambda: nn.Conv2d(8, 16, 3, padding=1), ((4, 8, 14, 14),)),
    "attention": (
        lambda: _Apply(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)),
        ((2, 4, 32, 16),) * 3,
    ),
    "softmax": (lambda: _Apply(lambda x: F.softmax(x, -1)), ((64, 100),)),
    "layer_norm": (lambda: nn.LayerNorm(256), ((64, 256),)),
    "batch_norm": (lambda: nn.BatchNorm1d(64), ((128, 64),)),
    "gelu": (lambda: _Apply(F.gelu), ((64, 256),)),
    "silu": (lambda: _Apply(F.silu), ((64, 256),)),
    "tanh": (lambda: _Apply(torch.tanh), ((64, 256),)),
    "mean": (lambda: _Apply(torch.mean), ((64, 256),)),
    "cross_entropy": (lambda: _Apply(_cross_entropy), ((64, 100),)),
    "MLP": (lambda: nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64)), ((64, 64),)),
    "transformer block": (lambda: TransformerBlock(64, 4), ((2, 32, 64),)),
}


def measure_emulation(
    device: torch.device | str | None = None,
    *,
    formats: Sequence[Format | str] = ("fp16", "bf16"),
    seed: int = 0,
    command: str = "measure_emulation",
    progress: Callable[[float], None] = lambda _part: None,
) -> Record:
    """Runs ops and layers under mixlab's emulation on the CPU and under the device's own autocast, and compares them.

    For each op, format and direction the record has three numbers: the share of equal elements; the largest difference
    in units of the format's gap at the larger of the two values, which is large where terms cancel and the result is
    near zero; and the largest difference divided by the largest value. "backward" covers the gradients of all inputs
    and parameters together. Inputs are normally distributed and rounded to the format first.

    Args:
        device: Device to compare with; None takes CUDA if available, else the CPU, whose own autocast has different
            lists.
        formats: fp16, bf16 or both, as formats or names.
        seed: Seed of inputs and parameters.
        command: Command line to store in the record.
        progress: Called with the completed fraction, from 0 to 1.

    Raises:
        ValueError: If the device is unknown, or a format is neither fp16 nor bf16.
    """
    check_emulation(formats=formats, seed=seed)
    device, date = usable_device(device), now()
    parsed = [Format.of(fmt) for fmt in formats]
    series: list[Series] = []
    plan = [(fmt, name) for fmt in parsed for name in OPS]
    for number, (fmt, name) in enumerate(plan):
        emulated, native = (_results(OPS[name], fmt, place, seed) for place in (None, device))
        for direction, ours, theirs in zip(("forward", "backward"), emulated, native, strict=True):
            equal, ulps, relative = compare(ours, theirs, fmt)
            series.append(Series(f"{fmt} {name} {direction}, equal", "1", (equal,)))
            series.append(Series(f"{fmt} {name} {direction}, largest difference", "ulp", (ulps,)))
            series.append(Series(f"{fmt} {name} {direction}, largest difference / largest value", "1", (relative,)))
        progress((number + 1) / len(plan))
    return record_here(
        "emulation",
        series,
        date=date,
        seed=seed,
        command=command,
        parameters={"device": str(device), "formats": ",".join(map(str, parsed))},
    )


def compare(ours: Tensor, theirs: Tensor, fmt: Format) -> tuple[float, float, float]:
    """Compares two finite tensors of the same shape.

    Args:
        ours, theirs: The tensors.
        fmt: Format whose gaps measure a difference.

    Returns:
        (share of equal elements, largest difference in gaps of `fmt` at the larger magnitude, largest difference
        divided by the largest magnitude).
    """
    ours, theirs = ours.double(), theirs.double()
    equal = ours == theirs
    magnitude = torch.maximum(ours.abs(), theirs.abs()).clamp(min=fmt.smallest_normal)
    gap = torch.exp2(magnitude.log2().floor() - fmt.mantissa_bits)
    difference = (ours - theirs).abs()
    largest = max(float(ours.abs().max()), float(theirs.abs().max()), fmt.smallest_subnormal)
    return float(equal.double().mean()), float((difference / gap).max()), float(difference.max()) / largest


def _results(op: Op, fmt: Format, device: torch.device | None, seed: int) -> tuple[Tensor, Tensor]:
    """Returns output and gradients, each flat in float32 on the CPU; emulated if `device` is None."""
    make, shapes = op
    with RandomStream(seed):
        module = make()
        inputs = [torch.randn(shape) for shape in shapes]
    place = torch.device("cpu") if device is None else device
    module = module.to(place)
    assert fmt.dtype is not None
    leaves = [x.to(fmt.dtype).to(place).requires_grad_() for x in inputs]
    autocast = emulation.autocast("cpu", fmt) if device is None else torch.autocast(place.type, dtype=fmt.dtype)
    with emulation.arithmetic("cpu") if device is None else nullcontext():
        with autocast:
            output = module(*leaves)
        upstream = torch.linspace(-1, 1, output.numel()).reshape(output.shape)  # the same on both sides
        output.backward(upstream.to(output.dtype).to(place))
    gradients = [leaf.grad for leaf in (*leaves, *module.parameters()) if leaf.grad is not None]
    flat = torch.cat([gradient.detach().float().flatten().cpu() for gradient in gradients])
    return output.detach().float().flatten().cpu(), flat
