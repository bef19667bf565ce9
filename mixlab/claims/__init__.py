"""Claims about mixed-precision training, each with theory, a measurement and a verdict."""

from mixlab.claims.claim import Claim, Finding, Verdict

__all__ = ["Claim", "Finding", "Verdict"]
