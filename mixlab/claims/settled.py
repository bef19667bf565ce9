"""A claim together with what its measurement showed on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from mixlab.claims.verdicts import Claim, Finding


@dataclass(frozen=True)
class Settled:
    """A claim, measured here.

    Attributes:
        claim: The claim.
        finding: What its measurement showed on this machine.
        recorded: What the shipped record of a GPU says of it; "" if there is none.
    """

    claim: Claim
    finding: Finding
    recorded: str

    @property
    def agrees(self) -> bool:
        """Whether the measured verdict is the one on file."""
        return self.finding.verdict is self.claim.verdict


@cache
def settle(claim: Claim) -> Settled:
    """Measures a claim on this machine, which takes up to a few seconds. A second call returns the first result.

    >>> from mixlab.claims import claim
    >>> settle(claim("bytes-per-number")).agrees
    True

    Args:
        claim: The claim.

    Raises:
        TypeError: If it is something else, such as a key.
    """
    if not isinstance(claim, Claim):
        raise TypeError(f"settle: give a claim, such as claim('fp16-eps'), got {claim!r:.60}")
    return Settled(claim, claim.measure(), claim.recorded() if claim.recorded else "")
