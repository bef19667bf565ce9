"""What `mixlab measure matmul` measures: products, memory-bound ops beside them, and the bytes that each moves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mixlab.measure.requests import parsed_shape

# Formats of operands by name: what they are stored in, and what products are stored in. int8 sums are int32.
STORED: dict[str, tuple[torch.dtype, torch.dtype]] = {
    "fp32": (torch.float32, torch.float32),
    "tf32": (torch.float32, torch.float32),
    "fp16": (torch.float16, torch.float16),
    "bf16": (torch.bfloat16, torch.bfloat16),
    "e4m3fn": (torch.float8_e4m3fn, torch.bfloat16),
    "int8": (torch.int8, torch.int32),
}
_ELEMENTWISE_FORMATS = ("fp32", "fp16", "bf16")
_WIDTH = 4096  # of the rows that softmax and layer_norm work on, if it divides the elements


@dataclass(frozen=True)
class Operands:
    """The tensors that a case computes with, flat; a case takes views of their beginnings.

    Attributes:
        x, y: Inputs.
        out: Where the result goes.
    """

    x: Tensor
    y: Tensor
    out: Tensor


@dataclass(frozen=True)
class ProductCase:
    """A product of an (m, k) matrix by the transpose of an (n, k) one, as by the weight of `nn.Linear`; or a batch.

    Attributes:
        format: A name of `STORED`.
        m, n, k: Sizes of each product.
        batch: Products in the batch; 0 for one product that is no batch.
    """

    format: str
    m: int
    n: int
    k: int
    batch: int = 0

    unit = "GFLOP/s"

    @property
    def name(self) -> str:
        """Name of its series, such as "bf16 1024x1024x1024"."""
        sizes = (self.batch, self.m, self.n, self.k) if self.batch else (self.m, self.n, self.k)
        return f"{self.format} {'x'.join(map(str, sizes))}"

    @property
    def flops(self) -> int:
        """A multiplication and an addition per term."""
        return 2 * max(self.batch, 1) * self.m * self.n * self.k

    @property
    def numels(self) -> tuple[int, int, int]:
        """Elements of x, y and out."""
        count = max(self.batch, 1)
        return count * self.m * self.k, count * self.n * self.k, count * self.m * self.n

    @property
    def read_bytes(self) -> int:
        """Bytes of both operands, each once."""
        return (self.numels[0] + self.numels[1]) * STORED[self.format][0].itemsize

    @property
    def written_bytes(self) -> int:
        """Bytes of the product."""
        return self.numels[2] * STORED[self.format][1].itemsize

    @property
    def work(self) -> float:
        """What the unit counts, in billions: GFLOP."""
        return self.flops / 1e9

    def call(self, operands: Operands) -> Callable[[], object]:
        """Returns a function that computes the product once.

        Args:
            operands: Tensors in the case's format that are large enough.
        """
        lead = (self.batch,) if self.batch else ()
        a, b, c = (
            flat[: math.prod(shape)].view(shape)
            for flat, shape in (
                (operands.x, (*lead, self.m, self.k)),
                (operands.y, (*lead, self.n, self.k)),
                (operands.out, (*lead, self.m, self.n)),
            )
        )
        transposed = b.mT
        if self.format == "e4m3fn":
            one = torch.ones((), device=a.device)
            return lambda: torch._scaled_mm(a, transposed, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
        if self.format == "int8":
            return lambda: torch._int_mm(a, transposed, out=c)
        return lambda: torch.matmul(a, transposed, out=c)


@dataclass(frozen=True)
class OpCase:
    """An op that computes little for each byte that it moves.

    Attributes:
        op: A name of `OPS`.
        format: "fp32", "fp16" or "bf16".
        numel: Elements of each tensor.
        label: Name of its series; "" for op, format and elements.
    """

    op: str
    format: str
    numel: int
    label: str = ""

    unit = "GB/s"
    flops = 0

    @property
    def name(self) -> str:
        """Name of its series, such as "gelu bf16 16777216"."""
        return self.label or f"{self.op} {self.format} {self.numel}"

    @property
    def numels(self) -> tuple[int, int, int]:
        """Elements of x, y and out."""
        reads, writes, _ = OPS[self.op]
        return self.numel, self.numel if reads > 1 else 0, self.numel if writes or reads == 0 else 0

    @property
    def read_bytes(self) -> int:
        """Bytes read, each input once."""
        return OPS[self.op][0] * self.numel * STORED[self.format][0].itemsize

    @property
    def written_bytes(self) -> int:
        """Bytes of the result."""
        return OPS[self.op][1] * self.numel * STORED[self.format][0].itemsize

    @property
    def work(self) -> float:
        """What the unit counts, in billions: GB read and written."""
        return (self.read_bytes + self.written_bytes) / 1e9

    def call(self, operands: Operands) -> Callable[[], object]:
        """Returns a function that runs the op once.

        Args:
            operands: Tensors in the case's format that are large enough.
        """
        return OPS[self.op][2](operands.x[: self.numel], operands.y[: self.numel], operands.out[: self.numel])


Case = ProductCase | OpCase


def _rows(flat: Tensor) -> Tensor:
    return flat.view(-1, math.gcd(flat.numel(), _WIDTH))


# By name: inputs, outputs, and how to make the call. Reading and writing alone are measured in fp32: `torch.dot` and
# `fill_`; a kernel for other formats may be bound by its conversions.
OPS: dict[str, tuple[int, int, Callable[[Tensor, Tensor, Tensor], Callable[[], object]]]] = {
    "read": (2, 0, lambda x, y, _out: lambda: torch.dot(x, y)),
    "write": (0, 1, lambda _x, _y, out: lambda: out.fill_(1.0)),
    "copy": (1, 1, lambda x, _y, out: lambda: out.copy_(x)),
    "add": (2, 1, lambda x, y, out: lambda: torch.add(x, y, out=out)),
    "mul": (2, 1, lambda x, y, out: lambda: torch.mul(x, y, out=out)),
    "gelu": (1, 1, lambda x, _y, out: lambda: torch.ops.aten.gelu.out(x, out=out)),
    "softmax": (
        1,
        1,
        lambda x, _y, out: lambda: torch.softmax(_rows(x), -1, out=_rows(out)),
    ),
    "layer_norm": (1, 1, lambda x, _y, _out: lambda: F.layer_norm(_rows(x), _rows(x).shape[1:])),  # it takes no out=
}
BANDWIDTHS = ("read", "write", "copy")


def default_shapes(kind: str, numel: int) -> tuple[str, ...]:
    """Returns square, odd, skinny, long-summed and batched shapes.

    Args:
        kind: "cpu" or "cuda".
        numel: Elements of the weight of the skinny products: too many for any cache.
    """
    long = 8192 if numel >= 1 << 24 else 512
    skinny = [f"{rows}x{numel // long}x{long}" for rows in (1, 16)]
    if kind == "cuda":
        squares, odd, others = (1024, 2048, 4096, 8192), (4095, 4097), ["512x512x131072", "64x1024x1024x1024"]
    else:
        squares, odd, others = (512, 1024, 2048, 4096), (1023, 1025), ["256x256x65536", "32x256x256x256"]
    batched = ["96x1024x1024x64" if kind == "cuda" else "96x128x128x64"]
    return (*(f"{side}x{side}x{side}" for side in (*squares, *odd)), *skinny, *others, *batched)


def all_cases(formats: Sequence[str], shapes: Sequence[str], numel: int) -> Iterator[Case]:
    """Yields the cases in the order in which a round takes them: bandwidths first, then by format.

    Args:
        formats: Names of `STORED`.
        shapes: As `parsed_shape` takes them.
        numel: Elements of the tensors of element-wise ops.
    """
    for op in BANDWIDTHS:
        yield OpCase(op, "fp32", numel, op)
    for fmt in formats:
        for shape in dict.fromkeys(shapes):
            batch, m, n, k = parsed_shape(shape)
            yield ProductCase(fmt, m, n, k, batch)
        if fmt in _ELEMENTWISE_FORMATS:
            for op in OPS:
                if op not in ("read", "write"):
                    yield OpCase(op, fmt, numel)
