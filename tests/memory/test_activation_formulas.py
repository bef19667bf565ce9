from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mixlab import Recipe
from mixlab.memory import Activations, Parallelism, Trace, activations, trace, transformer
from mixlab.memory.categories import ACTIVATIONS
from mixlab.shapes import SHAPES, ModelShape

# Small, of sizes that are multiples of the allocator's 512 bytes.
GPT2 = ModelShape("tiny gpt2", 2, 128, 4, 4, 512, 256, True, 64, "gpt2")
LLAMA = ModelShape("tiny llama", 2, 128, 4, 4, 384, 256, False, 64)
GROUPED = ModelShape("tiny grouped", 2, 128, 4, 2, 384, 256, True, 64, qkv_bias=True)


def traced(shape: ModelShape, recipe: str, batch: int, seq: int, **kinds: str) -> Trace:
    with torch.device("meta"):
        model = transformer(shape, **kinds)
    tokens = torch.zeros(batch, seq, dtype=torch.long, device="meta")
    return trace(model, (tokens, tokens), recipe, as_on="cuda")


def kept(trace: Trace) -> int:
    """Returns the bytes of activations at the end of forward."""
    (end,) = (span.last for span in trace.spans if span.phase == "forward")
    alive = (allocation for allocation in trace.allocations if allocation.born < end and not 0 <= allocation.died < end)
    return sum(allocation.bytes for allocation in alive if allocation.category == ACTIVATIONS)


CASES = [
    (GPT2, "fp32", "fused", "none"),
    (GROUPED, "fp32", "materialised", "selective"),
    (GPT2, "amp-bf16", "fused", "selective"),
    (GPT2, "amp-fp16", "materialised", "none"),
    (GROUPED, "amp-bf16", "fused", "none"),
    (LLAMA, "amp-bf16", "materialised", "selective"),
    (LLAMA, "amp-bf16", "fused", "full"),
    (LLAMA, "bf16", "fused", "none"),
    (GPT2, "bf16", "materialised", "full"),
    (GROUPED, "bf16", "materialised", "none"),
]
ALL = [
    (shape, recipe, attention, checkpointing)
    for shape in (GPT2, LLAMA, GROUPED)
    for recipe in ("fp32", "amp-bf16", "amp-fp16", "bf16", "bf16-master", "lean-bf16")
    for attention in ("fused", "materialised")
    for checkpointing in ("none", "selective", "full")
]


def hold_against_the_trace(shape, recipe, attention, checkpointing):
    kinds = {"attention": attention, "checkpointing": checkpointing}
    found = kept(traced(shape, recipe, 2, 64, **kinds))
    # The loss and the sum of its weights are a block of 512 bytes each.
    assert found == activations(shape, recipe, batch=2, seq=64, **kinds).bytes + 2 * 512


@pytest.mark.parametrize(("shape", "recipe", "attention", "checkpointing"), CASES)
def test_they_are_those_of_the_trace_to_the_byte(shape, recipe, attention, checkpointing):
    hold_against_the_trace(shape, recipe, attention, checkpointing)


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "recipe", "attention", "checkpointing"), ALL)
def test_all_of_them_are_those_of_the_trace_to_the_byte(shape, recipe, attention, checkpointing):
    hold_against_the_trace(shape, recipe, attention, checkpointing)


@pytest.mark.parametrize(("name", "recipe"), [("gpt2", "amp-bf16"), ("llama-3.2-1b", "bf16")])
def test_a_layer_costs_what_the_formula_says_at_full_width(name, recipe):
    two, three = (traced(replace(SHAPES[name], layers=layers), recipe, 1, 128) for layers in (2, 3))
    layer = (kept(three) - kept(two)) / (128 * SHAPES[name].width)
    assert layer == pytest.approx(activations(name, recipe, seq=128).per_layer, abs=5e-4)


@pytest.mark.parametrize(
    ("name", "recipe", "each"),
    [
        ("gpt2", "fp32", 64.08),
        ("gpt2", "amp-bf16", 40.08),
        ("gpt2", "bf16", 32.08),
        ("llama-2-7b", "fp32", 75.03),
        ("llama-2-7b", "amp-fp16", 47.53),
        ("llama-2-7b", "bf16-master", 37.53),
        ("llama-3-8b", "tf32", 88.03),
        ("llama-3-8b", "lean-bf16", 54.03),
        ("llama-3-8b", "bf16", 44.03),
    ],
)
def test_bytes_a_layer_for_each_token_and_width(name, recipe, each):
    assert activations(name, recipe, seq=1024).per_layer == pytest.approx(each, abs=0.005)


@pytest.mark.parametrize(("recipe", "each"), [("fp32", 4), ("amp-bf16", 4), ("bf16", 2)])
def test_full_checkpointing_keeps_a_layers_input(recipe, each):
    assert activations("llama-3-8b", recipe, checkpointing="full").per_layer == each


@pytest.mark.parametrize(("seq", "t", "sequence"), [(512, 1, False), (1024, 4, False), (1024, 4, True)])
def test_with_dropout_and_one_product_for_qkv_it_is_korthikantis(seq, t, sequence):
    # Korthikanti et al., 2022, equations 1, 2 and 4, in 16 bits: two masks of a byte between the matrices, and of the
    # scores the mask and what dropout leaves; without statistics of norms, which they leave out (section 4.1).
    shape = SHAPES["gpt2"]
    found = activations(
        shape, "bf16", seq=seq, attention="materialised", parallel=Parallelism(tensor=t, sequence=sequence)
    )
    unit = found.tokens * shape.width
    statistics = 2 * found.whole_layer["statistics of its norm"]
    dropout = 2 * found.between + 3 * found.scores
    whole, cut = (0, 34) if sequence else (10, 24)
    scores = 5 * shape.heads * seq / shape.width
    assert (found.layer_bytes - statistics + dropout) / unit == pytest.approx(whole + (cut + scores) / t)


@pytest.mark.parametrize(("recipe", "each"), [("fp32", 4), ("amp-bf16", 6), ("bf16", 2)])
def test_probabilities(recipe, each):
    found = activations("gpt2", recipe, batch=3, seq=100, attention="materialised")
    assert found.layer["probabilities"] == each * 3 * 12 * 100**2
    assert "probabilities" not in replace(found, checkpointing="selective").layer


def test_all_grows_with_the_batch_but_what_rows_share():
    one, two = (activations("llama-3-8b", "amp-bf16", batch=batch, attention="materialised") for batch in (1, 2))
    assert one.shared == two.shared == {"rotary tables": 2 * 2048 * 128 * 4, "causal mask": 2048**2}
    shared = sum(one.shared.values())
    assert two.bytes - shared == 2 * (one.bytes - shared)


def test_the_log_softmax_is_as_wide_as_the_logits_and_autocast_keeps_a_copy_in_fp32():
    for recipe, each in (("fp32", 4), ("amp-bf16", 2 + 4), ("bf16", 2)):
        assert activations("gpt2", recipe, seq=10).log_softmax == each * 10 * 50257


def test_rotary_embeddings_may_go_beyond_the_context_and_positions_may_not():
    assert activations("llama-2-7b", "bf16", seq=8192).tokens == 8192
    with pytest.raises(
        ValueError, match="seq=1025 is longer than gpt2, which has an embedding for each of 1024 positions"
    ):
        activations("gpt2", "bf16", seq=1025)


def test_without_a_length_it_is_the_context_or_2048():
    assert activations("gpt2", "bf16").seq == 1024
    assert activations("llama-3.2-1b", "bf16").seq == 2048


def test_it_reads_as_a_table():
    found = activations("gpt2", "amp-bf16", seq=1024)
    lines = repr(found).splitlines()
    assert lines[0] == "gpt2, amp-bf16: 40.08 bytes per layer, token and unit of width"
    assert ["operands of queries, keys, values", "6"] in [line.rsplit(maxsplit=1) for line in lines]
    assert "<td>log-sum-exp of scores</td>" in found._repr_html_()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch": 0}, "batch must be a whole number from 1 up, got 0"),
        ({"seq": -5}, "seq must be a whole number from 1 up, got -5"),
        ({"seq": 1.5}, "seq must be a whole number from 1 up, got 1.5"),
        ({"attention": "flash"}, "attention must be one of fused, materialised, got 'flash'"),
        ({"checkpointing": "all"}, "checkpointing must be one of none, selective, full, got 'all'"),
        ({"parallel": Parallelism(tensor=7)}, "tensor=7 must divide the 12 heads of gpt2"),
    ],
)
def test_mistakes_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        activations("gpt2", "fp32", **options)


def test_what_is_no_shape_or_recipe_is_refused():
    with pytest.raises(TypeError, match=r"shape must be a ModelShape, got 7; model_shape\(name\) returns one"):
        activations(7, "fp32", seq=4)
    with pytest.raises(TypeError, match=r"a recipe must be a Recipe or its text, such as 'amp-fp16', got None"):
        activations("gpt2", None)
    with pytest.raises(TypeError, match="parallel must be a Parallelism, got 2"):
        Activations(GPT2, Recipe.parse("fp32"), 1, 1, parallel=2)
    with pytest.raises(ValueError, match="unknown model 'gpt-2': did you mean gpt2"):
        activations("gpt-2", "fp32")
    with pytest.raises(ValueError, match="unknown recipe 'amp'"):
        activations("gpt2", "amp")
