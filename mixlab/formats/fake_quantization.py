"""Rounding inside a model that is trained: values on the way forward, gradients on the way back."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from mixlab.formats.format import FP16, Format
from mixlab.formats.rounding import Overflow, Rounding, checked, round_to


def fake_quantize(
    x: Tensor,
    *,
    forward: Format | str | None,
    backward: Format | str | None,
    overflow: Overflow,
    rounding: Rounding = "nearest_even",
    generator: torch.Generator | None = None,
    stop_clipped: bool = False,
) -> Tensor:
    """Rounds `x` to `forward`, and in the backward pass its gradient to `backward`; the dtype stays.

    Rounding has no useful derivative, so the gradient goes straight through (Bengio et al., Estimating or Propagating
    Gradients Through Stochastic Neurons, 2013, section 4). Works under `torch.compile` and `torch.vmap`; the double
    backward goes straight through as well.

    Args:
        x: float64, float32, float16 or bfloat16, of any shape. A 16-bit `x` is rounded from what it holds.
        forward, backward: Formats or their names; None leaves values or gradients as they are.
        overflow: As in `round_to`, for both ways. "inf" becomes "saturate" in a format without infinity, as in the
            usual pair of e4m3fn forward and e5m2 backward.
        rounding: As in `round_to`, for both ways.
        generator: As in `round_to`, for both ways: the backward pass draws from it too, when it runs.
        stop_clipped: True stops the gradient of elements that lie beyond the largest value of `forward`, which no
            longer move the result (Choi et al., PACT, 2018, section 3). It is 0 there, whatever comes from behind.

    Raises:
        TypeError, ValueError: As `round_to`; `stop_clipped` without `forward`.

    >>> x = torch.tensor([1.06, 700.0], requires_grad=True)
    >>> y = fake_quantize(x, forward="e4m3fn", backward="e5m2", overflow="saturate", stop_clipped=True)
    >>> (1.1 * y).sum().backward()
    >>> y.detach(), x.grad  # 1.1 rounds to 1 in e5m2
    (tensor([  1., 448.]), tensor([1., 0.]))
    """
    formats = [Format.parse(fmt) if isinstance(fmt, str) else fmt for fmt in (forward, backward)]
    if stop_clipped and formats[0] is None:
        raise ValueError("fake_quantize: stop_clipped needs a forward format, whose largest value it stops at")
    if not (generator is None or isinstance(generator, torch.Generator)):
        raise TypeError(f"fake_quantize: generator must be a torch.Generator or None, got {generator!r}")
    for fmt in formats:  # refuses now what would fail in the backward pass
        if fmt is not None:
            checked(x.detach(), fmt, overflow=_rule(fmt, overflow), rounding=rounding, out=None)
    result: Tensor = _FakeQuantize.apply(x, *formats, overflow, rounding, generator, stop_clipped)  # type: ignore[no-untyped-call]
    return result


def _rule(fmt: Format, overflow: Overflow) -> Overflow:
    return "saturate" if overflow == "inf" and isinstance(fmt, Format) and not fmt.has_inf else overflow


def _rounded(
    x: Tensor, fmt: Format, overflow: Overflow, rounding: Rounding, generator: torch.Generator | None
) -> Tensor:
    rule = _rule(fmt, overflow)
    if rule == "saturate" and x.dtype is torch.float16 and fmt.max > FP16.max:
        x = x.clamp(-_largest_in_fp16(fmt), _largest_in_fp16(fmt))  # 65504 rounds to 65536 in bf16
    return round_to(x, fmt, overflow=rule, rounding=rounding, generator=generator).to(x.dtype)


def _largest_in_fp16(fmt: Format) -> float:
    """Returns the largest value of a format that float16 holds too."""
    return fmt.next_down(math.nextafter(FP16.max, math.inf))


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        x: Tensor,
        forward: Format | None,
        _backward: Format | None,
        overflow: Overflow,
        rounding: Rounding,
        generator: torch.Generator | None,
        _stop_clipped: bool,
    ) -> Tensor:
        return x.clone() if forward is None else _rounded(x.detach(), forward, overflow, rounding, generator)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004  torch names them
        x, forward, ctx.backward_format, *ctx.rules, ctx.stop_clipped = inputs
        if ctx.stop_clipped:
            ctx.save_for_backward(x.abs() <= forward.max)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rounded = gradient
        if ctx.backward_format is not None:
            rounded = _FakeQuantize.apply(gradient, ctx.backward_format, None, *ctx.rules, False)  # type: ignore[no-untyped-call]
        if ctx.stop_clipped:
            (inside,) = ctx.saved_tensors
            rounded = torch.where(inside, rounded, 0.0)
        return rounded, None, None, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, *rules: Any) -> tuple[Tensor, int | None]:  # noqa: ARG004
        return _FakeQuantize.apply(x, *rules), in_dims[0]  # type: ignore[no-untyped-call]
