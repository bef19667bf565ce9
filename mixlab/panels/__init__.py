"""Panels for a notebook: widgets around reports and trainings. They hold no mathematics and no training code."""

from mixlab.panels.bit_explorer import BitExplorer
from mixlab.panels.claim_quiz import ClaimQuiz
from mixlab.panels.cockpit import Cockpit
from mixlab.panels.exercises import Exercise, Prediction
from mixlab.panels.float_designer import FloatDesigner
from mixlab.panels.lab import Lab
from mixlab.panels.loss_scale import LossScalePanel
from mixlab.panels.memory import MemoryPanel
from mixlab.panels.one_weight import Microscope
from mixlab.panels.progress import fraction_line, with_progress
from mixlab.panels.recipe_controls import RecipeControls
from mixlab.panels.scaler_board import ScalerBoard
from mixlab.panels.scaling_game import ScalingGame
from mixlab.panels.state_controls import StateControls
from mixlab.panels.state_training import StateTraining
from mixlab.panels.step_through import StepThrough
from mixlab.panels.tile_walk import TileWalk

__all__ = [
    "BitExplorer",
    "ClaimQuiz",
    "Cockpit",
    "Exercise",
    "FloatDesigner",
    "Lab",
    "LossScalePanel",
    "MemoryPanel",
    "Microscope",
    "Prediction",
    "RecipeControls",
    "ScalerBoard",
    "ScalingGame",
    "StateControls",
    "StateTraining",
    "StepThrough",
    "TileWalk",
    "fraction_line",
    "with_progress",
]
