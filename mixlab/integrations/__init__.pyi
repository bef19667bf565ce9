from .hugging_face import HFCallback
from .lightning_trainer import LightningCallback
from .sampled_step import SampledStep
from .step_bytes import StepBytes

__all__ = [
    "HFCallback",
    "LightningCallback",
    "SampledStep",
    "StepBytes",
]
