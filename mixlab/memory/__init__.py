"""The memory that a training needs, as a function of its recipe: predicted, never measured.

>>> from mixlab.memory import estimate, largest_batch
>>> training = estimate("llama-3.2-1b", "amp-bf16", batch=4, seq=2048, checkpointing="full")
>>> training.peak_phase, bool(training.fits("h100-sxm")), largest_batch(training, "h100-sxm")
('backward', True, 21)
"""

from mixlab.memory.activation_formulas import Activations, activations
from mixlab.memory.advice import Suggestion, break_even_batch, largest_batch, largest_seq, suggestions
from mixlab.memory.allocator import Replay, replay_trace
from mixlab.memory.confirmation import confirm
from mixlab.memory.estimates import Estimate, Fit, estimate
from mixlab.memory.gpus import GPUS, GpuSpec, gpu_spec
from mixlab.memory.instants import Instant, StepKind
from mixlab.memory.parallel import Parallelism, Zero
from mixlab.memory.shapes import SHAPES, AttentionKind, Checkpointing, ModelShape, model_shape
from mixlab.memory.states import ModelStates, model_states
from mixlab.memory.traceable import TraceError
from mixlab.memory.traced_step import Trace
from mixlab.memory.tracing import trace
from mixlab.memory.transformers import transformer
from mixlab.memory.variants import VARIANTS, Variant, variant

__all__ = [
    "GPUS",
    "SHAPES",
    "VARIANTS",
    "Activations",
    "AttentionKind",
    "Checkpointing",
    "Estimate",
    "Fit",
    "GpuSpec",
    "Instant",
    "ModelShape",
    "ModelStates",
    "Parallelism",
    "Replay",
    "StepKind",
    "Suggestion",
    "Trace",
    "TraceError",
    "Variant",
    "Zero",
    "activations",
    "break_even_batch",
    "confirm",
    "estimate",
    "gpu_spec",
    "largest_batch",
    "largest_seq",
    "model_shape",
    "model_states",
    "replay_trace",
    "suggestions",
    "trace",
    "transformer",
    "variant",
]
