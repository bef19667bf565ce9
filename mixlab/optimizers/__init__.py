"""SGD, Adam and AdamW with a choice of storage for weights and states, and where they stall in low precision."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
