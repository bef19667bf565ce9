from .adam_sgd import SGD, Adam, AdamW
from .backends import BACKENDS, Backend, MakeOptimizer, backend
from .choices import OptimizerName, StateRounding
from .reading import read_state, state_bytes, state_tensors, unwrapped
from .stalls import (
    decay_stalls,
    largest_stalled_significand,
    rise_ratio,
    smallest_effective_lr,
    smallest_gradient_kept,
    steps_to_halve,
    swallow_bounds,
    weight_decay_lost,
)
from .state_formats import STATE_DTYPES, StateDtype
from .states import STATE_NAMES
from .storage import Storage

__all__ = [
    "BACKENDS",
    "SGD",
    "STATE_DTYPES",
    "STATE_NAMES",
    "Adam",
    "AdamW",
    "Backend",
    "MakeOptimizer",
    "OptimizerName",
    "StateDtype",
    "StateRounding",
    "Storage",
    "backend",
    "decay_stalls",
    "largest_stalled_significand",
    "read_state",
    "rise_ratio",
    "smallest_effective_lr",
    "smallest_gradient_kept",
    "state_bytes",
    "state_tensors",
    "steps_to_halve",
    "swallow_bounds",
    "unwrapped",
    "weight_decay_lost",
]
