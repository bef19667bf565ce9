"""mixlab: an interactive lab on mixed-precision training.

>>> import torch
>>> from mixlab import round_to
>>> gradient = torch.tensor([3e-5, 1e-8])
>>> round_to(gradient, "fp16", overflow="inf")[1]
tensor(0.)
>>> round_to(gradient * 1024, "fp16", overflow="inf")[1] / 1024
tensor(1.0012e-08)
"""

from mixlab.emulation import arithmetic, autocast, cast_trace
from mixlab.experiments import dissect, dtype_ledger
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
    accumulate,
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
    ScaleWindow,
    StaticScaler,
    TorchPolicy,
    hunt,
    simulate,
)
from mixlab.machine import describe
from mixlab.memory import ModelStates, model_states
from mixlab.optimizers import SGD, Adam, AdamW, Storage
from mixlab.probes import (
    Fractions,
    Histogram,
    TensorStats,
    scale_window,
    tensor_stats,
    track,
    track_updates,
    usable_window,
)
from mixlab.recipes import PRESETS, Recipe
from mixlab.training import TASKS, Run, RunInfo, StepRecord, Task, Trainer, final, first_non_finite, load_task, outcome

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
    "SGD",
    "TASKS",
    "TF32",
    "Adam",
    "AdamW",
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
    "ScaleWindow",
    "StaticScaler",
    "StepRecord",
    "Storage",
    "Task",
    "TensorStats",
    "TorchPolicy",
    "Trainer",
    "accumulate",
    "arithmetic",
    "autocast",
    "cast_trace",
    "describe",
    "dissect",
    "dtype_ledger",
    "explain",
    "fake_quantize",
    "final",
    "first_non_finite",
    "hunt",
    "load_task",
    "model_states",
    "outcome",
    "quantize_blocks",
    "round_to",
    "round_with_stats",
    "scale_window",
    "simulate",
    "tensor_stats",
    "track",
    "track_updates",
    "usable_window",
]
