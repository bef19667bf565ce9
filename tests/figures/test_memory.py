from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import plotly.graph_objects as go
import pytest

from mixlab import Recipe
from mixlab.figures import batch_lines, phase_bars, state_bars, timeline
from mixlab.memory import (
    GPUS,
    VARIANTS,
    GpuSpec,
    Parallelism,
    Trace,
    break_even_batch,
    estimate,
    gpu_spec,
    largest_batch,
    suggestions,
)
from mixlab.memory.allocation_log import Allocation
from mixlab.memory.categories import PHASES
from mixlab.memory.traced_step import Span
from mixlab.reports import (
    FitsTable,
    change_line,
    css,
    fits_line,
    fits_row,
    look,
    memory_line,
    phase_picture,
    phase_table,
    stacked,
)
from mixlab.reports.phases import training_line

GPT2 = estimate("gpt2", "amp-bf16", batch=8, seq=1024)
A4090, T4 = gpu_spec("rtx-4090"), gpu_spec("t4")


def parsed(html: str) -> ElementTree.Element:
    """Returns it as a tree: what is not well-formed raises."""
    return ElementTree.fromstring(html)


def words(html: str) -> str:
    return " ".join(" ".join(parsed(html).itertext()).split())


def bars(figure: go.Figure) -> dict[str, list[float]]:
    return {bar.name: list(bar.x) for bar in figure.data}


# Kinds


def test_kinds_that_stand_in_one_bar_differ_in_colour_or_pattern():
    variants = [list(one.parts) + list(one.passing) for one in VARIANTS.values()]
    phases = [list(content) for text in ("fp32", "bf16-kahan", "amp-bf16") for content in _phases(text)]
    for kinds in (*variants, *phases, list(GPT2.outside)):
        looks = [(look(kind).colour, look(kind).pattern) for kind in kinds]
        assert len(set(looks)) == len(kinds), kinds


def _phases(text: str) -> list[dict[str, int]]:
    sharded = estimate("llama-3.2-1b", text, parallel=Parallelism(data=2, zero=3))
    return [*sharded.at_phase_peaks.values(), *estimate("gpt2", text).at_phase_peaks.values()]


def test_states_keep_their_place_over_time():
    kinds = {"activations": 1, "gradients": 1, "exp_avg_sq": 1, "exp_avg": 1, "parameters": 1}
    assert stacked(kinds) == ["parameters", "gradients", "exp_avg", "exp_avg_sq", "activations"]
    assert stacked(kinds, over_time=True) == ["parameters", "exp_avg", "exp_avg_sq", "gradients", "activations"]
    assert stacked(["new", "parameters", "new"]) == ["parameters", "new"]


def test_what_lies_outside_of_tensors_is_hollow():
    assert [look(kind).hollow for kind in (*GPT2.at_peak, *GPT2.outside)] == [False] * len(GPT2.at_peak) + [True] * 3
    assert "linear-gradient(#0072B2, #0072B2); color: white" in css("parameters")
    assert "#8C8C8C 0 1.5px" in css("CUDA context")
    assert "radial-gradient" in css("activations")
    assert css("something new").count("repeating-linear-gradient") == 2


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
    assert casts.opacity < 1
    assert list(casts.customdata) == [one.source for one in VARIANTS.values()]


def test_phases_are_stacked_to_their_peaks():
    figure = phase_bars(GPT2, A4090)
    sizes = bars(figure)
    sums = [sum(column) * 2**30 for column in zip(*sizes.values(), strict=True)]
    assert sums == pytest.approx([*(GPT2.phase_peaks.values()), GPT2.total_bytes])
    assert sizes["activations"][:2] == [GPT2.at_phase_peaks[phase]["activations"] / 2**30 for phase in PHASES[:2]]
    assert [note.text for note in figure.layout.annotations] == [
        *("7.54", "8.31 peak", "2.32", "<b>9.52 GiB</b>", "<b>rtx-4090</b>: 24.0 GiB")
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
        "<b>t4</b>: 15.0 GiB",
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


# A page's


def test_the_picture_and_the_table_say_the_numbers():
    picture, table = parsed(phase_picture(GPT2, A4090)), words(phase_table(GPT2))
    said = "forward 7.54 GiB; backward 8.31 GiB, the peak; step 2.32 GiB; in all 9.52 GiB; rtx-4090 has 23.99 GiB"
    assert picture.get("aria-label") == said
    assert picture.get("role") == "img"
    assert table.startswith("GiB at the peak of forward backward (peak) step parameters 0.46 0.46 0.46 exp_avg")
    assert "weights cast by autocast 0.23 0.23 activations 5.15 5.15 temporaries 0.77 1.53 0.46" in table
    assert "together 7.54 8.31 2.32 cuBLAS workspaces, modelled 0.06" in table


def widths(html: str) -> list[float]:
    return [float(share) for share in re.findall(r"flex: 0 0 ([\d.]+)%", html)]


@pytest.mark.parametrize("name", ["t4", "rtx-4090", "h200"])
def test_the_line_stands_where_the_memory_ends(name):
    gpu = gpu_spec(name)
    html = phase_picture(GPT2, gpu)
    if name == "h200":  # far more than is needed: beyond the picture
        assert "h200: 140.40 GiB, beyond" in html
        assert "dashed" not in html
    else:
        (place,) = re.findall(r"left: ([\d.]+)%; top: 2px", html)
        whole = sum(widths(html)[-4:])
        assert float(place) / whole == pytest.approx(gpu.usable_bytes / GPT2.total_bytes, rel=0.01)
    assert max(widths(html)) <= 100


@pytest.mark.parametrize("model", ["gpt2", "llama-3-8b", "llama-3.1-405b"])
@pytest.mark.parametrize("gpu", [T4, gpu_spec("mi355x")], ids=str)
def test_bars_never_leave_the_picture(model, gpu):
    html = phase_picture(estimate(model, "bf16", seq=128), gpu)
    ticks = [float(tick) for tick in re.findall(r"position: absolute; left: ([\d.]+)%; bottom: 0", html)]
    assert 3 <= len(ticks) <= 7
    assert all(before < after for before, after in pairwise(ticks))
    assert ticks[-1] <= 100
    assert all(float(left) <= 100 for left in re.findall(r"left: ([\d.]+)%; top: 2px", html))


def test_the_words_say_what_the_bars_show():
    assert memory_line(GPT2, A4090) == (
        "gpt2 under amp-bf16, 8 x 1024 tokens. Memory peaks in backward (gradient of the logits) with 8.31 GiB: "
        "activations 5.15, temporaries 1.53, parameters 0.46. With 1.22 GiB outside of tensors it needs 9.52 GiB, and "
        "it fits on rtx-4090: 14.46 GiB are left."
    )
    large = replace(GPT2, batch=16)
    assert memory_line(large, T4).endswith("and it does not fit on t4: 1.75 GiB are missing.")
    less = estimate("llama-3-8b", "bf16", attention="materialised", checkpointing="full", step="fused")
    everything = replace(less, accumulation=4, parallel=Parallelism(data=2, zero=3))
    assert training_line(everything) == (
        "llama-3-8b under bf16, 1 x 2048 tokens, 4 passes a step, materialised attention, checkpointing full, "
        "optimizer's step fused, each of 2 GPUs (data 2, ZeRO 3)"
    )


def test_a_change_is_a_line():
    change = suggestions(replace(GPT2, batch=16), T4)[0]
    line = words(change_line(change))
    assert line.startswith(f"{change.change} : {change.saved_bytes / 2**30:.2f} GiB less")
    assert "✓ fits. Price: " in line


def test_every_gpu_is_in_the_row_and_says_it_by_signs():
    large = replace(GPT2, batch=24)
    chips = [" ".join(" ".join(item.itertext()).split()) for item in parsed(fits_row(large, A4090))]
    assert len(chips) == len(GPUS)
    assert chips[0].startswith("✗ t4")
    assert chips[0].endswith("GiB missing")
    assert chips[-1].startswith("✓ mi355x")
    assert [chip for chip in chips if "▶" in chip] == [chip for chip in chips if "rtx-4090" in chip]
    assert fits_row(large, A4090).count("aria-current") == 1
    own = GpuSpec("mine", 2**36, 1e12, {"fp32": 1e13})
    assert "▶ mine" in fits_row(large, own)


def test_the_fewer_are_named():
    two = [T4, A4090]
    assert fits_line(GPT2, two) == "It fits on all 2 GPUs."
    assert fits_line(replace(GPT2, batch=16), two) == "It fits on 1 of 2 GPUs: rtx-4090."
    assert fits_line(replace(GPT2, batch=16), [*two, gpu_spec("h200")]) == "It fits on 2 of 3 GPUs, not on t4."
    assert fits_line(replace(GPT2, batch=99), two) == "It fits on none of the 2 GPUs."


def test_the_table_has_the_largest_batches():
    table = FitsTable({"AMP": replace(GPT2, batch=16), "large": estimate("llama-3-8b", "fp32", batch=16)}, [A4090, T4])
    assert table.columns == ("GPU", "GiB", "AMP", "large")
    assert table.rows == [
        ("t4", "15.0", f"✗ up to {largest_batch(GPT2, T4)}", "✗ not even 1"),
        ("rtx-4090", "24.0", f"✓ up to {largest_batch(GPT2, A4090)}", "✗ not even 1"),
    ]
    assert repr(table).endswith("with 16 rows of a batch; then the most rows that fit. Modelled, not measured.")
    assert "<th style='text-align: left'>t4</th>" in table._repr_html_()
    assert "with their own rows of a batch" in FitsTable({"a": GPT2, "b": replace(GPT2, batch=1)}, [T4]).note


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
