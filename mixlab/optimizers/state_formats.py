"""How an optimizer keeps one of its states from step to step: cast to a dtype, or as 8-bit codes with a scale a block.

A state is a tensor of codes in the parameter's shape, and for blocks a float32 tensor of scales beside it. It is read
into float32 and written from float32, so that the same few lines run eagerly, piece by piece, and inside a compiled
step: on flat pieces that begin at a block's first element, or on pieces of (blocks, block_size), which a compiler
reads, reduces and writes in one loop. Where a state is rounded at random, `bits` are int32 of the piece's shape, each
of the 2^32 equally likely.
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

StateDtype = torch.dtype | Literal["dynamic8"]
StateRounding = Literal["nearest_even", "stochastic"]

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
    """A state cast to a dtype: float32, bfloat16 or float16, where what is out of range becomes infinite."""

    dtype: torch.dtype
    rounding: StateRounding = "nearest_even"
    block_size: int = 1
    scaled = False

    def __str__(self) -> str:
        return dtype_name(self.dtype)

    def keys(self, name: str) -> tuple[str, ...]:
        """Returns under which names the tensors of a state are kept."""
        return (name,)

    def bytes(self, numel: int) -> int:
        """Returns the bytes of a state of so many elements."""
        return numel * self.dtype.itemsize

    def tables(self, _device: torch.device) -> tuple[Tensor, ...]:
        """Returns what else `read` and `write_` take in a compiled step."""
        return ()

    def read(self, codes: Tensor) -> Tensor:
        """Returns the values in float32; float32 itself is returned as it is, to be worked on in place."""
        return codes.float()

    def write_(self, value: Tensor, bits: Tensor | None, codes: Tensor) -> None:
        """Stores float32 values."""
        if value is codes:
            return
        if bits is not None:
            value = at_random(value, self.dtype, bits)
        codes.copy_(value)


@dataclass(frozen=True)
class ScaledState:
    """A state in an 8-bit float format, each block divided by a float32 scale that puts its amax at the format's max.

    No scale is below 2^-126, float32's smallest normal value: the quotient of a smaller amax would lose its bits, or be
    zero. Such a block keeps values down to 2^-135 (e4m3fn) or 2^-142 (e5m2). A block that holds an inf or NaN becomes
    NaN as a whole, by its scale. (The scaling is that of torchao's `AdamWFp8`, which takes 1e-12 for any smaller amax;
    Peng et al., FP8-LM: Training FP8 Large Language Models, 2023, section 2.2, scale whole tensors.)
    """

    dtype: torch.dtype
    rounding: StateRounding = "nearest_even"
    block_size: int = 256
    scaled = True

    def __str__(self) -> str:
        return f"{dtype_name(self.dtype)}/{self.block_size}"

    def keys(self, name: str) -> tuple[str, ...]:
        """Returns under which names the tensors of a state are kept."""
        return name, f"{name}_scale"

    def bytes(self, numel: int) -> int:
        """Returns the bytes of a state of so many elements, scales included."""
        return numel + 4 * -(-numel // self.block_size)

    def tables(self, _device: torch.device) -> tuple[Tensor, ...]:
        """Returns what else `read` and `write_` take in a compiled step."""
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
    """A state as codes of the 8-bit dynamic map, each block divided by its amax.

    The map's values lie in seven decades, 2^i of them in the i-th, so that small values keep their order of magnitude
    and large ones are resolved finely (Dettmers et al., 8-bit Optimizers via Block-wise Quantization, 2022, sections
    2.1 and 2.2). A block that holds an inf or NaN becomes NaN as a whole, by its scale.

    Attributes:
        signed: Whether there are codes of negative values; without them there are twice as many of positive ones.
    """

    signed: bool
    rounding: StateRounding = "nearest_even"
    block_size: int = 256
    dtype = torch.uint8
    scaled = True

    def __str__(self) -> str:
        return f"dynamic8/{self.block_size}"

    def keys(self, name: str) -> tuple[str, ...]:
        """Returns under which names the tensors of a state are kept."""
        return name, f"{name}_scale"

    def bytes(self, numel: int) -> int:
        """Returns the bytes of a state of so many elements, scales included; the map is one for all."""
        return numel + 4 * -(-numel // self.block_size)

    def tables(self, device: torch.device) -> tuple[Tensor, ...]:
        """Returns what else `read` and `write_` take in a compiled step, which cannot make it: the map and cells."""
        return dynamic_map(signed=self.signed, device=device), *_cells(self.signed, device)

    def read(self, codes: Tensor, scale: Tensor, *tables: Tensor) -> Tensor:
        """Returns the values in float32."""
        values, _, _ = tables or self.tables(codes.device)
        return _unblocked(_blocked(_at(values, codes.int()), self.block_size) * scale.unsqueeze(1), codes)

    def write_(self, value: Tensor, bits: Tensor | None, codes: Tensor, scale: Tensor, *tables: Tensor) -> None:
        """Stores float32 values; without sign, negative ones as zero."""
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
    """Returns float32 values rounded stochastically to bfloat16's or float16's; what is out of range becomes inf."""
    if dtype is torch.bfloat16:
        return bf16_at_random(value, bits)
    return round_to(value, FP16, overflow="inf", rounding="stochastic", random_bits=bits)


StateFormat = CastState | ScaledState | DynamicState


def state_format(
    dtype: StateDtype, *, signed: bool, rounding: StateRounding = "nearest_even", block_size: int = 256
) -> StateFormat:
    """Returns how to keep a state.

    Args:
        dtype: One of `STATE_DTYPES`; those of 8 bits are scaled block by block.
        signed: Whether the state has negative values.
        rounding: "nearest_even", ties to even; or "stochastic", right on average. float32 is never rounded.
        block_size: Neighbours in memory that share a scale.
    """
    if not isinstance(dtype, torch.dtype):
        return DynamicState(signed, rounding, block_size)
    if dtype in _EIGHT_BIT:
        return ScaledState(dtype, rounding, block_size)
    return CastState(dtype, "nearest_even" if dtype is torch.float32 else rounding)


@cache
def dynamic_map(*, signed: bool, device: torch.device | str = "cpu") -> Tensor:
    """Returns the 256 values of the 8-bit dynamic map in rising order, float32.

    Each decade [10^(i-7), 10^(i-6)], i = 0 to 6, is cut into 2^i equal parts (2^(i+1) without sign), whose middles are
    the values; 0 and 1 are added, and with sign the negative middles.
    """
    values = [0.0, 1.0]
    for i in range(7):
        edges = torch.linspace(0.1, 1, 2 ** (i + (not signed)) + 1)
        middles = (10 ** (i - 6) * ((edges[:-1] + edges[1:]) / 2)).tolist()
        values += middles + [-value for value in middles if signed]
    return torch.tensor(sorted(values), device=device)


def _nearest_code(scaled: Tensor, middles: Tensor, cells: Tensor) -> Tensor:
    """Returns the code of the nearest value of the dynamic map, int32.

    float32 is cut into cells by sign, exponent and 8 mantissa bits, none of which holds two middles between values: a
    table says how many middles lie below the cell, and one comparison whether the one within it does.
    """
    code = _at(cells, (scaled.view(torch.int32) >> 15) & 0x1FFFF)
    return code + (scaled > _at(middles, code))


def _at(table: Tensor, index: Tensor) -> Tensor:
    """Returns table[index], eagerly in a faster way; compiled, flat indices would keep loops over blocks apart."""
    if torch.compiler.is_compiling():
        return table[index]
    return table.index_select(0, index.view(-1)).view(index.shape)


@cache
def _cells(signed: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns the 255 middles between the map's values and infinity, and for each cell the middles below it."""
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
    """Returns 8-bit floats as float32, on a CPU several times as fast as its cast."""
    return _all_values(codes.dtype).index_select(0, codes.view(torch.uint8).int())


@cache
def _all_values(dtype: torch.dtype) -> Tensor:
    return torch.arange(256, dtype=torch.uint8).view(dtype).float()


def _blocked(flat: Tensor, block_size: int) -> Tensor:
    """Returns flat values as (blocks, block_size), the last one filled up with zeros; those in blocks as they are."""
    if flat.dim() == 2:
        return flat
    missing = -flat.numel() % block_size
    return (F.pad(flat, (0, missing)) if missing else flat).view(-1, block_size)


def _unblocked(blocks: Tensor, like: Tensor) -> Tensor:
    return blocks if like.dim() == 2 else blocks.view(-1)[: like.numel()]


def _block_scale(blocks: Tensor, largest: float) -> Tensor:
    """Returns amax / largest of each block, 1 where all is zero, NaN where something is not finite."""
    amax = blocks.abs().amax(1)
    scale = torch.where(amax > 0, amax / largest, 1.0)
    return torch.where(amax < torch.inf, scale, torch.nan)
