from .background import Training
from .choices import TASKS, check_training
from .models import TinyGPT
from .optimizers import make_optimizer
from .outcomes import final, first_non_finite, outcome
from .runs import Run, RunInfo
from .step_records import StepRecord
from .tasks import Batch, Task, load_task
from .trainer import Trainer

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
    "check_training",
    "final",
    "first_non_finite",
    "load_task",
    "make_optimizer",
    "outcome",
]
