"""What fills a GPU: bytes by kind, for designs and for estimates, and against the batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mixlab.figures.theme import ARROW, BELOW, escaped, hatched, styled
from mixlab.memory import Estimate, GpuSpec, Variant
from mixlab.memory.categories import PHASES
from mixlab.reports.colours import DASHES, GREY, SERIES
from mixlab.reports.kinds import look, stacked

_MODELLED = "by formulas for CUDA, not measured"
_KEPT, _PASSING = 0.86, 0.6  # of a row: the bars of what is kept, and of what lives only within a step
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")


def state_bars(variants: Iterable[Variant]) -> go.Figure:
    """Draws one bar per design: bytes per parameter by kind, with Adam; bytes that live only within a step are thinner.

    Args:
        variants: From `mixlab.memory.VARIANTS`.

    Raises:
        ValueError: If there are no variants.
    """
    shown = list(variants)
    if not shown:
        raise ValueError("state_bars: no variants; mixlab.memory.VARIANTS has some")
    figure = go.Figure()
    names = [variant.name for variant in shown]
    for kept, parts in ((True, [v.parts for v in shown]), (False, [v.passing for v in shown])):
        for kind in stacked(name for part in parts for name in part):
            sizes = [part.get(kind, 0) for part in parts]
            figure.add_bar(
                name=kind,
                x=sizes,
                y=names,
                orientation="h",
                marker=_marker(kind),
                width=_KEPT if kept else _PASSING,
                text=[f"{size:.3g}" if size >= 1 else "" for size in sizes],
                textposition="inside",
                insidetextanchor="middle",
                insidetextfont={"color": look(kind).ink},
                textangle=0,
                customdata=[variant.source for variant in shown],
                hovertemplate="%{y}, " + kind + ": %{x:.3g} bytes<br>%{customdata}<extra></extra>",
            )
    for variant in shown:
        least, most = variant.bytes_per_parameter, variant.most_bytes_per_parameter
        words = f"<b>{least:.4g}</b>" + (f" to {most:.4g}" if most > least else "")
        figure.add_annotation(x=most, y=variant.name, text=words, showarrow=False, xanchor="left", xshift=4)
    said = "counted from recipes; thin: only within a step, at most; point at a bar for its source"
    title = f"Bytes per parameter with Adam as it steps, without activations<br><sub>{said}</sub>"
    figure = _stacked_bars(figure, title, f"{'; '.join(map(_design, shown))}.", rows=len(shown))
    return figure.update_xaxes(range=[0, 1.12 * max(variant.most_bytes_per_parameter for variant in shown)])


def phase_bars(estimates: Estimate | Mapping[str, Estimate], gpu: GpuSpec | None = None) -> go.Figure:
    """Draws what fills memory at the peak of each phase, and all memory needed, in GiB.

    The last bar of each estimate is its peak and, hollow, the memory outside tensors.

    Args:
        estimates: One estimate, or several by label.
        gpu: A GPU whose memory is drawn as a line; None draws no line.

    Raises:
        ValueError: If there are no estimates.
    """
    by_label = {"": estimates} if isinstance(estimates, Estimate) else dict(estimates)
    peaks = {escaped(label): one.peak_phase for label, one in by_label.items()}
    if not by_label:
        raise ValueError("phase_bars: no estimates; mixlab.memory.estimate makes one")
    rows: list[tuple[str, str, Mapping[str, int]]] = []
    for label, one in by_label.items():
        rows += [(escaped(label), phase, one.at_phase_peaks[phase]) for phase in PHASES]
        rows.append((escaped(label), "in all", {"tensors at the peak": one.peak_bytes, **one.outside}))
    places: Any = [phase for _, phase, _ in rows]
    if len(by_label) > 1:
        places = [[label for label, _, _ in rows], places]
    figure = go.Figure()
    for kind in stacked((name for _, _, content in rows for name in content), over_time=True):
        figure.add_bar(
            name=kind,
            x=[_gib(content.get(kind, 0)) for _, _, content in rows],
            y=places,
            orientation="h",
            marker=_marker(kind),
            hovertemplate="%{y}, " + kind + ": %{x:.2f} GiB<extra></extra>",
        )
    for place, (label, phase, content) in enumerate(rows):
        total = sum(content.values())
        words = f"{_gib(total):.2f}" + (" peak" if phase == peaks[label] else "")
        words = f"<b>{words} GiB</b>" if phase == "in all" else words
        figure.add_annotation(x=_gib(total), y=place, text=words, showarrow=False, xanchor="left", xshift=4)
    if gpu is not None:
        _line_of(figure, gpu, upright=True)
    one = next(iter(by_label.values()))
    title = f"Memory of a step, by phase<br><sub>{_training(one, with_recipe=len(by_label) == 1)}, {_MODELLED}</sub>"
    figure = _stacked_bars(figure, title, _phases(by_label, gpu), rows=len(rows))
    end = max(*(one.total_bytes for one in by_label.values()), gpu.usable_bytes if gpu else 0)
    figure.update_xaxes(range=[0, 1.12 * _gib(end)], title="GiB", side="bottom", showgrid=True)
    return figure.update_layout(legend_y=-75 / (45 + 30 * len(rows)))  # below the axis' title


def batch_lines(estimates: Mapping[str, Estimate], batches: Sequence[int], *, gpu: GpuSpec | None = None) -> go.Figure:
    """Draws the peak memory of several recipes against the batch; below, the difference of each from the first.

    An arrow marks the batch from which a recipe needs less than the first. Memory outside tensors is not included.

    Args:
        estimates: Estimates for one model, by label; their own batch is ignored.
        batches: Rows of a batch, ascending.
        gpu: A GPU whose memory is drawn as a line; None draws no line.

    Raises:
        ValueError: If there are fewer than two estimates, or no batches.
    """
    if len(estimates) < 2 or not len(batches):
        raise ValueError("batch_lines: give at least two estimates, by label, and one batch")
    peaks = {label: [replace(one, batch=batch).peak_bytes for batch in batches] for label, one in estimates.items()}
    base = next(iter(peaks))
    titles = ["peak", f"more or less than {escaped(base)}"]
    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.12, subplot_titles=titles)
    for index, (label, sizes) in enumerate(peaks.items()):
        look_of = {
            "line": {"color": SERIES[index % len(SERIES)], "dash": DASHES[index % len(DASHES)], "width": 2},
            "marker": {"symbol": _SYMBOLS[index % len(_SYMBOLS)], "size": 6},
        }
        more = [(size - other) / 2**20 for size, other in zip(sizes, peaks[base], strict=True)]
        for row, values, unit in ((1, [_gib(size) for size in sizes], ".2f} GiB"), (2, more, "+,.0f} MiB")):
            words = f"{escaped(label)}: %{{y:{unit}<extra></extra>"
            trace = go.Scatter(x=list(batches), y=values, mode="lines+markers", hovertemplate=words, **look_of)
            figure.add_trace(
                trace.update(name=escaped(label), legendgroup=escaped(label), showlegend=row == 1), row=row, col=1
            )
        if (place := _first_below_zero(more)) is not None:
            words = f"<b>{escaped(label)}</b>: less from batch {batches[place]} on"
            at = {"x": batches[place], "y": more[place], "row": 2, "col": 1}
            figure.add_annotation(text=words, ax=20, ay=-28 - 20 * index, xanchor="left", **at, **ARROW)
    if gpu is not None:
        _line_of(figure, gpu, upright=False)
    one = next(iter(estimates.values()))
    title = f"Memory against the batch<br><sub>{_training(one, with_batch=False)}, {_MODELLED}</sub>"
    figure = styled(figure, title=title, summary=_ends(peaks, batches), height=560)
    figure.update_layout(margin={"t": 100, "b": 110}, legend={**BELOW, "y": -0.16})
    figure.update_yaxes(title="GiB", rangemode="tozero", row=1, col=1).update_yaxes(title="MiB", row=2, col=1)
    return figure.update_xaxes(title="rows of a batch", row=2, col=1)


def _ends(peaks: Mapping[str, Sequence[int]], batches: Sequence[int]) -> str:
    """Says what each needs at the smallest and at the largest batch, and from where it needs less than the first."""
    base, *others = peaks
    each = []
    for label, sizes in peaks.items():
        words = f"{label} {_gib(sizes[0]):.2f} GiB at batch {batches[0]} and {_gib(sizes[-1]):.2f} GiB at {batches[-1]}"
        place = _first_below_zero([size - other for size, other in zip(sizes, peaks[base], strict=True)])
        less = f", less than {base} from batch {batches[place]} on" if label in others and place is not None else ""
        each.append(words + less)
    return f"{'; '.join(each)}."


def _marker(kind: str) -> dict[str, Any]:
    seen = look(kind)
    return hatched(seen.colour, seen.pattern, hollow=seen.hollow)


def _design(variant: Variant) -> str:
    least, most = variant.bytes_per_parameter, variant.most_bytes_per_parameter
    return f"{variant.name} {least:.4g}{f' to {most:.4g}' if most > least else ''} bytes per parameter"


def _phases(estimates: Mapping[str, Estimate], gpu: GpuSpec | None) -> str:
    each = []
    for label, one in estimates.items():
        phases = ", ".join(f"{phase} {_gib(one.phase_peaks[phase]):.2f}" for phase in PHASES)
        each.append(f"{f'{label}: ' if label else ''}{phases}, in all {_gib(one.total_bytes):.2f} GiB")
    return f"{'; '.join(each)}.{f' {gpu} has {_gib(gpu.usable_bytes):.1f} GiB.' if gpu else ''}"


def _stacked_bars(figure: go.Figure, title: str, summary: str, *, rows: int) -> go.Figure:
    figure = styled(figure, title=title, summary=summary, height=250 + 30 * rows)
    figure.update_layout(
        barmode="stack",
        hovermode="closest",
        margin={"t": 95, "b": 110},
        legend={**BELOW, "y": -0.06},
        uniformtext={"minsize": 10, "mode": "hide"},
    )
    figure.update_yaxes(autorange="reversed", automargin=True, showgrid=False)
    return figure.update_xaxes(title="", side="top", showgrid=False)


def _line_of(figure: go.Figure, gpu: GpuSpec, *, upright: bool) -> None:
    """Draws a GPU's memory as a line, across the bars or along the batches."""
    line = {"color": GREY, "width": 2, "dash": "dash"}
    words = f"<b>{gpu}</b>: {_gib(gpu.usable_bytes):.1f} GiB"
    if upright:
        figure.add_vline(x=_gib(gpu.usable_bytes), line=line, annotation_text=words, annotation_position="top left")
    else:
        where = {"row": 1, "col": 1, "annotation_position": "top left"}
        figure.add_hline(y=_gib(gpu.usable_bytes), line=line, annotation_text=words, **where)


def _first_below_zero(more: Sequence[float]) -> int | None:
    """Returns the place from which all numbers are below zero; None if the last is not, or if all are."""
    below = [value < 0 for value in more]
    return None if not below[-1] or all(below) else len(below) - below[::-1].index(False)


def _training(one: Estimate, *, with_batch: bool = True, with_recipe: bool = False) -> str:
    words = [one.shape.name, str(one.recipe) if with_recipe else ""]
    words += [f"{one.batch} x {one.seq} tokens" if with_batch else f"rows of {one.seq} tokens"]
    words += [f"{one.attention} attention", f"checkpointing {one.checkpointing}" if one.checkpointing != "none" else ""]
    words += [str(one.parallel) if one.parallel.gpus > 1 else ""]
    return ", ".join(word for word in words if word)


def _gib(size: int) -> float:
    return size / 2**30
