"""Pure functions from data to plotly figures; they show nothing and write no files."""

from mixlab.figures.allocations import timeline
from mixlab.figures.casts import cast_map
from mixlab.figures.error_growth import error_lines
from mixlab.figures.formats import accumulation_error, dynamic_range_and_precision, number_line
from mixlab.figures.gradients import gradient_histogram
from mixlab.figures.ledgers import ledger_bars
from mixlab.figures.loss_scaling import scale_histories
from mixlab.figures.machine import format_limits, matmul_speed_dots
from mixlab.figures.memory import batch_lines, phase_bars, state_bars
from mixlab.figures.padding import useful_shares
from mixlab.figures.rooflines import roofline
from mixlab.figures.storage_grid import moment_map, weight_map
from mixlab.figures.training import training_curves, underflow_map
from mixlab.figures.updates import swallowed_bars, update_sizes

__all__ = [
    "accumulation_error",
    "batch_lines",
    "cast_map",
    "dynamic_range_and_precision",
    "error_lines",
    "format_limits",
    "gradient_histogram",
    "ledger_bars",
    "matmul_speed_dots",
    "moment_map",
    "number_line",
    "phase_bars",
    "roofline",
    "scale_histories",
    "state_bars",
    "swallowed_bars",
    "timeline",
    "training_curves",
    "underflow_map",
    "update_sizes",
    "useful_shares",
    "weight_map",
]
