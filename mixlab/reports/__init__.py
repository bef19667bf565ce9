"""Trainings, measurements and predictions as tables, words, HTML and SVG, without plotly."""

from mixlab.powers import power, power_of_two
from mixlab.reports.casts import CastTable
from mixlab.reports.claims import ClaimsTable, claim_html, claim_lines, claims_markdown, recorded_words, verdict_line
from mixlab.reports.fits import FitsTable, fits_line, fits_row
from mixlab.reports.glossary import GlossaryTable
from mixlab.reports.gradients import status_line
from mixlab.reports.magnitudes import limits_line, loss_line, magnitudes_svg
from mixlab.reports.modes import ModeTable
from mixlab.reports.one_step import stage_line, stage_page
from mixlab.reports.optimizers import OptimizerTable
from mixlab.reports.outlook import Outlook, memory_words, refusal, scale_words
from mixlab.reports.phases import change_line, count_words, memory_line, parameter_words, phase_picture, phase_table
from mixlab.reports.recorded import ComparedRecordsTable, EmulationTable, MatmulTable, MemoryTable, TrainingTable
from mixlab.reports.traffic import TrafficTable
from mixlab.reports.training import ComparisonTable, diverged, progress_line
from mixlab.reports.windows import WindowsTable

__all__ = [
    "CastTable",
    "ClaimsTable",
    "ComparedRecordsTable",
    "ComparisonTable",
    "EmulationTable",
    "FitsTable",
    "GlossaryTable",
    "MatmulTable",
    "MemoryTable",
    "ModeTable",
    "OptimizerTable",
    "Outlook",
    "TrafficTable",
    "TrainingTable",
    "WindowsTable",
    "change_line",
    "claim_html",
    "claim_lines",
    "claims_markdown",
    "count_words",
    "diverged",
    "fits_line",
    "fits_row",
    "limits_line",
    "loss_line",
    "magnitudes_svg",
    "memory_line",
    "memory_words",
    "parameter_words",
    "phase_picture",
    "phase_table",
    "power",
    "power_of_two",
    "progress_line",
    "recorded_words",
    "refusal",
    "scale_words",
    "stage_line",
    "stage_page",
    "status_line",
    "verdict_line",
]
