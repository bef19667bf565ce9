"""Which trainings fit on which GPU: a row of GPUs for one training, a table for several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import TYPE_CHECKING

from mixlab.memory import GPUS, Estimate, GpuSpec, largest_batch
from mixlab.reports.colours import GREEN, VERMILLION
from mixlab.tables import html_table, text_table

if TYPE_CHECKING:
    from mixlab.memory import Needs  # which needs torch, as estimates do not

_BOX = (
    "display: inline-block; min-width: 9.5em; padding: 2px 8px; border-radius: 3px; line-height: 1.4; font-size: 12px"
)


def fits_line(estimate: Estimate | Needs, gpus: Iterable[GpuSpec] | None = None) -> str:
    """Says on how many GPUs a training fits, and names either those or the others, whichever are fewer.

    Args:
        estimate: The training's estimate, or what it needs by its trace.
        gpus: The GPUs to look at; None means all of `GPUS`.
    """
    fits = [estimate.fits(gpu) for gpu in _by_memory(gpus)]
    on, off = ([str(fit.gpu) for fit in fits if bool(fit) is verdict] for verdict in (True, False))
    if not off or not on:
        return f"It fits on {'all' if on else 'none of the'} {len(fits)} GPUs."
    others = f": {', '.join(on)}" if len(on) <= len(off) else f", not on {', '.join(off)}"
    return f"It fits on {len(on)} of {len(fits)} GPUs{others}."


def fits_row(estimate: Estimate, chosen: GpuSpec, gpus: Iterable[GpuSpec] | None = None) -> str:
    """Returns GPUs by memory as HTML: a tick and the memory that is left, or a cross and the memory that is missing.

    Args:
        estimate: The training's estimate.
        chosen: The GPU to mark; it is always shown.
        gpus: The GPUs to show; None means all of `GPUS`.
    """
    items = []
    for gpu in _by_memory([*(GPUS.values() if gpus is None else gpus), chosen]):
        fit = estimate.fits(gpu)
        room = f"{abs(fit.room) / 2**30:,.1f} GiB {'left' if fit else 'missing'}"
        here = gpu == chosen
        border = "3px solid" if here else "1px solid" if fit else "1px dashed"
        style = f"{_BOX}; border: {border} {GREEN if fit else VERMILLION}{'' if fit or here else '; opacity: 0.8'}"
        name = f"<b>{'▶ ' if here else ''}{escape(str(gpu))}</b>"
        current = ' aria-current="true"' if here else ""
        items.append(f'<li{current} style="{style}">{"✓" if fit else "✗"} {name}<br/>{room}</li>')
    look = "color: var(--jp-ui-font-color1, currentColor); font-family: var(--jp-ui-font-family, sans-serif)"
    flow = "display: grid; grid-template-columns: repeat(auto-fill, minmax(10.5em, 1fr)); gap: 5px"
    flow += "; list-style: none; padding: 0; margin: 4px 0 8px"
    return f'<ul aria-label="GPUs on which it fits" style="{look}; {flow}">{"".join(items)}</ul>'


class FitsTable:
    """GPUs by memory: whether each training fits, and the largest batch that does.

    Args:
        estimates: The trainings' estimates, by label.
        gpus: The GPUs to show; None means all of `GPUS`.

    Raises:
        ValueError: If there are no estimates.
    """

    def __init__(self, estimates: Mapping[str, Estimate], gpus: Iterable[GpuSpec] | None = None) -> None:
        if not estimates:
            raise ValueError("FitsTable: no estimates; mixlab.memory.estimate makes one")
        self.columns = ("GPU", "GiB", *estimates)
        self.rows = [
            (str(gpu), f"{gpu.usable_bytes / 2**30:.1f}", *(_cell(one, gpu) for one in estimates.values()))
            for gpu in _by_memory(gpus)
        ]
        batches = {one.batch for one in estimates.values()}
        rows = f"{batches.pop()} rows" if len(batches) == 1 else "their own rows"
        self.note = f"✓ fits, ✗ does not, with {rows} of a batch; then the most rows that fit. Modelled, not measured."

    def __repr__(self) -> str:
        return f"{text_table(self.columns, self.rows)}\n{self.note}"

    def _repr_html_(self) -> str:
        return html_table(self.columns, self.rows, row_heads=True) + f"<div><small>{self.note}</small></div>"


def _cell(estimate: Estimate, gpu: GpuSpec) -> str:
    most = largest_batch(estimate, gpu)
    return f"{'✓' if estimate.fits(gpu) else '✗'} {f'up to {most}' if most else 'not even 1'}"


def _by_memory(gpus: Iterable[GpuSpec] | None) -> list[GpuSpec]:
    known = {gpu.name: gpu for gpu in (GPUS.values() if gpus is None else gpus)}
    return sorted(known.values(), key=lambda gpu: (gpu.usable_bytes, gpu.name))
