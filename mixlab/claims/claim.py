"""A claim about mixed-precision training: its words, the theory, a measurement, and the verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What became of a claim."""

    HOLDS = "holds"
    HOLDS_IF = "holds if"
    DOES_NOT_HOLD = "does not hold"


@dataclass(frozen=True)
class Finding:
    """What a measurement of a claim showed.

    Attributes:
        verdict: Verdict computed from the numbers.
        shown: One sentence with the numbers.
    """

    verdict: Verdict
    shown: str


@dataclass(frozen=True)
class Claim:
    """A sentence about mixed-precision training that can be true or false, and what settles it.

    Attributes:
        key: Short name, such as "adam-second-moment".
        words: The sentence, in the words of the introduction that mixlab follows, shortened.
        place: The section in which it stands there.
        theory: Why it must or cannot hold, with a source where there is one.
        verdict: Verdict on file. A test compares it with that of `measure`.
        correct: The condition of a claim that holds only sometimes, or the right value of a claim that does not hold;
            "" for a claim that holds.
        measure: Measures or computes the claim on this machine, in seconds, and judges by the numbers.
        recorded: Reads what the shipped record of a GPU says of it, or None.
        owed: The measurement that would settle the claim on a GPU and is not shipped; "" if none is missing.

    Raises:
        ValueError: If a text is missing, or `correct` does not fit the verdict.
    """

    key: str
    words: str
    place: str
    theory: str
    verdict: Verdict
    correct: str
    measure: Callable[[], Finding]
    recorded: Callable[[], str] | None = None
    owed: str = ""

    def __post_init__(self) -> None:
        for name in ("key", "words", "place", "theory"):
            if not getattr(self, name):
                raise ValueError(f"Claim {self.key!r}: {name} must not be empty")
        if (self.verdict is Verdict.HOLDS) != (self.correct == ""):
            raise ValueError(
                f"Claim {self.key!r}: correct must be given unless the claim holds, got verdict {self.verdict!r} and "
                f"correct {self.correct!r}"
            )
