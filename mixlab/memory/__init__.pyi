from .activation_formulas import Activations, activations
from .advice import Suggestion, break_even_batch, largest_batch, largest_seq, suggestions
from .allocator import Replay, replay_trace
from .confirmation import confirm
from .estimates import Estimate, Fit, estimate
from .gpus import GPUS, GpuSpec, gpu_spec
from .instants import Instant, StepKind
from .parallel import Parallelism, Zero
from .shapes import SHAPES, AttentionKind, Checkpointing, ModelShape, model_shape
from .states import ModelStates, model_states
from .traceable import TraceError
from .traced_step import Trace
from .tracing import trace
from .transformers import transformer
from .variants import VARIANTS, Variant, variant

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
