"""Tables, HTML and SVG of what was trained, measured and predicted, without plotly."""

from mixlab.reports.colours import BLUE, DASHES, GREEN, GREY, ORANGE, PURPLE, SERIES, SKY, VERMILLION
from mixlab.reports.columns import curves, series_style, trajectory_columns, watched_columns
from mixlab.reports.fits import FitsTable, fits_line, fits_row
from mixlab.reports.gradients import status_line
from mixlab.reports.kinds import css, look, stacked
from mixlab.reports.magnitudes import limits_line, loss_line, magnitudes_svg
from mixlab.reports.modes import ModeTable
from mixlab.reports.numbers import power_of_two
from mixlab.reports.one_step import stage_line, stage_page
from mixlab.reports.optimizers import OptimizerTable
from mixlab.reports.phases import change_line, memory_line, phase_picture, phase_table
from mixlab.reports.recorded import EmulationTable, MemoryTable, TrainingTable
from mixlab.reports.training import ComparisonTable, diverged, progress_line

__all__ = [
    "BLUE",
    "DASHES",
    "GREEN",
    "GREY",
    "ORANGE",
    "PURPLE",
    "SERIES",
    "SKY",
    "VERMILLION",
    "ComparisonTable",
    "EmulationTable",
    "FitsTable",
    "MemoryTable",
    "ModeTable",
    "OptimizerTable",
    "TrainingTable",
    "change_line",
    "css",
    "curves",
    "diverged",
    "fits_line",
    "fits_row",
    "limits_line",
    "look",
    "loss_line",
    "magnitudes_svg",
    "memory_line",
    "phase_picture",
    "phase_table",
    "power_of_two",
    "progress_line",
    "series_style",
    "stacked",
    "stage_line",
    "stage_page",
    "status_line",
    "trajectory_columns",
    "watched_columns",
]
