"""How a value may be rounded, and what may become of one that is too large, by name."""

from __future__ import annotations

from typing import Literal

Overflow = Literal["inf", "nan", "saturate"]
Rounding = Literal["nearest_even", "nearest_away", "toward_zero", "toward_positive", "toward_negative", "stochastic"]
