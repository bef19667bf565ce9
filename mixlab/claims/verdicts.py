"""A claim about mixed-precision training: its words, the theory, a measurement, and the verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

# The sections of the introduction to mixed-precision training that mixlab follows, in its order.
PLACES = (
    "Introduction",
    "1. What problem is it solving?",
    "2. The underlying memory structure",
    "3. Mathematical explanation and advantages",
    "4. Are we sacrificing anything?",
    "5. Training with BF16",
    "6. Summary",
    "PyTorch AMP implementation",
    "What is happening under the hood?",
    "Comparison of training modes",
    "Appendix",
)


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

    @classmethod
    def of(cls, cases: Iterable[bool], shown: str) -> Finding:
        """Judges a claim by the cases in which it was tried.

        >>> Finding.of([True, False], "2.0 times on one GPU, 0.9 times on the other").verdict
        <Verdict.HOLDS_IF: 'holds if'>

        Args:
            cases: Whether the claim held, case by case. It holds if it always did, and does not hold if it never did.
            shown: As in `Finding`.

        Raises:
            ValueError: If there is no case.
        """
        held = list(cases)
        if not held:
            raise ValueError("Finding.of: give at least one case")
        verdict = Verdict.HOLDS if all(held) else Verdict.HOLDS_IF if any(held) else Verdict.DOES_NOT_HOLD
        return cls(verdict, shown)


@dataclass(frozen=True)
class Claim:
    """A sentence about mixed-precision training that can be true or false, and what settles it.

    Attributes:
        key: Short name, such as "adam-second-moment".
        words: The sentence, in the words of the introduction that mixlab follows, shortened.
        place: The section in which it stands there, one of `PLACES`.
        theory: Why it must or cannot hold, with a source where there is one.
        verdict: Verdict on file. A test compares it with that of `measure`.
        correct: The condition of a claim that holds only sometimes, or the right value of a claim that does not hold;
            "" for a claim that holds.
        measure: Measures or computes the claim on this machine, in seconds, and judges by the numbers.
        recorded: Reads what the shipped record of a GPU says of it, or None.
        owed: The measurement that would settle the claim on a GPU and is not shipped; "" if none is missing.

    Raises:
        ValueError: If a text is missing, the place is unknown, or `correct` does not fit the verdict.
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
        if self.place not in PLACES:
            raise ValueError(f"Claim {self.key!r}: place must be one of {', '.join(PLACES)}, got {self.place!r}")
        if (self.verdict is Verdict.HOLDS) != (self.correct == ""):
            raise ValueError(
                f"Claim {self.key!r}: correct must be given unless the claim holds, got verdict {self.verdict!r} and "
                f"correct {self.correct!r}"
            )
