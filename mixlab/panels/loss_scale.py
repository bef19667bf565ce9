"""The loss-scale panel: a tensor's magnitudes in a format's zones, under a loss scale set by a slider.

The browser only moves the bars and looks up the words; both are computed here in advance.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache, reduce
from typing import Any, ClassVar

import traitlets

from mixlab.formats import FORMATS, Format
from mixlab.panels.drawn import Anything, DrawnPanel, NotAllowedError, require_allowed_whole
from mixlab.panels.scripts import script, stylesheet
from mixlab.panels.text_box import whole
from mixlab.probes import TensorKind, TensorStats, track
from mixlab.reports import status_line
from mixlab.reports.gradients import NOUNS, drawing

ALL_LAYERS = "all"
FORMAT_NAMES = ("fp16", "bf16", "e5m2", "e4m3fn", "fp32")
SCALE_EXPONENTS = range(-24, 65)


class LossScalePanel(DrawnPanel):
    """Shows which values of a tensor vanish and which overflow in a format, under a loss scale of 2^k.

        with track(model) as probe:
            loss(model(inputs), targets).backward()
        LossScalePanel(probe, scale_exponent=10)

    Everything the reader can change can also be read and set in Python; its `repr` is its status line.

    Args:
        stats: All or some entries of a `track`, without a loss scale in them. Entries of one layer and kind add up.
        fmt: One of "fp16", "bf16", "e5m2", "e4m3fn" and "fp32".
        scale_exponent: k of the loss scale, from -24 to 64.

    Attributes:
        scale_exponent, format, layer, kind: The current choices; `layer` is the name of a layer or "all".
        last_error: The error of the latest change of format, layer or kind, or None if it succeeded. Refused values
            from the browser count too. It is shown in red.

    Raises:
        TypeError: If `stats` holds anything but `TensorStats`.
        ValueError: If `stats` is empty, or a choice is not allowed; also when an attribute is set.
    """

    _esm = script("loss_scale.js")
    _css = stylesheet("loss_scale.css")
    typed_boxes: ClassVar = {"scale_exponent": whole("k", SCALE_EXPONENTS[0], SCALE_EXPONENTS[-1])}

    scale_exponent = Anything(0).tag(sync=True)
    format = Anything("fp16").tag(sync=True)
    layer = Anything(ALL_LAYERS).tag(sync=True)
    kind = Anything("gradient").tag(sync=True)
    _choices = traitlets.Dict().tag(sync=True)
    _drawing = traitlets.Dict().tag(sync=True)

    def __init__(
        self, stats: Sequence[TensorStats] | track, *, fmt: str | Format = "fp16", scale_exponent: int = 0
    ) -> None:
        self._stats = _with_totals(stats)
        self._kinds = tuple(kind for kind in NOUNS if (ALL_LAYERS, kind) in self._stats)
        self._layers = tuple(dict.fromkeys(layer for layer, _ in self._stats))
        self._draw = cache(self._make_drawing)
        super().__init__(
            scale_exponent=scale_exponent, format=str(fmt) if isinstance(fmt, Format) else fmt, kind=self._kinds[0]
        )
        self._choices = self._make_choices()
        self._redraw()
        self.observe(self._guard(self._changed), ["format", "layer", "kind"])

    @property
    def status(self) -> str:
        """What the chart shows, in words."""
        return status_line(self._stats[self.layer, self.kind], FORMATS[self.format], self.scale_exponent)

    @traitlets.validate("scale_exponent")
    def _check_scale_exponent(self, proposal: traitlets.Bunch) -> int:
        low, high = SCALE_EXPONENTS[0], SCALE_EXPONENTS[-1]
        require_allowed_whole("LossScalePanel: scale_exponent", proposal.value, low, high)
        return int(proposal.value)

    @traitlets.validate("format")
    def _check_format(self, proposal: traitlets.Bunch) -> str:
        return _one_of("format", proposal.value, FORMAT_NAMES)

    @traitlets.validate("layer")
    def _check_layer(self, proposal: traitlets.Bunch) -> str:
        layer = _one_of("layer", proposal.value, self._layers)
        if (layer, self.kind) not in self._stats:
            raise NotAllowedError(
                f"LossScalePanel: layer {layer!r} has no {self.kind!r}; it has {self._listed_kinds(layer)}"
            )
        return layer

    @traitlets.validate("kind")
    def _check_kind(self, proposal: traitlets.Bunch) -> str:
        kind = _one_of("kind", proposal.value, self._kinds)
        if (self.layer, kind) not in self._stats:
            raise NotAllowedError(
                f"LossScalePanel: layer {self.layer!r} has no {kind!r}; it has {self._listed_kinds(self.layer)}"
            )
        return kind

    def _listed_kinds(self, layer: str) -> str:
        return ", ".join(kind for kind in self._kinds if (layer, kind) in self._stats)

    def _make_choices(self) -> dict[str, Any]:
        """Returns the options of the controls as (value, label), and the pairs of layer and kind that exist."""
        return {
            "scales": [SCALE_EXPONENTS[0], SCALE_EXPONENTS[-1]],
            "scaleValues": [str(2**k) if k >= 0 else f"1/{2**-k}" for k in SCALE_EXPONENTS],
            "formats": FORMAT_NAMES,
            "layers": [(layer, "all layers" if layer == ALL_LAYERS else layer or "(model)") for layer in self._layers],
            "kinds": [(kind, NOUNS[kind]) for kind in self._kinds],
            "seen": list(self._stats),
        }

    def _make_drawing(self, layer: str, kind: TensorKind, fmt: str) -> dict[str, Any]:
        return drawing(self._stats[layer, kind], FORMATS[fmt], SCALE_EXPONENTS)

    def _redraw(self) -> None:
        self._drawing = self._draw(self.layer, self.kind, self.format)

    def _changed(self, _change: object) -> None:
        self._redraw()


def _with_totals(stats: Iterable[TensorStats]) -> dict[tuple[str, TensorKind], TensorStats]:
    """Returns statistics by layer and kind; the sums over all layers come first."""
    if not isinstance(stats, Iterable):
        raise TypeError(
            f"LossScalePanel: stats must be what track saw, or a list of TensorStats, got {type(stats).__name__}"
        )
    by_layer: dict[tuple[str, TensorKind], TensorStats] = {}
    for entry in stats:
        if not isinstance(entry, TensorStats):
            raise TypeError(
                f"LossScalePanel: stats must hold TensorStats, got {type(entry).__name__}; use track(model)"
            )
        if entry.layer == ALL_LAYERS:
            raise ValueError("LossScalePanel: stats holds a layer called 'all', the name of the sum; rename it")
        key = entry.layer, entry.kind
        by_layer[key] = by_layer[key] + entry if key in by_layer else entry
    if not by_layer:
        raise ValueError(
            "LossScalePanel: stats is empty; run forward and backward inside `with track(model) as probe:`"
        )
    totals: dict[tuple[str, TensorKind], TensorStats] = {}
    for kind in NOUNS:
        entries = [entry for entry in by_layer.values() if entry.kind == kind]
        if entries:
            totals[ALL_LAYERS, kind] = replace(reduce(operator.add, entries), layer=ALL_LAYERS)
    return totals | by_layer


def _one_of(name: str, value: object, allowed: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise NotAllowedError(f"LossScalePanel: {name} must be one of {', '.join(allowed)}, got {value!r}")
    return value
