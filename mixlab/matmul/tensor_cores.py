"""How tensor cores add: groups of products, aligned to the largest exponent, cut, and summed in fixed point.

NVIDIA documents none of this. The numbers below are what others found by experiment.

One step takes a running sum c and `group` exact products. Their exponents are compared, where a product's exponent is
the sum of its operands' exponents, and c's is its own. Every term is cut, toward zero, to `fraction_bits` bits after
the point of the largest exponent. What is left is added exactly, and cut to float32's 23 bits, which gives the next c.
So every cut makes a term or a sum smaller in magnitude, and products far below c are lost, however many there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mixlab.arguments import did_you_mean, require_whole
from mixlab.formats import FP32, Format
from mixlab.matmul.rounded_sums import Floats, Integers, rounded


@dataclass(frozen=True)
class TensorCore:
    """The sum of products on a tensor core with a float32 result.

    Args:
        name: What it is called.
        group: How many products one step adds to the running sum.
        fraction_bits: How many bits after the point of the largest exponent every term keeps.

    Raises:
        ValueError: If a number is not a whole number from 1 up, or `fraction_bits` is above 40.
    """

    name: str
    group: int
    fraction_bits: int

    def __post_init__(self) -> None:
        require_whole("TensorCore: group", self.group, 1, 1024)
        require_whole("TensorCore: fraction_bits", self.fraction_bits, 1, 40)

    def __str__(self) -> str:
        return f"{self.name} tensor core"


# Of each GPU and operand format: products in a group, and bits kept. Khattak and Mikaitis, Accurate Models of NVIDIA
# Tensor Cores, 2025, and the MATLAB models published with it, which by their account agree with the GPUs bit for bit on
# random inputs. The groups of V100 and A100, and the cut toward zero, are in Fasi, Higham, Mikaitis and Pranesh,
# Numerical behavior of NVIDIA tensor cores, 2021. DeepSeek-AI, DeepSeek-V3 Technical Report, 2024, says of Hopper's fp8
# that only the highest 14 bits of a product are used, which is 13 after the point, and that the sums have 14 bits too;
# in the MATLAB models, and here, the last sum may keep a few more. The group may depend on the instruction.
_GROUPS_AND_BITS: dict[str, dict[str, tuple[int, int]]] = {
    "v100": {"fp16": (4, 23)},
    "a100": {"fp16": (8, 24), "bf16": (8, 24), "tf32": (4, 24)},
    "h100": {"fp16": (16, 25), "bf16": (16, 25), "tf32": (8, 25), "e4m3fn": (32, 13), "e5m2": (32, 13)},
    "b200": {"fp16": (16, 25), "bf16": (16, 25), "tf32": (8, 25), "e4m3fn": (32, 25), "e5m2": (32, 25)},
}
TENSOR_CORES: tuple[str, ...] = tuple(_GROUPS_AND_BITS)


def tensor_core(gpu: str, operands: Format | str) -> TensorCore:
    """Returns how a GPU's tensor cores sum products of a format into float32, as found by experiment.

    The numbers are those of Khattak and Mikaitis, Accurate Models of NVIDIA Tensor Cores, 2025, and of the models
    published with it. They hold for operands and sums that are not subnormal in float32.

    >>> tensor_core("h100", "e4m3fn")
    TensorCore(name='h100', group=32, fraction_bits=13)

    Args:
        gpu: One of `TENSOR_CORES`.
        operands: The format of the operands, or its name.

    Raises:
        TypeError: If `operands` is not a format.
        ValueError: If the GPU is unknown, or has no entry for the format.
    """
    if not isinstance(gpu, str) or gpu not in _GROUPS_AND_BITS:
        near = did_you_mean(gpu, TENSOR_CORES)
        raise ValueError(f"unknown tensor core {gpu!r:.60}: {near}use one of {', '.join(TENSOR_CORES)}")
    operands = Format.of(operands)
    known = {Format.of(name): numbers for name, numbers in _GROUPS_AND_BITS[gpu].items()}
    if operands not in known:
        names = ", ".join(_GROUPS_AND_BITS[gpu])
        raise ValueError(f"tensor_core: nothing is known of {operands} on a {gpu}; use one of {names}")
    return TensorCore(gpu, *known[operands])


def aligned_sums(x: Floats, y: Floats, start: Floats, operands: Format, core: TensorCore) -> Floats:
    """Returns sums of products as a tensor core forms them.

    NaN and inf follow IEEE 754. A sum beyond float32's largest value becomes that value, as a cut does.

    Args:
        x, y: The operands, (n, lanes), values of `operands`; n is a multiple of the group.
        start: The running sums, (lanes,), values of float32.
        operands: Their format, whose products are exact in float64.
        core: How the core groups and cuts.

    Returns:
        The sums before the first step and after each, (n / group + 1, lanes).
    """
    lanes = x.shape[1]
    sums = np.empty((len(x) // core.group + 1, lanes))
    sums[0] = start
    with np.errstate(all="ignore"):
        products = (x * y).reshape(-1, core.group, lanes)
    alive = (x != 0) & (y != 0)
    scales = np.where(alive, _exponent(x, operands) + _exponent(y, operands), _LOWEST)
    largest = scales.reshape(-1, core.group, lanes).max(1)  # of each group
    with np.errstate(all="ignore"):
        for step, group in enumerate(products):
            before = sums[step]
            own = np.where(before == 0, _LOWEST, _exponent(before, FP32))
            last = np.ldexp(1.0, np.maximum(own, largest[step]) - core.fraction_bits)  # the last bit kept
            total = np.trunc(before / last) + np.trunc(group / last).sum(0)
            cut = rounded(total * last, FP32, "toward_zero")
            plain = before + group.sum(0)
            sums[step + 1] = np.where(np.isfinite(plain), cut, plain)
    return sums


_LOWEST = -400  # below every exponent of a product


def _exponent(values: Floats, fmt: Format) -> Integers:
    """Returns the exponents of values of a format; subnormal ones have that of the smallest normal value."""
    finite = np.where(np.isfinite(values), values, 1.0)
    exponents: Integers = np.maximum(np.frexp(finite)[1] - 1, fmt.min_exponent)
    return exponents
