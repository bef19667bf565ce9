"""Number formats, and tensors rounded to them bit for bit."""

from mixlab.formats.accumulation import accumulate
from mixlab.formats.blocks import BLOCK_FORMATS, BlockFormat, BlockTensor, ScaleRule, quantize_blocks
from mixlab.formats.encoding import Code, Specials
from mixlab.formats.explanation import Explanation, explain
from mixlab.formats.fake_quantization import fake_quantize
from mixlab.formats.format import (
    BF16,
    E2M1FN,
    E2M3FN,
    E3M2FN,
    E4M3FN,
    E4M3FNUZ,
    E5M2,
    E5M2FNUZ,
    E8M0FNU,
    FORMATS,
    FP16,
    FP32,
    FP64,
    TF32,
    Format,
    dtype_name,
)
from mixlab.formats.rounding import round_to
from mixlab.formats.rounding_rules import Overflow, Rounding
from mixlab.formats.rounding_stats import RoundingStats, round_with_stats

__all__ = [
    "BF16",
    "BLOCK_FORMATS",
    "E2M1FN",
    "E2M3FN",
    "E3M2FN",
    "E4M3FN",
    "E4M3FNUZ",
    "E5M2",
    "E5M2FNUZ",
    "E8M0FNU",
    "FORMATS",
    "FP16",
    "FP32",
    "FP64",
    "TF32",
    "BlockFormat",
    "BlockTensor",
    "Code",
    "Explanation",
    "Format",
    "Overflow",
    "Rounding",
    "RoundingStats",
    "ScaleRule",
    "Specials",
    "accumulate",
    "dtype_name",
    "explain",
    "fake_quantize",
    "quantize_blocks",
    "round_to",
    "round_with_stats",
]
