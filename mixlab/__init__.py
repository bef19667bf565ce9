"""mixlab: an interactive lab on mixed-precision training.

>>> import torch
>>> from mixlab import round_to
>>> gradient = torch.tensor([3e-5, 1e-8])
>>> round_to(gradient, "fp16", overflow="inf")[1]
tensor(0.)
>>> round_to(gradient * 1024, "fp16", overflow="inf")[1] / 1024
tensor(1.0012e-08)
"""

from mixlab.blocks import BLOCK_FORMATS, BlockFormat, BlockTensor, quantize_blocks
from mixlab.emulation import arithmetic, autocast
from mixlab.explain import Explanation, explain
from mixlab.fake_quantize import fake_quantize
from mixlab.formats import BF16, E4M3FN, E5M2, FORMATS, FP16, FP32, TF32, Code, Format
from mixlab.histograms import Fractions, Histogram
from mixlab.memory.model_states import ModelStates, model_states
from mixlab.probes import TensorStats, tensor_stats, track, usable_window
from mixlab.recipes import PRESETS, Recipe
from mixlab.rounding import round_to
from mixlab.rounding_stats import RoundingStats, round_with_stats
from mixlab.runs import Run, RunInfo, outcome
from mixlab.scale_policies import ApexPolicy, DeepSpeedPolicy, MegatronPolicy, TorchPolicy, hunt, simulate
from mixlab.scalers import DynamicScaler, NoScaler, StaticScaler
from mixlab.tasks import TASKS, Task, load_task
from mixlab.track_updates import track_updates
from mixlab.trainer import StepRecord, Trainer

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
