"""Claims about mixed-precision training, each with theory, a measurement and a verdict.

The claims are the sentences, shortened, of the introduction to mixed-precision training that mixlab follows. Each has a
verdict on file, and a test fails if a measurement no longer agrees with it.

>>> from mixlab.claims import claim
>>> said = claim("fp32-smallest-normal")
>>> print(said.verdict, "-", said.correct)
does not hold - 1.18e-38, which is 2^-126
>>> said.measure().verdict == said.verdict
True
"""

from mixlab.claims.catalogue import CLAIMS, SUBJECTS, claim
from mixlab.claims.settled import Settled, settle
from mixlab.claims.verdicts import PLACES, Claim, Finding, Verdict

__all__ = ["CLAIMS", "PLACES", "SUBJECTS", "Claim", "Finding", "Settled", "Verdict", "claim", "settle"]
