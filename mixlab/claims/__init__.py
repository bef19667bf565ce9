"""Claims about mixed-precision training, each with theory, a measurement and a verdict.

The claims are the sentences, shortened, of the introduction to mixed-precision training that mixlab follows. Each has a
verdict on file, and a test fails if a measurement no longer agrees with it.

>>> from mixlab.claims import claim
>>> said = claim("fp32-smallest-normal")
>>> print(said.verdict, "-", said.correct)
does not hold - 1.18e-38, which is 2⁻¹²⁶
>>> said.measure().verdict == said.verdict
True
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
