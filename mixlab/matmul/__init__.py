"""Matrix products: bytes moved, speed limits and rounding errors, predicted.

>>> from mixlab.matmul import Matmul, best_block, bytes_moved, roof_for
>>> product = Matmul(4096, 4096, 4096, "bf16", "bf16", out="bf16")
>>> block = best_block(product, 228 * 1024, depth=32)
>>> print(block, f"moves {bytes_moved(product, block).total_bytes:,} bytes")
228 x 216 x 32 moves 1,275,068,416 bytes
>>> roof_for(product, "h100-sxm").limit(product.arithmetic_intensity)
'compute'
"""

from mixlab.matmul.block_search import Depth, best_block, traffic_ratio
from mixlab.matmul.blocking import Block, Traffic, Walk, bytes_moved, fast_memory_bytes
from mixlab.matmul.counted import TRAFFIC_CASES, CountedProduct, count_traffic
from mixlab.matmul.dot_products import dot, sums_at
from mixlab.matmul.error_bounds import error_bound, gamma, operand_error_bound, probable_error_bound, probable_gamma
from mixlab.matmul.error_curves import ErrorGrowth, ErrorPoint, error_growth
from mixlab.matmul.halted_sums import SumLimits, sum_limits
from mixlab.matmul.levels import TwoLevels
from mixlab.matmul.lower_bounds import irony_bound_bytes, lower_bound_bytes
from mixlab.matmul.operand_samples import OPERAND_SAMPLES, OperandSample, operand_sample
from mixlab.matmul.padding import padded_flops, useful_share
from mixlab.matmul.products import Matmul
from mixlab.matmul.roofline import Roof, RooflinePoint, roof_for, roofs_of
from mixlab.matmul.simulator import BlockedProduct, FastMemory, blocked_matmul, whole_matrices
from mixlab.matmul.summations import Order, Products, Summation
from mixlab.matmul.tensor_cores import TENSOR_CORES, TensorCore, tensor_core
from mixlab.matmul.tile_moves import Move, count_products, moves

__all__ = [
    "OPERAND_SAMPLES",
    "TENSOR_CORES",
    "TRAFFIC_CASES",
    "Block",
    "BlockedProduct",
    "CountedProduct",
    "Depth",
    "ErrorGrowth",
    "ErrorPoint",
    "FastMemory",
    "Matmul",
    "Move",
    "OperandSample",
    "Order",
    "Products",
    "Roof",
    "RooflinePoint",
    "SumLimits",
    "Summation",
    "TensorCore",
    "Traffic",
    "TwoLevels",
    "Walk",
    "best_block",
    "blocked_matmul",
    "bytes_moved",
    "count_products",
    "count_traffic",
    "dot",
    "error_bound",
    "error_growth",
    "fast_memory_bytes",
    "gamma",
    "irony_bound_bytes",
    "lower_bound_bytes",
    "moves",
    "operand_error_bound",
    "operand_sample",
    "padded_flops",
    "probable_error_bound",
    "probable_gamma",
    "roof_for",
    "roofs_of",
    "sum_limits",
    "sums_at",
    "tensor_core",
    "traffic_ratio",
    "useful_share",
    "whole_matrices",
]
