"""State that all threads share: settings, each with one owner, and random streams private to a thread."""

from mixlab.process.containment import contained
from mixlab.process.random_streams import RandomStream
from mixlab.process.settings import (
    CAST_CACHE,
    COLLECTOR,
    ONEDNN,
    ONLY_LIFTS_CPU_TENSORS,
    THREADS,
    Setting,
    measuring_threads,
    train_on_one_thread,
    undisturbed,
)
from mixlab.process.tf32 import OFF, ON, TF32_SWITCHES

__all__ = [
    "CAST_CACHE",
    "COLLECTOR",
    "OFF",
    "ON",
    "ONEDNN",
    "ONLY_LIFTS_CPU_TENSORS",
    "TF32_SWITCHES",
    "THREADS",
    "RandomStream",
    "Setting",
    "contained",
    "measuring_threads",
    "train_on_one_thread",
    "undisturbed",
]
