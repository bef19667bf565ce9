from .catalogue import CLAIMS, SUBJECTS, claim
from .settled import Settled, settle
from .verdicts import PLACES, Claim, Finding, Verdict

__all__ = ["CLAIMS", "PLACES", "SUBJECTS", "Claim", "Finding", "Settled", "Verdict", "claim", "settle"]
