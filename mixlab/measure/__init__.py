"""Measurements of this machine, and the records that keep them.

>>> from mixlab.measure import shipped
>>> cpu, h100 = shipped("train")
>>> h100.machine["gpus"][:11], round(h100["fp32 eager, MFU"].median, 3)
('NVIDIA H100', 0.615)
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
