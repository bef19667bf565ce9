"""mixlab: an interactive lab on mixed-precision training.

>>> import torch
>>> from mixlab import round_to
>>> gradient = torch.tensor([3e-5, 1e-8])
>>> round_to(gradient, "fp16", overflow="inf")[1]
tensor(0.)
>>> round_to(gradient * 1024, "fp16", overflow="inf")[1] / 1024
tensor(1.0012e-08)
"""

from mixlab.emulation import arithmetic, autocast
from mixlab.formats import (
    BF16,
    BLOCK_FORMATS,
    E4M3FN,
    E5M2,
    FORMATS,
    FP16,
    FP32,
    TF32,
    BlockFormat,
    BlockTensor,
    Code,
    Explanation,
    Format,
    RoundingStats,
    explain,
    fake_quantize,
    quantize_blocks,
    round_to,
    round_with_stats,
)
from mixlab.loss_scaling import (
    ApexPolicy,
    DeepSpeedPolicy,
    DynamicScaler,
    MegatronPolicy,
    NoScaler,
    StaticScaler,
    TorchPolicy,
    hunt,
    simulate,
)
from mixlab.memory import ModelStates, model_states
from mixlab.probes import Fractions, Histogram, TensorStats, tensor_stats, track, track_updates, usable_window
from mixlab.recipes import PRESETS, Recipe
from mixlab.training import TASKS, Run, RunInfo, StepRecord, Task, Trainer, load_task, outcome

__version__ = "0.1.0"

__all__ = [
    "BF16",
    "BLOCK_FORMATS",
    "E4M3FN",
    "E5M2",
    "FORMATS",
    "FP16",
    "FP32",
    "PRESETS",
    "TASKS",
    "TF32",
    "ApexPolicy",
    "BlockFormat",
    "BlockTensor",
    "Code",
    "DeepSpeedPolicy",
    "DynamicScaler",
    "Explanation",
    "Format",
    "Fractions",
    "Histogram",
    "MegatronPolicy",
    "ModelStates",
    "NoScaler",
    "Recipe",
    "RoundingStats",
    "Run",
    "RunInfo",
    "StaticScaler",
    "StepRecord",
    "Task",
    "TensorStats",
    "TorchPolicy",
    "Trainer",
    "arithmetic",
    "autocast",
    "explain",
    "fake_quantize",
    "hunt",
    "load_task",
    "model_states",
    "outcome",
    "quantize_blocks",
    "round_to",
    "round_with_stats",
    "simulate",
    "tensor_stats",
    "track",
    "track_updates",
    "usable_window",
]
