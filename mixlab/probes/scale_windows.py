"""The usable window of the loss scale, predicted from probes of float32 steps: for a static scale, and for a hunt."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mixlab.formats import Format
from mixlab.probes.tracking import Kind, TensorStats, largest_scale_exponent, usable_window

GRADIENTS: tuple[Kind, ...] = ("gradient", "weight_gradient")


@dataclass(frozen=True)
class ScaleWindow:
    """Exponents of the loss scales that a 16-bit format bears.

    Attributes:
        low: Under 2^low at most the tolerated fraction of all non-zero gradients becomes zero.
        high: Under 2^high the largest gradient is finite, under 2^(high + 1) it is not.
    """

    low: int
    high: int

    @property
    def usable(self) -> bool:
        """Whether any scale is good for both ends; if not, `low` is above `high`."""
        return self.low <= self.high

    def __and__(self, other: ScaleWindow) -> ScaleWindow:
        """Returns what is good for both, e.g. for two steps of a training."""
        return ScaleWindow(max(self.low, other.low), min(self.high, other.high))

    def __str__(self) -> str:
        return f"2^{self.low} to 2^{self.high}" if self.usable else f"none (2^{self.low} is above 2^{self.high})"


def scale_window(stats: Iterable[TensorStats], fmt: Format | str, *, tolerance: float = 0.01) -> ScaleWindow:
    """Returns the window of one step, from what `track` saw of it.

    One scale serves all layers: the upper edge is that of the largest gradient of any layer, the lower one that of all
    layers' gradients together.

    Args:
        stats: Of gradients without a loss scale in them; activations, which no loss scale moves, are left out.
        fmt: In which the gradients will be computed.
        tolerance: The fraction of non-zero values that may become zero.

    Raises:
        ValueError: There is no gradient, or none that is not zero.
    """
    fmt = Format.parse(fmt) if isinstance(fmt, str) else fmt
    alive = [entry for entry in stats if entry.kind in GRADIENTS and entry.amax > 0]
    if not alive:
        raise ValueError("scale_window: no gradient that is not zero; run forward and backward inside track(model)")
    high = min(largest_scale_exponent(entry.amax, fmt) for entry in alive)
    together = alive[0]
    for entry in alive[1:]:
        together = together + entry
    window = usable_window(together, fmt, tolerance=tolerance)
    return ScaleWindow(high + 1 if window is None else window[0], high)
