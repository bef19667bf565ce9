"""The float designer: choose the bits of a format, and see what it does to a tensor."""

from __future__ import annotations

import ipywidgets as widgets
import torch
from torch import Tensor

from mixlab.arguments import require_whole
from mixlab.formats import Format, RoundingStats, Specials, round_with_stats
from mixlab.panels.base import Binding, Panel, labelled, status_html
from mixlab.panels.groups import group
from mixlab.panels.text_box import TextBox, whole
from mixlab.probes import Histogram
from mixlab.reports import limits_line, loss_line, magnitudes_svg

_SPECIALS: list[tuple[str, Specials]] = [
    ("inf and NaN (IEEE)", "ieee"),
    ("NaN only (fn)", "fn"),
    ("none, all codes are numbers", "finite"),
]
_EXPONENT_BITS, _MANTISSA_BITS = (2, 8), (1, 23)


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
        require_whole("FloatDesigner: exponent_bits", exponent_bits, *_EXPONENT_BITS)
        require_whole("FloatDesigner: mantissa_bits", mantissa_bits, *_MANTISSA_BITS)
        _require_specials(specials)
        self._format = _format(exponent_bits, mantissa_bits, specials)
        counts = Histogram.of(weights)  # refuses anything but a tensor
        self._weights = weights.detach().float().clone()
        self._exponent_counts = counts.exponent_counts()
        self._rounded = torch.empty_like(self._weights)
        super().__init__()
        self._binding = Binding(self.errors, self._show_controls)
        self._exponent = self._bits("Exponent bits", "exponent_bits", *_EXPONENT_BITS, exponent_bits)
        self._mantissa = self._bits("Mantissa bits", "mantissa_bits", *_MANTISSA_BITS, mantissa_bits)
        self._specials = labelled(
            widgets.Dropdown, "Special values", labels="9em", width="25em", options=_SPECIALS, value=specials
        )
        self._words = widgets.HTML()
        self._picture = widgets.HTML()
        specials_row = self._binding.on_change_set(self, "specials", self._specials, lambda value: value)
        controls = group("Format", [self._exponent, self._mantissa, specials_row], visible=False)
        self.children = [controls, self.errors, self._words, self._picture]
        self._draw(self._format)

    @property
    def exponent_bits(self) -> int:
        return self._format.exponent_bits

    @exponent_bits.setter
    def exponent_bits(self, bits: int) -> None:
        require_whole("FloatDesigner: exponent_bits", bits, *_EXPONENT_BITS)
        self._draw(_format(bits, self.mantissa_bits, self.specials))

    @property
    def mantissa_bits(self) -> int:
        return self._format.mantissa_bits

    @mantissa_bits.setter
    def mantissa_bits(self, bits: int) -> None:
        require_whole("FloatDesigner: mantissa_bits", bits, *_MANTISSA_BITS)
        self._draw(_format(self.exponent_bits, bits, self.specials))

    @property
    def specials(self) -> Specials:
        return self._format.specials

    @specials.setter
    def specials(self, specials: Specials) -> None:
        _require_specials(specials)
        self._draw(_format(self.exponent_bits, self.mantissa_bits, specials))

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

    def _bits(self, label: str, name: str, low: int, high: int, value: int) -> TextBox:
        """Returns a box with a slider for one of the widths."""
        return TextBox(
            label,
            value,
            read=whole(label, low, high),
            take=lambda bits: setattr(self, name, bits),
            places=(int, int),
            slider=(low, high),
            told=self._binding.told,
            labels="9em",
            width="29em",
        )

    def _draw(self, fmt: Format) -> None:
        """Shows a format, and what it does to the tensor."""
        _, self._stats = round_with_stats(self._weights, fmt, overflow=fmt.usual_overflow, out=self._rounded)
        self._format = fmt
        limits, loss = limits_line(fmt), loss_line(self._stats)
        self._words.value = status_html(f"<b>{limits}</b><br>{loss}")
        self._picture.value = magnitudes_svg(self._exponent_counts, fmt, loss)
        self._show_controls()

    def _show_controls(self) -> None:
        with self._binding.silent():
            self._specials.value = self.specials
        self._exponent.follow(self.exponent_bits)
        self._mantissa.follow(self.mantissa_bits)


def _require_specials(specials: object) -> None:
    allowed = [value for _, value in _SPECIALS]
    if specials not in allowed:
        raise ValueError(f"FloatDesigner: specials must be one of {', '.join(allowed)}, got {specials!r}")


def _format(exponent_bits: int, mantissa_bits: int, specials: Specials) -> Format:
    suffix = {"ieee": "", "fn": "fn", "finite": " finite"}[specials]
    return Format(f"e{exponent_bits}m{mantissa_bits}{suffix}", exponent_bits, mantissa_bits, specials)
