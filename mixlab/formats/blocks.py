"""Block formats: small groups of low-precision elements that share a scale (MX and NVFP4).

"floor", "even", "ceil" and "rceil" are the MX literature's names for rules that choose a block's scale. They do not say
how values are rounded: elements are always rounded to nearest even.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from mixlab.arguments import require_whole
from mixlab.formats.format import E2M1FN, E2M3FN, E3M2FN, E4M3FN, E5M2, E8M0FNU, Format
from mixlab.formats.rounding import round_to

ScaleRule = Literal["floor", "even", "ceil", "rceil"]

_LARGEST = torch.finfo(torch.float32).max
_SMALLEST_NORMAL = torch.finfo(torch.float32).smallest_normal


@dataclass(frozen=True)
class BlockFormat:
    """A block format as data.

    Attributes:
        name: What it is called, e.g. "mxfp8_e4m3".
        element: The format of the elements.
        scale: The format of the scales, one for each block: e8m0fnu for powers of two; or e4m3fn, which needs an extra
            float32 scale for the whole tensor.
        block_size: How many neighbours share a scale.

    Raises:
        ValueError: If a value is not allowed.
    """

    name: str
    element: Format
    scale: Format
    block_size: int

    def __post_init__(self) -> None:
        if not isinstance(self.element, Format) or not self.element.signed or self.element.mantissa_bits > 23:
            raise ValueError(
                f"BlockFormat: element must be a signed Format whose values fit float32, got {self.element!r}"
            )
        if self.scale not in (E8M0FNU, E4M3FN):
            raise ValueError(f"BlockFormat: scale must be the Format e8m0fnu or e4m3fn, got {self.scale!r}")
        require_whole("BlockFormat: block_size", self.block_size, 1)

    def __str__(self) -> str:
        return self.name

    @property
    def bits_per_element(self) -> float:
        """Bits per element, including its share of the block's scale."""
        return self.element.bits + self.scale.bits / self.block_size


# OCP Microscaling Formats (MX) Specification v1.0, 2023; and NVIDIA, Pretraining Large Language Models with
# NVFP4, 2025.
BLOCK_FORMATS: dict[str, BlockFormat] = {
    fmt.name: fmt
    for fmt in (
        BlockFormat("mxfp8_e4m3", E4M3FN, E8M0FNU, 32),
        BlockFormat("mxfp8_e5m2", E5M2, E8M0FNU, 32),
        BlockFormat("mxfp6_e3m2", E3M2FN, E8M0FNU, 32),
        BlockFormat("mxfp6_e2m3", E2M3FN, E8M0FNU, 32),
        BlockFormat("mxfp4", E2M1FN, E8M0FNU, 32),
        BlockFormat("nvfp4", E2M1FN, E4M3FN, 16),
    )
}


@dataclass(frozen=True, eq=False)
class BlockTensor:
    """A tensor in a block format, with all its parts accessible.

    Attributes:
        format: The block format.
        elements: Values of the element format, float32, of the original shape.
        scale: Values of the scale format, float32, of the same shape except along `dim`, which counts blocks.
        tensor_scale: The factor of the whole tensor, float32 of shape (); 1 in MX formats.
        dim: The dimension along which blocks lie, from 0 up.
    """

    format: BlockFormat
    elements: Tensor
    scale: Tensor
    tensor_scale: Tensor
    dim: int

    def dequantize(self) -> Tensor:
        """Returns elements * scale * tensor_scale, float32 of the original shape.

        A product beyond float32 becomes float32's largest value: rules that round up may put an element at 2^128.
        """
        scale = self.scale.repeat_interleave(self.format.block_size, self.dim)
        scale = scale.narrow(self.dim, 0, self.elements.shape[self.dim])
        if self.format.scale == E8M0FNU:
            exponent = (scale.view(torch.int32) >> 23) - 127
            values = torch.where(scale < math.inf, _times_power_of_two(self.elements, exponent), math.nan)
        else:
            lift = _lift(self.tensor_scale)
            values = self.elements * (scale * (self.tensor_scale * lift)) / lift
        return values.clamp(-_LARGEST, _LARGEST)


def quantize_blocks(
    x: Tensor, fmt: BlockFormat | str, *, dim: int = -1, scale_rule: ScaleRule | None = None
) -> BlockTensor:
    """Returns `x` in a block format: a scale for each block, and elements rounded to nearest even.

    There is no `overflow=` to choose: the scale follows the block's largest element, and an element still out of range
    saturates, as the specifications say. The last block may be shorter than the others. A block of zeros has the
    smallest scale. A block that holds inf or NaN becomes all NaN, because its scale is NaN.

    Args:
        x: float32, float16 or bfloat16, with at least one dimension.
        fmt: The format, or a name of `BLOCK_FORMATS`.
        dim: The dimension whose neighbours share scales; usually the one that a matrix product sums over.
        scale_rule: How to choose power-of-two scales 2^e; None means "floor". With amax the block's largest magnitude
            and emax the exponent of the element format's largest value:
            "floor": e = floor(log2 amax) - emax (OCP MX v1.0, section 6.3); large elements may saturate;
            "even": as floor, but amax is first rounded to the element format's mantissa;
            "ceil": e = ceil(log2 amax) - emax; nothing saturates;
            "rceil": e = ceil(log2(amax / max)), the smallest scale under which nothing saturates.
            NVFP4 has its own rule: tensor_scale = amax of the tensor / (448 * 6), rounded up if it is below 2^-128; and
            the block's scale is its amax / 6 / tensor_scale in e4m3fn, at least that format's smallest normal value.

    Raises:
        TypeError: If `x` is not such a tensor.
        ValueError: If the format or rule is unknown, `x` lacks the dimension, or `x` requires a gradient.

    >>> blocks = quantize_blocks(torch.tensor([957.0, 100.0, 1.0]), "mxfp8_e4m3")
    >>> blocks.scale, blocks.elements  # 957 / 2 = 478.5 is beyond 448
    (tensor([2.]), tensor([448.0000,  48.0000,   0.5000]))
    >>> blocks.dequantize()
    tensor([896.,  96.,   1.])
    """
    fmt, dim = _checked(x, fmt, dim, scale_rule)
    lines = x.float().movedim(dim, -1)
    length = lines.shape[-1]
    padded = F.pad(lines, (0, -length % fmt.block_size))
    blocks = padded.reshape(*padded.shape[:-1], -1, fmt.block_size) if length else padded[..., None]
    amax = blocks.abs().amax(-1, keepdim=True)
    finite = amax < math.inf
    amax = torch.where(finite, amax, 0.0)
    if fmt.scale == E8M0FNU:
        tensor_scale = torch.ones((), device=x.device)
        exponent = _scale_exponent(amax, fmt.element, scale_rule or "floor")
        scale = torch.where(exponent < -126, 1 << 22, (exponent + 127) << 23).view(torch.float32)  # 2^exponent
        scaled = _times_power_of_two(blocks, -exponent)
    else:
        tensor_scale = _tensor_scale(amax, fmt)
        lift = _lift(tensor_scale)
        lifted = tensor_scale * lift
        scale = (amax * lift / fmt.element.max / lifted).clamp(fmt.scale.smallest_normal, fmt.scale.max)
        scale = round_to(scale, fmt.scale, overflow="saturate")
        scaled = blocks * lift * ((1.0 / lifted) / scale)
    elements = round_to(scaled, fmt.element, overflow="saturate").flatten(-2)[..., :length]
    scale = torch.where(finite, scale, math.nan).squeeze(-1)
    return BlockTensor(fmt, elements.movedim(-1, dim), scale.movedim(-1, dim), tensor_scale, dim)


def _scale_exponent(amax: Tensor, element: Format, rule: ScaleRule) -> Tensor:
    """Returns the exponent of a power-of-two scale, from the bits of amax, within e8m0's -127 to 127."""
    bits = amax.view(torch.int32)
    if rule == "even":
        bits = bits + ((1 << 22) >> element.mantissa_bits)
    exponent = (bits >> 23) - 127
    mantissa = bits & 0x7FFFFF
    if rule == "ceil":
        exponent = exponent + (mantissa > 0)
    elif rule == "rceil":
        largest = int(math.ldexp(element.max, 23 - element.max_exponent)) & 0x7FFFFF
        exponent = exponent + (mantissa > largest)
    return (exponent - element.max_exponent).clamp(-127, 127)


def _times_power_of_two(x: Tensor, exponent: Tensor) -> Tensor:
    """Returns x * 2^exponent, for -127 to 127, in two factors: 2^-127 is subnormal, and a CPU may flush it to zero."""
    most = exponent.clamp(-126, 126)
    return x * _power_of_two(most) * _power_of_two(exponent - most)


def _power_of_two(exponent: Tensor) -> Tensor:
    return ((exponent + 127) << 23).view(torch.float32)


def _tensor_scale(amax: Tensor, fmt: BlockFormat) -> Tensor:
    """Returns the factor of the whole tensor; 1 for a tensor of zeros."""
    if not amax.numel():
        return torch.ones((), device=amax.device)
    largest = amax.amax()
    exact = largest.double() / (fmt.scale.max * fmt.element.max)
    scale = exact.float()
    scale = torch.where((scale < exact) & (scale < 2.0**-128), scale + 2.0**-149, scale)  # else the largest would clip
    scale = torch.where(scale > 0, scale, _SMALLEST_NORMAL)  # if subnormals are flushed
    return torch.where(largest > 0, scale, 1.0)


def _lift(tensor_scale: Tensor) -> Tensor:
    """Returns a power of two that keeps products with a tiny factor in float32's full precision."""
    return torch.where(tensor_scale < 2.0**-100, 2.0**64, 1.0)


def _checked(x: Tensor, fmt: BlockFormat | str, dim: int, scale_rule: ScaleRule | None) -> tuple[BlockFormat, int]:
    if isinstance(fmt, str):
        if fmt not in BLOCK_FORMATS:
            raise ValueError(f"unknown block format {fmt!r}: use one of {', '.join(BLOCK_FORMATS)}")
        fmt = BLOCK_FORMATS[fmt]
    if not isinstance(fmt, BlockFormat):
        raise TypeError(f"quantize_blocks: fmt must be a BlockFormat or its name, got {fmt!r}")
    if not isinstance(x, Tensor) or x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        came = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"quantize_blocks: x must be a float32, float16 or bfloat16 tensor, got {came}")
    if x.requires_grad and torch.is_grad_enabled():
        raise ValueError("quantize_blocks: rounding has no useful gradient; pass x.detach()")
    if type(dim) is not int or not -x.dim() <= dim < x.dim():
        raise ValueError(f"quantize_blocks: x of shape {tuple(x.shape)} has no dimension {dim!r}")
    if scale_rule is not None and scale_rule not in get_args(ScaleRule):
        allowed = ", ".join(get_args(ScaleRule))
        raise ValueError(f"quantize_blocks: scale_rule must be one of {allowed}, got {scale_rule!r}")
    if scale_rule is not None and fmt.scale != E8M0FNU:
        raise ValueError(f"quantize_blocks: {fmt} has no power-of-two scale and no scale_rule; leave it out")
    return fmt, dim % x.dim()
