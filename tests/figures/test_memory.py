from __future__ import annotations

from dataclasses import replace

import plotly.graph_objects as go
import pytest

from mixlab import Recipe
from mixlab.figures import batch_lines, phase_bars, state_bars, timeline
from mixlab.memory import (
    VARIANTS,
    Trace,
    break_even_batch,
    estimate,
    gpu_spec,
)
from mixlab.memory.allocation_log import Allocation
from mixlab.memory.categories import PHASES
from mixlab.memory.traced_step import Span
from mixlab.reports import FitsTable
from mixlab.reports.kinds import stacked

GPT2 = estimate("gpt2", "amp-bf16", batch=8, seq=1024)
A4090, T4 = gpu_spec("rtx-4090"), gpu_spec("t4")


def bars(figure: go.Figure) -> dict[str, list[float]]:
    return {bar.name: list(bar.x) for bar in figure.data}


# Plotly's


def test_designs_are_stacked_to_their_bytes():
    figure = state_bars(VARIANTS.values())
    sizes = bars(figure)
    sums = [sum(column) for column in zip(*sizes.values(), strict=True)]
    assert sums == pytest.approx([one.most_bytes_per_parameter for one in VARIANTS.values()])
    assert list(sizes) == stacked(sizes)
    totals = [note.text for note in figure.layout.annotations]
    assert totals[:6] == ["<b>16</b>", "<b>16</b> to 18", "<b>18</b>", "<b>20</b>", "<b>16</b>", "<b>12</b> to 14"]
    casts = next(bar for bar in figure.data if bar.name == "weights cast by autocast")
    assert casts.width < figure.data[0].width
    assert list(casts.customdata) == [one.source for one in VARIANTS.values()]


def test_phases_are_stacked_to_their_peaks():
    figure = phase_bars(GPT2, A4090)
    sizes = bars(figure)
    sums = [sum(column) * 2**30 for column in zip(*sizes.values(), strict=True)]
    assert sums == pytest.approx([*(GPT2.phase_peaks.values()), GPT2.total_bytes])
    assert sizes["activations"][:2] == [GPT2.at_phase_peaks[phase]["activations"] / 2**30 for phase in PHASES[:2]]
    assert [note.text for note in figure.layout.annotations] == [
        *("7.54", "8.31 peak", "2.32", "<b>9.69 GiB</b>", "<b>rtx-4090</b>: 23.5 GiB")
    ]
    assert figure.layout.shapes[0].x0 == A4090.usable_bytes / 2**30
    assert "amp-bf16, 8 x 1024 tokens, fused attention, by formulas for CUDA, not measured" in figure.layout.title.text


def test_several_estimates_stand_below_each_other():
    figure = phase_bars({text: replace(GPT2, recipe=Recipe.parse(text)) for text in ("fp32", "bf16")})
    labels, phases = figure.data[0].y
    assert list(labels) == ["fp32"] * 4 + ["bf16"] * 4
    assert list(phases) == [*PHASES, "in all"] * 2


def test_lines_cross_where_break_even_is():
    lines = {text: estimate("gpt2", text, seq=128) for text in ("fp32", "amp-bf16", "lean-bf16")}
    figure = batch_lines(lines, range(1, 13), gpu=T4)
    assert [note.text for note in figure.layout.annotations] == [
        "peak",
        "more or less than fp32",
        f"<b>amp-bf16</b>: less from batch {break_even_batch('gpt2', seq=128)} on",
        "<b>t4</b>: 14.6 GiB",
    ]
    by_axis = {(trace.name, trace.yaxis): trace for trace in figure.data}
    assert by_axis["fp32", "y"].y[3] == replace(lines["fp32"], batch=4).peak_bytes / 2**30
    assert set(by_axis["fp32", "y2"].y) == {0}
    assert [trace.showlegend for trace in figure.data] == [True, False] * 3
    looks = {(trace.line.color, trace.line.dash, trace.marker.symbol) for trace in figure.data}
    assert len(looks) == 3


def test_lines_that_never_cross_have_no_mark():
    lines = {"fp32": estimate("gpt2", "fp32", seq=128), "bf16": estimate("gpt2", "bf16", seq=128)}
    assert [note.text for note in batch_lines(lines, [1, 2]).layout.annotations][2:] == []


def traced() -> Trace:
    """Five allocations, of 4, 4, 8, 2 and 6 GiB: two live on, activations die in backward, a gradient later."""
    sizes = {"parameters": 4, "exp_avg": 4, "activations": 8, "temporaries": 2, "gradients": 6}
    spans = (Span("forward", 2, 3), Span("backward", 3, 7), Span("step", 7, 8))
    log = (0, 1, 2, 3, 4, ~2, ~3, ~4)
    lives = {number: (log.index(number), log.index(~number) if ~number in log else -1) for number in range(5)}
    allocations = [
        Allocation(size * 2**30, kind, "", "forward", "", *lives[i]) for i, (kind, size) in enumerate(sizes.items())
    ]
    return Trace(Recipe(), "cuda", 10, tuple(allocations), log, spans)


def test_the_timeline_stacks_categories_and_points_at_the_peak():
    figure = timeline(traced())
    areas = {area.name: list(area.y) for area in figure.data}
    assert areas == {
        "parameters": [4] * 7,
        "exp_avg": [4] * 7,
        "gradients": [0, 0, 0, 6, 6, 6, 0],
        "activations": [0, 8, 8, 8, 0, 0, 0],
        "temporaries": [0, 0, 2, 2, 2, 0, 0],
    }
    assert len({area.stackgroup for area in figure.data}) == 1
    notes = figure.layout.annotations
    assert [note.text for note in notes[:3]] == ["<b>forward</b>", "<b>backward</b>", "<b>step</b>"]
    assert notes[3].text == "<b>peak 24.00 GiB, in backward</b><br>activations 8.00, gradients 6.00, parameters 4.00"
    assert (notes[3].x, notes[3].y) == (3, 24)
    assert [shape.x0 for shape in figure.layout.shapes] == [0, 1, 5]
    assert max(len(area.x) for area in timeline(traced(), points=3).data) == 3


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: state_bars([]), "no variants"),
        (lambda: phase_bars({}), "no estimates"),
        (lambda: batch_lines({"a": GPT2}, [1]), "at least two estimates"),
        (lambda: batch_lines({"a": GPT2, "b": GPT2}, []), "one batch"),
        (lambda: FitsTable({}), "no estimates"),
    ],
)
def test_nothing_to_draw_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()
