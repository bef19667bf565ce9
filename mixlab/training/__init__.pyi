from .background import Training
from .choices import TASKS, check_training
from .metrics import Metric, accuracy
from .models import TinyGPT
from .optimizers import make_optimizer
from .outcomes import final, first_non_finite, metric_words, outcome
from .run_infos import RunInfo
from .runs import Run
from .step_records import StepRecord
from .tasks import Task, load_task
from .trainer import Trainer

__all__ = [
    "TASKS",
    "Metric",
    "Run",
    "RunInfo",
    "StepRecord",
    "Task",
    "TinyGPT",
    "Trainer",
    "Training",
    "accuracy",
    "check_training",
    "final",
    "first_non_finite",
    "load_task",
    "make_optimizer",
    "metric_words",
    "outcome",
]
