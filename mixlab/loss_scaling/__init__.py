"""Loss scalers, and the policies that move a loss scale in torch, apex, Megatron and DeepSpeed."""

from mixlab.loss_scaling.checked_steps import OnOverflow
from mixlab.loss_scaling.game import Game, Result, Score, all_policies
from mixlab.loss_scaling.policies import (
    ApexPolicy,
    DeepSpeedPolicy,
    MegatronPolicy,
    MinimumScaleError,
    ScalePolicy,
    ScaleState,
    TorchPolicy,
)
from mixlab.loss_scaling.scalers import DynamicScaler, NoScaler, Scaler, StaticScaler
from mixlab.loss_scaling.simulation import ScaleHistory, hunt, simulate
from mixlab.loss_scaling.windows import ScaleWindow

__all__ = [
    "ApexPolicy",
    "DeepSpeedPolicy",
    "DynamicScaler",
    "Game",
    "MegatronPolicy",
    "MinimumScaleError",
    "NoScaler",
    "OnOverflow",
    "Result",
    "ScaleHistory",
    "ScalePolicy",
    "ScaleState",
    "ScaleWindow",
    "Scaler",
    "Score",
    "StaticScaler",
    "TorchPolicy",
    "all_policies",
    "hunt",
    "simulate",
]
