"""The window of usable loss scales."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mixlab.powers import power


@dataclass(frozen=True)
class ScaleWindow:
    """Exponents of the loss scales between underflow and overflow, both edges included.

    >>> window = ScaleWindow(-4, 14)
    >>> window.usable, 14 in window, 15 in window, str(window)
    (True, True, False, '2⁻⁴ to 2¹⁴')
    >>> print(window & ScaleWindow(16, 20))  # two steps that no single scale suits
    none (2¹⁶ is above 2¹⁴)

    Attributes:
        low: Below 2^low, more small values become zero than tolerated.
        high: Above 2^high, the largest value overflows.
    """

    low: float
    high: float

    @property
    def usable(self) -> bool:
        """Whether any scale avoids both; if not, `low` is above `high`."""
        return self.low <= self.high

    def __contains__(self, exponent: float) -> bool:
        return self.low <= exponent <= self.high

    def __and__(self, other: ScaleWindow) -> ScaleWindow:
        """Returns the scales usable in both windows, such as those of two training steps."""
        return ScaleWindow(max(self.low, other.low), min(self.high, other.high))

    def __str__(self) -> str:
        if self == NO_WINDOW:
            return "none"
        low, high = power(self.low), power(self.high)
        return f"{low} to {high}" if self.usable else f"none ({low} is above {high})"


NO_WINDOW = ScaleWindow(math.inf, -math.inf)  # for a tensor without a finite non-zero value
