from .accumulation import accumulate
from .blocks import BLOCK_FORMATS, BlockFormat, BlockTensor, ScaleRule, quantize_blocks
from .choices import Overflow, Rounding
from .encoding import Code, Specials
from .explanation import Explanation, explain
from .fake_quantization import fake_quantize
from .format import (
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
from .rounding import round_to
from .rounding_stats import RoundingStats, round_with_stats

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
