from .catalogue import CLAIMS, SUBJECTS, claim
from .keys import KEYS, require_claim
from .settled import Settled, settle
from .verdicts import PLACES, Claim, Finding, Verdict

__all__ = [
    "CLAIMS",
    "KEYS",
    "PLACES",
    "SUBJECTS",
    "Claim",
    "Finding",
    "Settled",
    "Verdict",
    "claim",
    "require_claim",
    "settle",
]
