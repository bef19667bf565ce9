"""Experiments on small trainings: one step taken apart, one weight, storage formats side by side, common mistakes."""

from mixlab.experiments import mistakes
from mixlab.experiments.ledger import Ledger, dtype_ledger
from mixlab.experiments.one_step import Card, Stage, dissect, median_element
from mixlab.experiments.one_weight import Recording, Trajectory, follow_weight, record_gradients
from mixlab.experiments.predicted_windows import predict_settled, predict_windows, static_window
from mixlab.experiments.storage_grid import GridSetting, final_loss, moment_settings, spiked_steps, weight_settings
from mixlab.experiments.training_modes import ModeResult, measure_modes
from mixlab.experiments.watching import WatchedStep, watched_steps

__all__ = [
    "Card",
    "GridSetting",
    "Ledger",
    "ModeResult",
    "Recording",
    "Stage",
    "Trajectory",
    "WatchedStep",
    "dissect",
    "dtype_ledger",
    "final_loss",
    "follow_weight",
    "measure_modes",
    "median_element",
    "mistakes",
    "moment_settings",
    "predict_settled",
    "predict_windows",
    "record_gradients",
    "spiked_steps",
    "static_window",
    "watched_steps",
    "weight_settings",
]
