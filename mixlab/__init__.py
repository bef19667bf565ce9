"""mixlab: an interactive lab on mixed-precision training.

>>> import torch
>>> from mixlab import round_to
>>> gradient = torch.tensor([3e-5, 1e-8])
>>> round_to(gradient, "fp16", overflow="inf")[1]
tensor(0.)
>>> round_to(gradient * 1024, "fp16", overflow="inf")[1] / 1024
tensor(1.0012e-08)

## The map

A room is a folder of this package, or a file of one idea. It imports only from the rooms above it:

    arguments  files  powers  glossary  tables           -- small tools
    machine  process  layers                             -- machine, process
      ↓
    formats  loss_scaling  emulation  optimizers         -- what a recipe chooses from
      ↓
    recipes                                              -- the choice, as one line of text
      ↓
    probes  training  experiments                        -- a task and a recipe become a run
    memory                                               -- bytes of a recipe, predicted
      ↓
    matmul                                               -- bytes, speed and errors of a product, predicted
      ↓
    measure                                              -- time, bytes, loss, measured
      ↓
    claims                                               -- what is said of mixed precision, and what holds
      ↓
    labs                                                 -- what each lab's parameters may be
      ↓
    reports  figures  panels  cli                        -- what people see and type

How a recipe flows through them, from left to right:

    recipe → training.Trainer → StepRecord, Run → figures.training_curves → panels.Cockpit
           → memory.estimate, memory.trace → figures.phase_bars → panels.MemoryPanel
           → measure.measure_train → Record (records/*.json) → reports.TrainingTable

Where to add:

- **a number format**: eXmY needs nothing; a name for one is a line in `FORMATS`, `formats/format.py`;
- **a scaler policy**: a class in `loss_scaling/policies.py`, its name in `recipes.py`, its place on the board in
  `all_policies`;
- **a GPU**: a row of `memory/gpus.py`, and the name that its driver gives it;
- **a task**: a function in `training/tasks.py`, and its name in the table beside it;
- **a lab**: a notebook in `labs/`, its parameters in `labs.py`, and a row of README's table;
- **a panel**: a file in `panels/` that binds widgets to data and figures;
- **a measurement**: a file in `measure/` that returns a `Record`, and its command in `cli/measure.py`;
- **a claim**: an entry of `CLAIMS` in the file of its subject in `claims/`; README's table is then written anew.

What others import from a room stands in its `__init__`, and every file has a place in `tests/house.py`. Tests name the
places that were forgotten. `python -m tests.house` draws the imports as they are, and `python -m tests.docs` lists the
parameters that no docstring describes.
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
