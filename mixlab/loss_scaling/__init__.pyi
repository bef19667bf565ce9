from .game import Game, Result, Score, all_policies
from .policies import (
    ApexPolicy,
    DeepSpeedPolicy,
    MegatronPolicy,
    MinimumScaleError,
    OnOverflow,
    ScalePolicy,
    ScaleState,
    TorchPolicy,
)
from .scalers import DynamicScaler, NoScaler, Scaler, StaticScaler
from .simulation import ScaleHistory, hunt, simulate
from .windows import ScaleWindow

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
