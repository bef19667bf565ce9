"""What fills a GPU, as pages, tables and words."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from mixlab.memory import GPUS, VARIANTS, GpuSpec, Parallelism, estimate, gpu_spec, largest_batch, suggestions
from mixlab.reports import FitsTable, change_line, fits_line, fits_row, memory_line, phase_picture, phase_table
from mixlab.reports.colours import BLUE, GREY
from mixlab.reports.kinds import css, look, stacked
from mixlab.reports.phases import parameter_words, training_line
from mixlab.shapes import Experts, ModelShape, model_shape

GPT2 = estimate("gpt2", "amp-bf16", batch=8, seq=1024)
A4090, T4 = gpu_spec("rtx-4090"), gpu_spec("t4")


def parsed(html: str) -> ElementTree.Element:
    """Returns it as a tree: what is not well-formed raises."""
    return ElementTree.fromstring(html)


def words(html: str) -> str:
    return " ".join(" ".join(parsed(html).itertext()).split())


@pytest.mark.parametrize(
    ("width", "said"), [(12, "1,932"), (600, "4.33 M"), (8160, "799 M"), (9127, "1 B"), (26000, "8.11 B")]
)
def test_parameters_are_counted_to_three_digits_from_a_million_up(width: int, said: str):
    shape = ModelShape("one", 1, width, 1, 1, 4 * width, 1, True, 1, "gpt2")
    assert parameter_words(shape) == said


def test_of_a_mixture_of_experts_the_active_parameters_are_said_too():
    experts = Experts(count=8, active=2, width=14336)
    shape = replace(model_shape("mistral-7b"), style="mixtral", experts=experts)
    assert parameter_words(shape) == "46.7 B, 12.9 B active"
    assert training_line(estimate(shape, "bf16", seq=64)).startswith("mistral-7b (46.7 B, 12.9 B active) under bf16, ")


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
    assert f"linear-gradient({BLUE}, {BLUE}); color: white" in css("parameters")
    assert f"{GREY} 0 1.5px" in css("CUDA context")
    assert "radial-gradient" in css("activations")
    assert css("something new").count("repeating-linear-gradient") == 2


# A page's


def test_the_picture_and_the_table_say_the_numbers():
    picture, table = parsed(phase_picture(GPT2, A4090)), words(phase_table(GPT2))
    said = "forward 7.54 GiB; backward 8.31 GiB, the peak; step 2.32 GiB; in all 9.69 GiB; rtx-4090 has 23.52 GiB"
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
        assert "h200: 139.72 GiB, beyond" in html
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
        "activations 5.15, temporaries 1.53, parameters 0.46. With 1.38 GiB outside tensors it needs 9.69 GiB, and "
        "it fits on rtx-4090: 13.83 GiB are left."
    )
    large = replace(GPT2, batch=16)
    assert memory_line(large, T4).endswith("and it does not fit on t4: 2.62 GiB are missing.")
    less = estimate("llama-3-8b", "bf16", attention="materialised", checkpointing="full", step="fused")
    everything = replace(less, accumulation=4, parallel=Parallelism(data=2, zero=3))
    assert training_line(everything) == (
        "llama-3-8b under bf16, 1 x 2048 tokens, 4 passes per step, materialised attention, checkpointing full, "
        "optimizer's step fused, each of 2 GPUs (data 2, ZeRO 3)"
    )


def test_a_change_is_a_line():
    change = suggestions(replace(GPT2, batch=16), T4)[0]
    line = words(change_line(change))
    assert line.startswith(f"{change.saved_bytes / 2**30:.2f} GiB less")
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
        ("t4", "14.6", f"✗ up to {largest_batch(GPT2, T4)}", "✗ not even 1"),
        ("rtx-4090", "23.5", f"✓ up to {largest_batch(GPT2, A4090)}", "✗ not even 1"),
    ]
    assert repr(table).endswith("with 16 rows of a batch; then the most rows that fit. Modelled, not measured.")
    assert "<th style='text-align: left'>t4</th>" in table._repr_html_()
    assert "with their own rows of a batch" in FitsTable({"a": GPT2, "b": replace(GPT2, batch=1)}, [T4]).note
