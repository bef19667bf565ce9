"""SGD, Adam and AdamW with a choice of storage for weights and states, and where they stall in low precision."""

from mixlab.optimizers.adam_sgd import SGD, Adam, AdamW, OptimizerName
from mixlab.optimizers.backends import BACKENDS, Backend, MakeOptimizer, backend
from mixlab.optimizers.reading import read_state, state_bytes, state_tensors, unwrapped
from mixlab.optimizers.stalls import (
    decay_stalls,
    largest_stalled_significand,
    rise_ratio,
    smallest_effective_lr,
    smallest_gradient_kept,
    steps_to_halve,
    swallow_bounds,
    weight_decay_lost,
)
from mixlab.optimizers.state_formats import STATE_DTYPES, StateDtype, StateRounding
from mixlab.optimizers.states import STATE_NAMES
from mixlab.optimizers.storage import Storage

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
