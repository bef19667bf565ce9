"""The float designer: choose the bits of a format, and see what it does to a tensor."""

from __future__ import annotations

from functools import partial
from typing import Any

import ipywidgets as widgets
import torch
from torch import Tensor

from mixlab.arguments import require_whole
from mixlab.formats import Format, RoundingStats, Specials, round_with_stats
from mixlab.panels.base import Panel, in_a_row, labelled, status_html
from mixlab.probes import Histogram
from mixlab.reports import limits_line, loss_line, magnitudes_svg

_SPECIALS: list[tuple[str, Specials]] = [
    ("inf and NaN (IEEE)", "ieee"),
    ("NaN only (fn)", "fn"),
    ("none, all codes are numbers", "finite"),
]
_labelled = partial(labelled, labels="9em", width="25em")


class FloatDesigner(Panel):
    """Rounds a tensor to the format that its controls describe, and shows what is lost.

    Values out of range become inf if the format has it, else its largest value.

    Args:
        weights: The tensor to round: float32, float16 or bfloat16, of any shape.
        exponent_bits: Exponent bits at first, from 2 to 8.
        mantissa_bits: Mantissa bits at first, from 1 to 23.
        specials: "ieee", "fn" or "finite", as in `Format`.

    Attributes:
        exponent_bits, mantissa_bits, specials: The values of the controls; may be set.
        format: The format that they describe.
        stats: What the format does to the tensor.
        last_error: The error of the latest change, or None if it succeeded. It is shown in red too.

    Raises:
        TypeError: If `weights` is not such a tensor.
        ValueError: If a width or `specials` is not allowed; also when an attribute is set.
    """

    def __init__(
        self, weights: Tensor, *, exponent_bits: int = 4, mantissa_bits: int = 3, specials: Specials = "ieee"
    ) -> None:
        self._format = Format(f"e{exponent_bits}m{mantissa_bits}", exponent_bits, mantissa_bits, specials)
        counts = Histogram.of(weights)  # refuses anything but a tensor
        self._weights = weights.detach().float().clone()
        self._exponent_counts = counts.exponent_counts()
        self._rounded = torch.empty_like(self._weights)
        super().__init__()
        self._exponent = _number("Exponent bits", 2, 8, exponent_bits)
        self._mantissa = _number("Mantissa bits", 1, 23, mantissa_bits)
        self._specials = _labelled(widgets.Dropdown, "Special values", options=_SPECIALS, value=specials)
        self._words = widgets.HTML()
        self._picture = widgets.HTML()
        change = self.errors.guard(self._redraw)
        for control in (self._exponent[0], self._mantissa[0], self._specials):
            control.observe(lambda _change: change(), "value")
        rows = [in_a_row(*pair) for pair in (self._exponent, self._mantissa)]
        self.children = [*rows, self._specials, self.errors, self._words, self._picture]
        self._redraw()

    @property
    def exponent_bits(self) -> int:
        return self._exponent[0].value  # type: ignore[no-any-return]

    @exponent_bits.setter
    def exponent_bits(self, bits: int) -> None:
        self._set(self._exponent[0], "exponent_bits", bits)

    @property
    def mantissa_bits(self) -> int:
        return self._mantissa[0].value  # type: ignore[no-any-return]

    @mantissa_bits.setter
    def mantissa_bits(self, bits: int) -> None:
        self._set(self._mantissa[0], "mantissa_bits", bits)

    @property
    def specials(self) -> Specials:
        return self._specials.value  # type: ignore[no-any-return]

    @specials.setter
    def specials(self, specials: Specials) -> None:
        allowed = [value for _, value in _SPECIALS]
        if specials not in allowed:
            raise ValueError(f"FloatDesigner: specials must be one of {', '.join(allowed)}, got {specials!r}")
        self._specials.value = specials

    @property
    def format(self) -> Format:
        return self._format

    @property
    def stats(self) -> RoundingStats:
        return self._stats

    @property
    def status(self) -> str:
        """What the panel shows, in words."""
        return f"{limits_line(self._format)}. {loss_line(self._stats)}"

    def __repr__(self) -> str:
        return self.status

    def _set(self, control: Any, name: str, bits: int) -> None:
        require_whole(f"FloatDesigner: {name}", bits, control.min, control.max)
        control.value = bits

    def _redraw(self) -> None:
        widths = self._exponent[0].value, self._mantissa[0].value
        suffix = {"ieee": "", "fn": "fn", "finite": " finite"}[self.specials]
        fmt = Format(f"e{widths[0]}m{widths[1]}{suffix}", *widths, self.specials)
        _, self._stats = round_with_stats(self._weights, fmt, overflow=fmt.usual_overflow, out=self._rounded)
        self._format = fmt
        limits, loss = limits_line(fmt), loss_line(self._stats)
        self._words.value = status_html(f"<b>{limits}</b><br>{loss}")
        self._picture.value = magnitudes_svg(self._exponent_counts, fmt, loss)


def _number(label: str, low: int, high: int, value: int) -> tuple[Any, Any]:
    """Returns a slider and a box that show one number."""
    slider = _labelled(widgets.IntSlider, label, value=value, min=low, max=high, readout=False)
    box = widgets.BoundedIntText(value=value, min=low, max=high, layout={"width": "5em"})
    box.tooltip = label
    widgets.link((slider, "value"), (box, "value"))
    return slider, box
