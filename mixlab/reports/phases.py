"""An estimate of memory for a page: bars by phase against a GPU's memory, the numbers, and the same in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from html import escape

from mixlab.memory import Estimate, GpuSpec, Suggestion
from mixlab.memory.categories import PHASES
from mixlab.reports.colours import GREY
from mixlab.reports.kinds import css, look, stacked
from mixlab.shapes import ModelShape
from mixlab.tables import gib

_BEYOND = 4  # times the memory needed; the line of a larger GPU lies beyond the picture, so that the bars stay visible
_LETTER = 0.016  # width of a letter, as a share of a narrow picture's
_TEXT = "color: var(--jp-ui-font-color1, currentColor); font: 13px/1.5 var(--jp-ui-font-family, sans-serif)"
_LEFT, _RIGHT = "padding: 1px 10px 1px 0; text-align: left", "padding: 1px 0 1px 18px; text-align: right"


def memory_line(estimate: Estimate, gpu: GpuSpec) -> str:
    """Describes what the bars show: the peak, its largest parts, and whether the training fits.

    Args:
        estimate: The training's estimate.
        gpu: The GPU to compare with.
    """
    largest = sorted(estimate.at_peak.items(), key=lambda item: -item[1])[:3]
    parts = ", ".join(f"{name} {gib(size)}" for name, size in largest)
    fit = estimate.fits(gpu)
    verdict = f"it fits on {gpu}: {gib(fit.room)} GiB are left"
    if not fit:
        verdict = f"it does not fit on {gpu}: {gib(-fit.room)} GiB are missing"
    outside = estimate.total_bytes - estimate.peak_bytes
    return (
        f"{training_line(estimate)}. Memory peaks in {estimate.peak_phase} ({estimate.peak.name}) with "
        f"{gib(estimate.peak_bytes)} GiB: {parts}. With {gib(outside)} GiB outside tensors it needs "
        f"{gib(estimate.total_bytes)} GiB, and {verdict}."
    )


def training_line(estimate: Estimate) -> str:
    """Describes the estimated training."""
    one = estimate
    name = f"{one.shape.name} ({parameter_words(one.shape)})" if one.shape.experts else one.shape.name
    words = [f"{name} under {one.recipe}", f"{one.batch} x {one.seq} tokens"]
    words += ["transformers' module"] if one.module == "transformers" else []
    words += [f"{one.accumulation} passes per step"] if one.accumulation > 1 else []
    words += [f"{one.attention} attention"] if one.attention != "fused" else []
    words += [f"checkpointing {one.checkpointing}"] if one.checkpointing != "none" else []
    words += [f"optimizer's step {one.step}"] if one.step != "foreach" else []
    words += [f"each of {one.parallel}"] if one.parallel.gpus > 1 else []
    return ", ".join(words)


def parameter_words(shape: ModelShape) -> str:
    """Returns how many parameters a shape has, and with experts how many of them a token passes.

    >>> from mixlab.shapes import SHAPES
    >>> parameter_words(SHAPES["llama-3-8b"])
    '8.03 B'

    Args:
        shape: The shape.
    """
    every = count_words(shape.parameters)
    return every if shape.experts is None else f"{every}, {count_words(shape.active_parameters)} active"


def count_words(parameters: int) -> str:
    """Returns a number of parameters to three digits, in millions or billions; below a million it is whole.

    >>> count_words(8_030_261_248), count_words(1932)
    ('8.03 B', '1,932')

    Args:
        parameters: The number.
    """
    for letter, unit in (("B", 10**9), ("M", 10**6)):
        if parameters >= 0.9995 * unit:
            return f"{parameters / unit:.3g} {letter}"
    return f"{parameters:,}"


def change_line(suggestion: Suggestion) -> str:
    """Returns what a suggested change brings as one line of HTML: the memory that it saves, and its price.

    Args:
        suggestion: From `mixlab.memory.suggestions`.
    """
    verdict = "✓ fits" if suggestion.fits else "✗ does not fit"
    return (
        f'<div style="{_TEXT}">{gib(suggestion.saved_bytes)} GiB less, '
        f"{gib(suggestion.total_bytes)} in all, {verdict}. Price: {escape(suggestion.price)}.</div>"
    )


def phase_picture(estimate: Estimate, gpu: GpuSpec) -> str:
    """Returns the memory at the peak of each phase, and all memory needed, as stacked bars in HTML.

    A line marks the memory of the GPU. `phase_table` is the legend.

    Args:
        estimate: The training's estimate.
        gpu: The GPU to compare with; if it has far more memory than needed, its line lies beyond the picture.
    """
    needed, has = estimate.total_bytes, gpu.usable_bytes
    end = 1.05 * max(needed, has) if has <= _BEYOND * needed else 1.2 * needed
    whole = {"tensors at the peak": estimate.peak_bytes, **estimate.outside}
    rows = {**{str(phase): content for phase, content in estimate.at_phase_peaks.items()}, "in all": whole}
    words = {
        phase: f"{gib(sum(content.values()))} GiB{', the peak' if phase == estimate.peak_phase else ''}"
        for phase, content in rows.items()
    }
    said = "; ".join(f"{phase} {text}" for phase, text in words.items())
    cells = [
        f'<div style="grid-area: {row} / 1">{phase}</div>{_bar(content, end, row)}'
        f'<div style="grid-area: {row} / 3; white-space: nowrap">{words[phase]}</div>'
        for row, (phase, content) in enumerate(rows.items(), start=2)
    ]
    grid = "display: grid; grid-template-columns: max-content minmax(0, 1fr) 10.5em; gap: 5px 10px; align-items: center"
    return (
        f'<div role="img" aria-label="{escape(said)}; {escape(str(gpu))} has {gib(has)} GiB" '
        f'style="{_TEXT}; {grid}">{_axis(end)}{"".join(cells)}{_line(gpu, end)}</div>'
    )


def phase_table(estimate: Estimate) -> str:
    """Returns the numbers of `phase_picture` as an HTML table; its row heads are the legend of the bars.

    Args:
        estimate: The training's estimate.
    """
    phases = estimate.at_phase_peaks
    kinds = stacked((kind for content in phases.values() for kind in content), over_time=True)
    marks = [" (peak)" if phase == estimate.peak_phase else "" for phase in PHASES]
    heads = zip(PHASES, marks, strict=True)
    head = "".join(f'<th scope="col" style="{_RIGHT}">{phase}{mark}</th>' for phase, mark in heads)
    rows = [
        (_swatch(kind) + escape(kind), [gib(phases[phase][kind]) if kind in phases[phase] else "" for phase in PHASES])
        for kind in kinds
    ]
    sums = [gib(sum(phases[phase].values())) for phase in PHASES]
    rows.append(("<b>together</b>", sums))
    outside = [(_swatch(kind) + f"{kind}, modelled", ["", gib(size), ""]) for kind, size in estimate.outside.items()]
    body = "".join(
        f'<tr><th scope="row" style="{_LEFT}; font-weight: 400">{name}</th>'
        + "".join(f'<td style="{_RIGHT}">{size}</td>' for size in map(escape, sizes))
        + "</tr>"
        for name, sizes in [*rows, *outside]
    )
    top = f'<th scope="col" style="{_LEFT}">GiB at the peak of</th>{head}'
    return (
        f'<table style="margin: 8px 2em 8px 0; {_TEXT}; border-collapse: collapse; font-variant-numeric: tabular-nums">'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    )


def _bar(content: Mapping[str, int], end: float, row: int) -> str:
    segments = []
    for kind in stacked(content, over_time=True):
        share = content[kind] / end
        if share < 0.002:  # it would be thinner than its border; the table has it
            continue
        full, short = f"{kind} {gib(content[kind])}", gib(content[kind])
        label = next((text for text in (full, short) if len(text) * _LETTER < share), "")
        style = f"flex: 0 0 {share:.3%}; box-sizing: border-box; overflow: hidden; {css(kind)}"
        halo = f'<span style="background: {_behind(kind)}; padding: 0 2px">{escape(label)}</span>' if label else ""
        segments.append(f'<div title="{escape(full)} GiB" style="{style}">{halo}</div>')
    letters = "font-size: 12px; line-height: 22px; text-align: center; white-space: nowrap"
    return f'<div style="grid-area: {row} / 2; display: flex; height: 24px; {letters}">{"".join(segments)}</div>'


def _behind(kind: str) -> str:
    """Returns the colour behind a bar's words, so that no line of its pattern crosses them."""
    seen = look(kind)
    return "var(--jp-layout-color0, Canvas)" if seen.hollow else seen.colour


def _axis(end: float) -> str:
    """Returns the ticks and their lines behind the bars."""
    parts = []
    for tick in _ticks(end / 2**30):
        left = f"left: {tick * 2**30 / end:.2%}"
        parts.append(
            f'<div style="position: absolute; {left}; top: 0; bottom: 18px; border-left: 1px solid {GREY}55"></div>'
            f'<div style="position: absolute; {left}; bottom: 0; transform: translateX(-50%); font-size: 12px; '
            f'line-height: 16px">{tick:,g}</div>'
        )
    return f'<div style="grid-area: 1 / 2 / span 6; position: relative; align-self: stretch">{"".join(parts)}</div>' + (
        '<div style="grid-area: 6 / 3; font-size: 12px; line-height: 16px">GiB</div>'
        '<div style="grid-area: 1 / 2; height: 18px"></div><div style="grid-area: 6 / 2; height: 16px"></div>'
    )


def _ticks(end: float) -> Iterator[float]:
    """Yields round numbers from 0 up, at most six."""
    power = 10 ** math.floor(math.log10(end / 6))
    step = next(factor * power for factor in (1, 2, 5, 10) if end / (factor * power) <= 6)
    for n in range(int(end / step) + 1):
        yield n * step


def _line(gpu: GpuSpec, end: float) -> str:
    """Returns the GPU's memory as a dashed line across the bars, or as a note at the right if it lies beyond them."""
    place, name = gpu.usable_bytes / end, f"{escape(str(gpu))}: {gib(gpu.usable_bytes)} GiB"
    over = "grid-area: 1 / 2 / span 5; position: relative; align-self: stretch; pointer-events: none"
    label = "position: absolute; top: 0; white-space: nowrap; font-weight: 600; line-height: 18px"
    if place > 1:
        return f'<div style="{over}"><div style="{label}; right: 0">{name}, beyond ▸</div></div>'
    side = f"right: calc({1 - place:.2%} + 5px)" if place > 0.5 else f"left: calc({place:.2%} + 5px)"
    rule = "border-left: 2px dashed var(--jp-ui-font-color1, currentColor)"
    return (
        f'<div style="{over}"><div style="position: absolute; left: {place:.2%}; top: 2px; bottom: -4px; {rule}"></div>'
        f'<div style="{label}; {side}">{name}</div></div>'
    )


def _swatch(kind: str) -> str:
    box = "display: inline-block; width: 22px; height: 12px; margin-right: 8px; vertical-align: -1px"
    return f'<span aria-hidden="true" style="{box}; box-sizing: border-box; {css(kind)}"></span>'
