"""A task and a recipe become a run."""

from mixlab.training.background import Training
from mixlab.training.models import TinyGPT
from mixlab.training.optimizers import make_optimizer
from mixlab.training.outcomes import final, first_non_finite, outcome
from mixlab.training.runs import Run, RunInfo
from mixlab.training.step_records import StepRecord
from mixlab.training.tasks import TASKS, Batch, Task, load_task
from mixlab.training.trainer import Trainer

__all__ = [
    "TASKS",
    "Batch",
    "Run",
    "RunInfo",
    "StepRecord",
    "Task",
    "TinyGPT",
    "Trainer",
    "Training",
    "final",
    "first_non_finite",
    "load_task",
    "make_optimizer",
    "outcome",
]
