"""The memory that a training needs, as a function of its recipe: predicted, never measured.

>>> from mixlab.memory import estimate, largest_batch
>>> training = estimate("llama-3.2-1b", "amp-bf16", batch=4, seq=2048, checkpointing="full")
>>> training.peak_phase, bool(training.fits("h100-sxm")), largest_batch(training, "h100-sxm")
('backward', True, 14)
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
