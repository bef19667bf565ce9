from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from mixlab.memory import Differences, Estimate, Trace, confirm, estimate, trace
from mixlab.memory.categories import PHASES
from mixlab.memory.differences import kept_by_part, part_of
from mixlab.shapes import SHAPES

TRAINING = estimate(replace(SHAPES["gpt2"], layers=2), "amp-bf16", batch=2, seq=128)


@pytest.fixture(scope="module")
def traced() -> Trace:
    return confirm(TRAINING)


def test_every_kind_of_every_phase_stands_beside_the_other(traced: Trace):
    shown = Differences(TRAINING, traced)
    for phase in PHASES:
        kinds = [one for one in shown.kinds if one.when == phase]
        assert {one.what: one.traced for one in kinds if one.traced} == traced.at_phase_peaks[phase]
        assert {one.what: one.estimated for one in kinds if one.estimated} == TRAINING.at_phase_peaks[phase]
    assert shown.at_peak == TRAINING.peak_bytes / traced.peak_bytes - 1


@pytest.mark.parametrize("name", ["gpt2", "llama-3.2-1b"])
@pytest.mark.parametrize(
    ("recipe", "way"),
    [
        ("fp32", {}),
        ("amp-bf16", {}),
        ("bf16", {"checkpointing": "full"}),
        ("amp-bf16", {"attention": "materialised"}),
    ],
)
def test_parts_of_mixlabs_own_layers_keep_what_the_formulas_say(name: str, recipe: str, way: dict[str, str]):
    training = estimate(replace(SHAPES[name], layers=3, vocabulary=1000), recipe, batch=2, seq=256, **way)
    found = Differences(training, confirm(training))
    parts = {one.what: one for one in found.parts}
    assert sum(one.estimated for one in parts.values()) == training.activations.bytes
    for one in parts.values():
        assert one.estimated == pytest.approx(one.traced, rel=0.01, abs=2**17), one
    if "checkpointing" not in way:
        assert set(parts) == {"attention", "feed-forward", "norms", "sums of a layer", "embedding, head and loss"}


def test_the_largest_are_named_with_their_sizes(traced: Trace):
    more = replace(TRAINING, batch=4)
    shown = Differences(more, traced)
    sizes = [abs(one.bytes) for one in shown.largest]
    assert sizes == sorted(sizes, reverse=True)
    assert str(shown.largest[0]) in repr(shown)
    assert f"the estimate is {more.peak_bytes / traced.peak_bytes - 1:+.2%} from the trace" in repr(shown)
    assert "largest differences: none above 0.2 % of the peak" not in repr(shown)
    assert not re.search(r"-0\.0+(?!\d)", repr(Differences(TRAINING, traced)))
    assert repr(Differences(TRAINING, traced)).endswith("largest differences: none above 0.2 % of the peak")


def test_tables_hold_every_kind_and_part(traced: Trace):
    shown = Differences(TRAINING, traced)
    for text in (repr(shown), re.sub("<[^>]*>", "", shown._repr_html_())):
        assert all(one.what in text for one in (*shown.kinds, *shown.parts))
    together = next(line for line in repr(shown).splitlines() if line.startswith("together")).split()[1:]
    assert together[0] == f"{traced.phase_peaks['forward'] / 2**20:,.1f}"
    assert together[-1] == f"{TRAINING.phase_peaks['step'] / 2**20:,.0f}"  # from a thousand up, in whole MiB


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("layers.0.attention.query", "attention"),
        ("layers.0.feed_forward.gate", "feed-forward"),
        ("layers.11", "sums of a layer"),
        ("layers.2.norm_1", "norms"),
        ("model.layers.3.self_attn.q_norm", "norms"),
        ("model.layers.3.mlp.gate_proj", "feed-forward"),
        ("model.layers.3.mlp.experts", "experts"),
        ("model.layers.3.mlp.gate", "experts"),
        ("model.layers.3.block_sparse_moe", "experts"),
        ("model.layers.3.input_layernorm", "norms"),
        ("transformer.h.0.ln_1", "norms"),
        ("transformer.h.0.attn.c_attn", "attention"),
        ("model.norm", "embedding, head and loss"),
        ("(loss)", "embedding, head and loss"),
        ("(model)", "embedding, head and loss"),
        ("lm_head", "embedding, head and loss"),
    ],
)
def test_a_part_is_known_by_the_path_of_its_module(path: str, part: str):
    assert part_of(path) == part


def test_what_is_kept_is_all_that_is_alive_as_forward_ends(traced: Trace):
    assert sum(kept_by_part(traced).values()) == traced.at_end["forward"]["activations"]


def test_only_a_trace_and_an_estimate_of_one_training_are_compared(traced: Trace):
    with pytest.raises(TypeError, match="estimate must be of type Estimate"):
        Differences(traced, traced)
    with pytest.raises(TypeError, match="trace must be of type Trace"):
        Differences(TRAINING, TRAINING)
    other: Estimate = replace(TRAINING, recipe=estimate("gpt2", "fp32").recipe)
    with pytest.raises(ValueError, match="must have one recipe, got amp-bf16 and fp32"):
        Differences(other, traced)
    on_cpu = trace(torch.nn.Linear(3, 3), (torch.ones(2, 3), torch.arange(2)), "amp-bf16", as_on="cpu")
    with pytest.raises(ValueError, match="estimates are for CUDA"):
        Differences(TRAINING, on_cpu)
