"""Rounding inside a model during training: values in the forward pass, gradients in the backward pass."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from mixlab.formats.choices import Overflow, Rounding
from mixlab.formats.format import FP16, Format
from mixlab.formats.rounding import checked, round_to


def fake_quantize(
    x: Tensor,
    *,
    forward: Format | str | None,
    backward: Format | str | None,
    overflow: Overflow,
    backward_overflow: Overflow | None = None,
    rounding: Rounding = "nearest_even",
    generator: torch.Generator | None = None,
    stop_clipped: bool = False,
) -> Tensor:
    """Rounds `x` to `forward`, and in the backward pass its gradient to `backward`; the dtype stays.

    Rounding has no useful derivative, so the gradient goes straight through (Bengio et al., Estimating or Propagating
    Gradients Through Stochastic Neurons, 2013). Works under `torch.compile` and `torch.vmap`; the double
    backward goes straight through as well.

    Args:
        x: float64, float32, float16 or bfloat16, of any shape. A 16-bit `x` is rounded from its 16-bit values.
        forward: The format of the values, or its name; None leaves them as they are.
        backward: The format of the gradients, or its name; None leaves them as they are.
        overflow: As in `round_to`, for values out of range.
        backward_overflow: As in `round_to`, for gradients out of range; None means the same as `overflow`. With the
            usual pair, use "saturate" for e4m3fn forward, which has no infinity, and "inf" for e5m2 backward.
        rounding: As in `round_to`, for both passes.
        generator: As in `round_to`, for both passes: the backward pass draws from it too, when it runs.
        stop_clipped: True stops the gradient of elements beyond the largest value of `forward`, because they no longer
            change the result (Choi et al., PACT, 2018). It is 0 there, even if the incoming gradient is inf
            or NaN.

    Returns:
        A new tensor of values of `forward`, of `x`'s shape and dtype.

    Raises:
        TypeError: If `x` is not a tensor of these dtypes, `forward` or `backward` is not a format, or `generator` is
            not a generator.
        ValueError: If `round_to` would refuse the rules in either pass, or `stop_clipped` is set without `forward`.

    >>> x = torch.tensor([1.06, 700.0], requires_grad=True)
    >>> y = fake_quantize(x, forward="e4m3fn", backward="e5m2", overflow="saturate", stop_clipped=True)
    >>> (1.1 * y).sum().backward()
    >>> y.detach(), x.grad  # 1.1 rounds to 1 in e5m2
    (tensor([  1., 448.]), tensor([1., 0.]))
    """
    backward_overflow = overflow if backward_overflow is None else backward_overflow
    there = None if forward is None else Format.of(forward)
    back = None if backward is None else Format.of(backward)
    if stop_clipped and there is None:
        raise ValueError("fake_quantize: stop_clipped needs a forward format; it stops at that format's largest value")
    if not (generator is None or isinstance(generator, torch.Generator)):
        raise TypeError(f"fake_quantize: generator must be a torch.Generator or None, got {generator!r}")
    for fmt, rule in ((there, overflow), (back, backward_overflow)):  # refuses now what would fail in backward
        if fmt is not None:
            checked(x.detach(), fmt, overflow=rule, rounding=rounding, out=None)
    result: Tensor = _FakeQuantize.apply(  # type: ignore[no-untyped-call]
        x, there, overflow, back, backward_overflow, rounding, generator, stop_clipped
    )
    return result


def _rounded(
    x: Tensor, fmt: Format, overflow: Overflow, rounding: Rounding, generator: torch.Generator | None
) -> Tensor:
    if overflow == "saturate" and x.dtype is torch.float16 and fmt.max > FP16.max:
        x = x.clamp(-_largest_in_fp16(fmt), _largest_in_fp16(fmt))  # 65504 rounds to 65536 in bf16
    return round_to(x, fmt, overflow=overflow, rounding=rounding, generator=generator).to(x.dtype)


def _largest_in_fp16(fmt: Format) -> float:
    """Returns the largest value of a format that float16 can hold too."""
    return fmt.next_down(math.nextafter(FP16.max, math.inf))


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        x: Tensor,
        forward: Format | None,
        overflow: Overflow,
        _backward: Format | None,
        _backward_overflow: Overflow,
        rounding: Rounding,
        generator: torch.Generator | None,
        _stop_clipped: bool,
    ) -> Tensor:
        return x.clone() if forward is None else _rounded(x.detach(), forward, overflow, rounding, generator)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004  torch names them
        x, forward, _, ctx.backward_format, ctx.overflow, ctx.rounding, ctx.generator, ctx.stop_clipped = inputs
        if ctx.stop_clipped:
            ctx.save_for_backward(x.abs() <= forward.max)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rounded = gradient
        if ctx.backward_format is not None:  # by this function, so that a double backward goes straight through
            rounded = _FakeQuantize.apply(  # type: ignore[no-untyped-call]
                gradient, ctx.backward_format, ctx.overflow, None, ctx.overflow, ctx.rounding, ctx.generator, False
            )
        if ctx.stop_clipped:
            (inside,) = ctx.saved_tensors
            rounded = torch.where(inside, rounded, 0.0)
        return rounded, None, None, None, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, *rules: Any) -> tuple[Tensor, int | None]:  # noqa: ARG004
        return _FakeQuantize.apply(x, *rules), in_dims[0]  # type: ignore[no-untyped-call]
