"""Loss scalers, and the policies that move a loss scale in torch, apex, Megatron and DeepSpeed."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
