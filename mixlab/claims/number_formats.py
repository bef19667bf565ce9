"""Claims about number formats: bits, bytes, range and precision."""

from __future__ import annotations

import math
from functools import partial

import torch

from mixlab.claims.sources import IEEE
from mixlab.claims.verdicts import Claim, Finding, Verdict
from mixlab.formats import BF16, FP16, FP32, Format
from mixlab.powers import power

_DTYPES = {FP32: torch.float32, FP16: torch.float16, BF16: torch.bfloat16}


def _bytes_each() -> Finding:
    said = {torch.float32: 4, torch.float16: 2, torch.bfloat16: 2, torch.float8_e4m3fn: 1, torch.float8_e5m2: 1}
    sizes = {dtype: torch.empty(1, dtype=dtype).element_size() for dtype in said}
    shown = ", ".join(f"{str(dtype).removeprefix('torch.')} {size}" for dtype, size in sizes.items())
    return Finding.of((sizes[dtype] == size for dtype, size in said.items()), f"Bytes of one element: {shown}.")


def _bits() -> Finding:
    said = {FP32: (8, 23), FP16: (5, 10), BF16: (8, 7)}
    seen = {}
    for fmt, dtype in _DTYPES.items():
        info = torch.finfo(dtype)
        mantissa = -round(math.log2(info.eps))
        seen[fmt] = (info.bits - 1 - mantissa, mantissa)
    shown = ", ".join(f"{fmt} {exponent} + {mantissa}" for fmt, (exponent, mantissa) in seen.items())
    return Finding.of(
        (seen[fmt] == bits for fmt, bits in said.items()), f"From torch.finfo, exponent + mantissa: {shown}."
    )


def _value_formula() -> Finding:
    codes = torch.arange(1 << 16, dtype=torch.int32)
    values = codes.to(torch.int16).view(torch.float16).double()
    sign, exponent, fraction = codes >> 15, (codes >> 10) & 31, codes & 1023
    leading = (exponent > 0).double()  # a subnormal number has 0.fraction and the smallest exponent
    mantissa = leading + fraction / 1024
    formula = (-1.0) ** sign * mantissa * 2.0 ** (exponent.clamp(min=1) - 15)
    finite = values.isfinite()
    equal = formula[finite] == values[finite]
    shown = (
        f"Of 65,536 codes of fp16, {int(equal.sum()):,} equal the formula; the other "
        f"{int((~finite).sum()):,} are inf and NaN."
    )
    return Finding.of([bool(equal.all())], shown)


def _same_range() -> Finding:
    largest = torch.finfo(torch.bfloat16).max / torch.finfo(torch.float32).max
    cases = [
        largest > 0.99,
        torch.finfo(torch.bfloat16).tiny == torch.finfo(torch.float32).tiny,
        BF16.smallest_subnormal <= FP32.smallest_subnormal,
    ]
    shown = (
        f"The largest values differ by {1 - largest:.1%}, the smallest normal ones are equal; subnormal values "
        "go down to "
        f"{BF16.smallest_subnormal:.2g} in bf16 and to {FP32.smallest_subnormal:.2g} in fp32."
    )
    return Finding.of(cases, shown)


def _limit(fmt: Format, name: str, said: str) -> Finding:
    """Holds if the true limit, rounded to as many digits as the text shows, is what it says."""
    info = torch.finfo(_DTYPES[fmt])
    true = {"max": info.max, "smallest_normal": info.tiny, "eps": info.eps}[name]
    digits = len(said.split("e")[0].replace(".", ""))
    rounded = float(f"{true:.{digits - 1}e}")
    return Finding.of(
        [rounded == float(said)], f"torch.finfo({str(_DTYPES[fmt]).removeprefix('torch.')}) says {true:.6g}."
    )


def _precision_definition() -> Finding:
    """Takes the definition at its word, with the next value below x1, and with the next value above."""
    lowest, below, above = float(torch.finfo(torch.float16).min), FP16.next_down(1.0), FP16.next_up(1.0)
    shown = (
        f"For x1 = 1 in fp16, the smallest value below is {lowest:g}, the next one below gives "
        f"{1 - below:.3g}, and the "
        f"next one above {above - 1:.3g}, which is eps."
    )
    return Finding.of([abs(lowest - 1) == FP16.eps, 1 - below == FP16.eps], shown)


def _row(fmt: Format, name: str, said: str, words: str, correct: str = "") -> Claim:
    key = f"{fmt}-{name.replace('_', '-')}"
    verdict = Verdict.DOES_NOT_HOLD if correct else Verdict.HOLDS
    theory = {
        "max": f"The largest value is (2 - {power(-fmt.mantissa_bits)}) × {power(fmt.max_exponent)}. {IEEE}",
        "smallest_normal": f"The smallest normal value is {power(fmt.min_exponent)}. {IEEE}",
        "eps": f"The gap above 1 is {power(-fmt.mantissa_bits)}; rounding to nearest errs by at most half. {IEEE}",
    }[name]
    return Claim(key, words, "Appendix", theory, verdict, correct, partial(_limit, fmt, name, said))


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "bytes-per-number",
        "fp32 requires 4 bytes per parameter, fp16 and bf16 2 bytes, fp8 1 byte.",
        "1. What problem is it solving?",
        f"32, 16 and 8 bits; a byte has 8. {IEEE}",
        Verdict.HOLDS,
        "",
        _bytes_each,
    ),
    Claim(
        "exponent-and-mantissa-bits",
        "fp32 has 8 exponent and 23 mantissa bits, fp16 5 and 10, bf16 8 and 7.",
        "3. Mathematical explanation and advantages",
        f"One bit is the sign; the leading bit of the mantissa is not stored. {IEEE}",
        Verdict.HOLDS,
        "",
        _bits,
    ),
    Claim(
        "value-formula",
        "A number is V = (-1)ˢ × M × 2ᴱ.",
        "3. Mathematical explanation and advantages",
        "Every finite code is such a product; for a subnormal number M is below 1. IEEE 754-2019.",
        Verdict.HOLDS,
        "",
        _value_formula,
    ),
    Claim(
        "bf16-range",
        "bf16 can represent the same range of very large and very small numbers as fp32.",
        "3. Mathematical explanation and advantages",
        "Both have 8 exponent bits. The mantissa decides where the largest value and the smallest subnormal one lie.",
        Verdict.HOLDS_IF,
        "if only normal values count: subnormal ones end at 9.2e-41 in bf16 and at 1.4e-45 in fp32",
        _same_range,
    ),
    _row(FP32, "eps", "1e-7", "fp32: relative precision 1e-7."),
    _row(FP32, "max", "3e38", "fp32: largest value 3e38."),
    _row(FP32, "smallest_normal", "1.7e-38", "fp32: smallest normal value 1.7e-38.", "1.18e-38, which is 2⁻¹²⁶"),
    _row(FP16, "eps", "1e-4", "fp16: relative precision 1e-4.", "9.8e-4, which is 2⁻¹⁰: ten times as coarse"),
    _row(FP16, "max", "65504", "fp16: largest value 65504."),
    _row(FP16, "smallest_normal", "6e-5", "fp16: smallest normal value 6e-5."),
    _row(BF16, "eps", "7.8e-3", "bf16: relative precision 7.8e-3."),
    _row(BF16, "max", "3e38", "bf16: largest value 3e38."),
    _row(
        BF16,
        "smallest_normal",
        "1.7e-38",
        "bf16: smallest normal value 1.7e-38.",
        "1.18e-38, which is 2⁻¹²⁶, as in fp32",
    ),
    Claim(
        "precision-definition",
        "The relative precision is (x2 - x1) / x1, where x2 is the smallest value x2 < x1.",
        "Appendix",
        "The smallest value below x1 is the most negative one. What is meant is the next value above x1.",
        Verdict.DOES_NOT_HOLD,
        "x2 is the smallest value above x1, and x1 a power of two such as 1; elsewhere it lies between eps / 2 and eps",
        _precision_definition,
    ),
)
