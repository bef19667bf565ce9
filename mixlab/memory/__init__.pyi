from .activation_formulas import Activations, activations
from .advice import Suggestion, break_even_batch, largest_batch, largest_seq, suggestions
from .allocator import Replay, replay_trace
from .choices import AttentionKind, Checkpointing, Implementation
from .confirmation import confirm
from .differences import Difference, Differences
from .estimates import Estimate, estimate
from .fits import Fit
from .gpus import GPUS, GpuSpec, gpu_spec
from .hf_activations import RecordedActivations
from .instants import Instant, StepKind
from .kept_activations import KeptActivations
from .module_estimates import estimate_of
from .parallel import Parallelism, Zero
from .states import ModelStates, model_states
from .traceable import TraceError
from .traced_fits import Needs
from .traced_step import Trace
from .tracing import trace
from .transformers import transformer
from .variants import VARIANTS, Variant, variant

__all__ = [
    "GPUS",
    "VARIANTS",
    "Activations",
    "AttentionKind",
    "Checkpointing",
    "Difference",
    "Differences",
    "Estimate",
    "Fit",
    "GpuSpec",
    "Implementation",
    "Instant",
    "KeptActivations",
    "ModelStates",
    "Needs",
    "Parallelism",
    "RecordedActivations",
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
    "estimate_of",
    "gpu_spec",
    "largest_batch",
    "largest_seq",
    "model_states",
    "replay_trace",
    "suggestions",
    "trace",
    "transformer",
    "variant",
]
