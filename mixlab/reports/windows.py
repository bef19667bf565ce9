"""The usable loss scales of each layer's gradients, and those that suit all layers, as a table."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from operator import and_

from mixlab.formats import Format
from mixlab.loss_scaling import ScaleWindow
from mixlab.probes import TensorKind, TensorStats, usable_window
from mixlab.tables import NotedTable

_KINDS: tuple[TensorKind, ...] = ("gradient", "weight_gradient")


class WindowsTable(NotedTable):
    """Layers in rows: the usable loss scales of the gradients of their outputs, and of their weights.

    Args:
        stats: What `track` saw in a step without a loss scale. Activations are ignored.
        fmt: The format in which the gradients would be stored, or its name.

    Attributes:
        common: The scales usable for every one of these tensors; those without a usable scale are left out.

    Raises:
        ValueError: If no gradient has a usable scale.
    """

    def __init__(self, stats: Iterable[TensorStats], fmt: Format | str) -> None:
        windows = {(one.layer, one.kind): usable_window(one, fmt) for one in stats if one.kind in _KINDS}
        usable = [window for window in windows.values() if window.usable]
        if not usable:
            raise ValueError(
                f"WindowsTable: none of {len(windows)} gradients has a scale that {Format.of(fmt)} can hold; run "
                "forward and backward inside track(model), and try another format"
            )
        self.common: ScaleWindow = reduce(and_, usable)
        layers = dict.fromkeys(layer for layer, _ in windows)
        rows = [
            (layer or "the model", *(str(windows[layer, kind]) if (layer, kind) in windows else "-" for kind in _KINDS))
            for layer in layers
        ]
        left_out = len(windows) - len(usable)
        notes = [
            "From the smallest scale at which at most 1 % of the non-zero values become zero to the largest at which "
            "nothing overflows.",
            f"One scale for all: {self.common}"
            + (f"; {left_out} of {len(windows)} tensors have no usable scale and are left out." if left_out else "."),
        ]
        super().__init__(("layer", "gradients of its output", "gradients of its weights"), rows, notes)
