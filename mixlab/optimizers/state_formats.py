"""Formats of an optimizer's states: a plain dtype, or 8-bit codes with a scale per block.

A state is a tensor of codes in the parameter's shape and, for blocks, a float32 tensor of scales. It is read into
float32 and written from float32. The same few lines run eagerly and inside a compiled step, on flat pieces that begin
at a block boundary, or on pieces of shape (blocks, block_size), which a compiler reads, reduces and writes in one loop.
For stochastic rounding, `bits` are uniformly random int32 numbers in the piece's shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mixlab.formats import E4M3FN, E5M2, FP16, dtype_name, round_to
from mixlab.formats.rounding_kernels import bf16_at_random
from mixlab.optimizers.choices import StateRounding, scales_bytes

StateDtype = torch.dtype | Literal["dynamic8"]

STATE_DTYPES: tuple[StateDtype, ...] = (
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    "dynamic8",
)
_EIGHT_BIT = {torch.float8_e4m3fn: E4M3FN, torch.float8_e5m2: E5M2}
_SMALLEST_SCALE = torch.finfo(torch.float32).smallest_normal


@dataclass(frozen=True)
class CastState:
    """A state in float32, bfloat16 or float16. Values out of the dtype's range become infinite, as in a cast.

    Attributes:
        dtype: Dtype of the stored tensor.
        rounding: How float32 values are rounded to it.
        block_size: Always 1: the state has no blocks.
        scaled: Whether the state has scales.
    """

    dtype: torch.dtype
    rounding: StateRounding = "nearest_even"
    block_size: int = 1
    scaled = False

    def __str__(self) -> str:
        return dtype_name(self.dtype)

    def keys(self, name: str) -> tuple[str, ...]:
        """Returns the keys of a state's tensors in the optimizer's state dict."""
        return (name,)

    def bytes(self, numel: int) -> int:
        """Returns the bytes of a state with `numel` elements."""
        return numel * self.dtype.itemsize

    def tables(self, _device: torch.device) -> tuple[Tensor, ...]:
        """Returns the extra tensors that `read` and `write_` take in a compiled step: none."""
        return ()

    def read(self, codes: Tensor) -> Tensor:
        """Returns the values in float32. A float32 state is returned itself, to be updated in place."""
        return codes.float()

    def write_(self, value: Tensor, bits: Tensor | None, codes: Tensor) -> None:
        """Stores float32 values."""
        if bits is not None:
            value = at_random(value, self.dtype, bits)
        if value is not codes:
            codes.copy_(value)


@dataclass(frozen=True)
class ScaledState:
    """A state in an 8-bit float format. A float32 scale per block maps the block's amax to the format's max.

    No scale is below 2^-126, float32's smallest normal value, because a smaller quotient would lose bits or be zero.
    Such a block keeps values down to 2^-135 (e4m3fn) or 2^-142 (e5m2). A block that holds an inf or NaN becomes all
    NaN, because its scale is NaN. torchao's `AdamWFp8` scales in the same way, but raises any smaller amax to 1e-12;
    Peng et al. (FP8-LM: Training FP8 Large Language Models, 2023) scale whole tensors.

    Attributes:
        dtype: float8_e4m3fn or float8_e5m2.
        rounding: How the quotients are rounded to it.
        block_size: How many neighbours in memory share a scale.
        scaled: Whether the state has scales.
    """

    dtype: torch.dtype
    rounding: StateRounding = "nearest_even"
    block_size: int = 256
    scaled = True

    def __str__(self) -> str:
        return f"{dtype_name(self.dtype)}/{self.block_size}"

    def keys(self, name: str) -> tuple[str, ...]:
        """Returns the keys of a state's tensors in the optimizer's state dict."""
        return name, f"{name}_scale"

    def bytes(self, numel: int) -> int:
        """Returns the bytes of a state with `numel` elements, scales included."""
        return numel + scales_bytes(numel, self.block_size)

    def tables(self, _device: torch.device) -> tuple[Tensor, ...]:
        """Returns the extra tensors that `read` and `write_` take in a compiled step: none."""
        return ()

    def read(self, codes: Tensor, scale: Tensor) -> Tensor:
        """Returns the values in float32."""
        values = codes.float() if codes.is_cuda or torch.compiler.is_compiling() else _looked_up(codes)
        return _unblocked(_blocked(values, self.block_size) * scale.unsqueeze(1), codes)

    def write_(self, value: Tensor, bits: Tensor | None, codes: Tensor, scale: Tensor) -> None:
        """Stores float32 values."""
        fmt = _EIGHT_BIT[self.dtype]
        blocks = _blocked(value, self.block_size)
        scale.copy_(_block_scale(blocks, fmt.max).clamp_(min=_SMALLEST_SCALE))
        scaled = _unblocked(blocks / scale.unsqueeze(1), codes)
        way: Literal["stochastic", "nearest_even"] = "nearest_even" if bits is None else "stochastic"
        codes.copy_(round_to(scaled, fmt, overflow="saturate", rounding=way, random_bits=bits, out=scaled))


@dataclass(frozen=True)
class DynamicState:
    """A state as codes of the 8-bit dynamic map. Each block is divided by its amax.

    The map has seven decades, with 2^i values in the i-th, so that small values keep their order of magnitude and large
    values are resolved finely (Dettmers et al., 8-bit Optimizers via Block-wise Quantization, 2022, sections 2.1 and
    2.2). A block that holds an inf or NaN becomes all NaN, because its scale is NaN.

    Attributes:
        signed: Whether the map has negative values. Without them it has twice as many positive ones.
        rounding: How the quotients are rounded to the map's values.
        block_size: How many neighbours in memory share a scale.
        dtype: Dtype of the codes.
        scaled: Whether the state has scales.
    """

    signed: bool
    rounding: StateRounding = "nearest_even"
    block_size: int = 256
    dtype = torch.uint8
    scaled = True

    def __str__(self) -> str:
        return f"dynamic8/{self.block_size}"

    def keys(self, name: str) -> tuple[str, ...]:
        """Returns the keys of a state's tensors in the optimizer's state dict."""
        return name, f"{name}_scale"

    def bytes(self, numel: int) -> int:
        """Returns the bytes of a state with `numel` elements, scales included; all states share the map."""
        return numel + scales_bytes(numel, self.block_size)

    def tables(self, device: torch.device) -> tuple[Tensor, ...]:
        """Returns the extra tensors that `read` and `write_` take in a compiled step: the map, midpoints and cells."""
        return dynamic_map(signed=self.signed, device=device), *_cells(self.signed, device)

    def read(self, codes: Tensor, scale: Tensor, *tables: Tensor) -> Tensor:
        """Returns the values in float32."""
        values, _, _ = tables or self.tables(codes.device)
        return _unblocked(_blocked(_at(values, codes.int()), self.block_size) * scale.unsqueeze(1), codes)

    def write_(self, value: Tensor, bits: Tensor | None, codes: Tensor, scale: Tensor, *tables: Tensor) -> None:
        """Stores float32 values; in an unsigned map, negative values become zero."""
        values, middles, cells = tables or self.tables(codes.device)
        blocks = _blocked(value, self.block_size)
        scale.copy_(_block_scale(blocks, 1.0))
        scaled = _unblocked(blocks / scale.unsqueeze(1), codes)
        found = _nearest_code(scaled, middles, cells)
        if bits is not None:
            below = (found - (scaled < _at(values, found)).int()).clamp(0, 254)
            low, high = _at(values, below), _at(values, below + 1)
            part = (scaled - low) / (high - low)
            found = below + (((bits >> 8) & 0xFFFFFF).float() * 2.0**-24 < part)
        codes.copy_(found)


def at_random(value: Tensor, dtype: torch.dtype, bits: Tensor) -> Tensor:
    """Returns float32 values rounded stochastically to bfloat16 or float16. Values out of range become infinite."""
    if dtype is torch.bfloat16:
        return bf16_at_random(value, bits)
    return round_to(value, FP16, overflow="inf", rounding="stochastic", random_bits=bits)


StateFormat = CastState | ScaledState | DynamicState


def state_format(
    dtype: StateDtype, *, signed: bool, rounding: StateRounding = "nearest_even", block_size: int = 256
) -> StateFormat:
    """Returns the format of a state.

    Args:
        dtype: One of `STATE_DTYPES`. The 8-bit ones are scaled block by block.
        signed: Whether the state has negative values.
        rounding: "nearest_even", or "stochastic", which is correct on average. float32 is never rounded.
        block_size: How many neighbours in memory share a scale.
    """
    if not isinstance(dtype, torch.dtype):
        return DynamicState(signed, rounding, block_size)
    if dtype in _EIGHT_BIT:
        return ScaledState(dtype, rounding, block_size)
    return CastState(dtype, "nearest_even" if dtype is torch.float32 else rounding)


@cache
def dynamic_map(*, signed: bool, device: torch.device | str = "cpu") -> Tensor:
    """Returns the 256 values of the 8-bit dynamic map in ascending order, float32.

    Each decade [10^(i-7), 10^(i-6)], i = 0 to 6, is cut into 2^i equal parts (2^(i+1) if unsigned). The values are 0,
    1, the midpoints of the parts and, if signed, the negated midpoints.

    Args:
        signed: Whether the map has negative values.
        device: Where the tensor is placed.
    """
    values = [0.0, 1.0]
    for i in range(7):
        edges = torch.linspace(0.1, 1, 2 ** (i + (not signed)) + 1)
        middles = (10 ** (i - 6) * ((edges[:-1] + edges[1:]) / 2)).tolist()
        values += middles + [-value for value in middles if signed]
    return torch.tensor(sorted(values), device=device)


def _nearest_code(scaled: Tensor, middles: Tensor, cells: Tensor) -> Tensor:
    """Returns the code of the nearest value of the dynamic map, int32.

    Sign, exponent and 8 mantissa bits divide float32 into cells. No cell holds two midpoints between values. So a table
    gives the number of midpoints below the cell, and one comparison settles a midpoint within it.
    """
    code = _at(cells, (scaled.view(torch.int32) >> 15) & 0x1FFFF)
    return code + (scaled > _at(middles, code))


def _at(table: Tensor, index: Tensor) -> Tensor:
    """Returns table[index]; eager, `index_select` is faster, but compiled it would split the loop over blocks."""
    if torch.compiler.is_compiling():
        return table[index]
    return table.index_select(0, index.view(-1)).view(index.shape)


@cache
def _cells(signed: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns the 255 midpoints between the map's values, then infinity; and how many of them are below each cell."""
    values = dynamic_map(signed=signed)
    middles = (values[:-1] + values[1:]) / 2
    first = torch.arange(1 << 17, dtype=torch.int64) << 15
    negative = first >= 1 << 31
    lowest = torch.where(negative, first + 0x7FFF, first)  # the cell's value of largest magnitude, if it is negative
    edges = (lowest - (lowest >= 1 << 31).long() * (1 << 32)).to(torch.int32).view(torch.float32)
    below = torch.bucketize(edges, middles, out_int32=True)
    middles = torch.cat([middles, torch.tensor([torch.inf])])
    return middles.to(device), below.to(device)


def _looked_up(codes: Tensor) -> Tensor:
    """Returns 8-bit floats as float32; on a CPU this is several times faster than a cast."""
    return _all_values(codes.dtype).index_select(0, codes.view(torch.uint8).int())


@cache
def _all_values(dtype: torch.dtype) -> Tensor:
    return torch.arange(256, dtype=torch.uint8).view(dtype).float()


def _blocked(flat: Tensor, block_size: int) -> Tensor:
    """Returns flat values as (blocks, block_size), padded with zeros; values already in blocks are returned as is."""
    if flat.dim() == 2:
        return flat
    missing = -flat.numel() % block_size
    return (F.pad(flat, (0, missing)) if missing else flat).view(-1, block_size)


def _unblocked(blocks: Tensor, like: Tensor) -> Tensor:
    return blocks if like.dim() == 2 else blocks.view(-1)[: like.numel()]


def _block_scale(blocks: Tensor, largest: float) -> Tensor:
    """Returns amax / largest for each block: 1 for a block of zeros, NaN for one that holds an inf or NaN."""
    amax = blocks.abs().amax(1)
    scale = torch.where(amax > 0, amax / largest, 1.0)
    return torch.where(amax < torch.inf, scale, torch.nan)
