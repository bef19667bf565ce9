from __future__ import annotations

import pytest

from mixlab.memory import Parallelism, activations, estimate, suggestions
from mixlab.memory import tape_ops as ops
from mixlab.memory.categories import ACTIVATIONS, CASTS
from mixlab.memory.hf_parts import ACTIVATIONS as FUNCTIONS
from mixlab.memory.hf_writings import WRITINGS
from mixlab.memory.tape import Formats, Tape
from mixlab.shapes import DESIGNS, SHAPES
from mixlab.shapes.designs import ACTIVATIONS as NAMES

AMP = Formats(4, 2, 4, True)


def alive(tape: Tape) -> int:
    return sum(tape.sizes[event] if event >= 0 else -tape.sizes[~event] for event in tape.events)


def test_a_product_keeps_the_casts_of_its_operands_until_its_backward():
    tape = Tape(AMP)
    x = tape.new(512, 4)
    y = ops.linear(tape, x, tape.parameter(512 * 1024, 512))
    tape.outputs.append(y)
    assert (y.numel, y.size) == (1024, 2)
    assert alive(tape) == 4 * 512 + 2 * 512 + 2 * 512 * 1024 + 2 * 1024
    tape.end_forward()
    del y
    tape.give(tape.nodes[-1], tape.new(1024, 2))
    tape.backward(0)
    assert alive(tape) == 4 * 512 + 4 * 512 * 1024  # x, and the gradient in float32


def test_a_gradient_that_two_ops_share_is_not_overwritten():
    tape = Tape(Formats(4, 4, 4, False))
    weight = tape.parameter(4096)
    x = ops.offset(tape, weight, 4)
    total = ops.add(tape, ops.scale(tape, x), x)
    tape.start_backward(total)
    del x, total
    tape.backward(0)
    (gradient,) = tape.gradients
    assert alive(tape) == tape.sizes[gradient.storage.number] == 4 * 4096


@pytest.mark.parametrize("name", ["gpt2", "llama-3.2-1b"])
def test_parts_sum_to_all_that_is_kept(name):
    kept = activations(name, "amp-bf16", batch=2, seq=256, implementation="transformers")
    assert kept.bytes == sum(kept.in_layers.values()) + sum(kept.outside.values())
    assert sum(kept.in_layers.values()) == pytest.approx(SHAPES[name].layers * kept.layer_bytes, rel=0.02)
    assert "norms" in kept.layer
    assert "attention" in repr(kept)


def test_transformers_module_needs_more_than_mixlabs_own():
    for name, least in (("gpt2", 1.3), ("llama-3.2-1b", 1.02)):
        lean, theirs = (
            estimate(name, "bf16", batch=8, seq=1024, implementation=whose) for whose in ("mixlab", "transformers")
        )
        assert theirs.peak_bytes > least * lean.peak_bytes
        assert theirs.phase_peaks["step"] == pytest.approx(lean.phase_peaks["step"], rel=1e-3)
        assert (lean.module, theirs.module) == ("mixlab", "transformers")
        assert "transformers' module" in repr(theirs)
        assert theirs.at_peak[ACTIVATIONS] <= theirs.activations.bytes
    amp = estimate("gpt2", "amp-bf16", batch=8, seq=1024, implementation="transformers")
    assert amp.at_phase_peaks["forward"][CASTS] > 2 * 0.99 * SHAPES["gpt2"].layers * 12 * 768**2


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_is_counted_to_the_last_parameter(name):
    kept = activations(name, "bf16", seq=64, implementation="transformers")
    record = kept.record(accumulates=False)
    assert record.parameters == sum(record.tensors) == SHAPES[name].parameters
    for options in ({"checkpointing": "full"}, {"attention": "materialised"}, {"accumulation": 2}):
        assert estimate(name, "amp-bf16", seq=64, **options).peak_bytes > 4 * SHAPES[name].parameters


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_zero_divides_states_of_transformers_module(zero):
    one, eight = (
        estimate("llama-3.2-1b", "amp-bf16", seq=64, implementation="transformers", parallel=parallel)
        for parallel in (Parallelism(), Parallelism(data=8, zero=zero))
    )
    assert (eight.phase_peaks["step"] < one.phase_peaks["step"]) == (zero > 0)
    assert ("gathered parameters" in eight.at_phase_peaks["backward"]) == (zero == 3)


def test_every_name_in_the_tables_is_known():
    assert set(WRITINGS) <= set(DESIGNS)
    assert set(FUNCTIONS) == set(NAMES)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"implementation": "hf"}, "implementation must be one of mixlab, transformers, or None, got 'hf'"),
        ({"implementation": 7}, "implementation must be one of mixlab, transformers, or None, got 7"),
        (
            {"implementation": "transformers", "checkpointing": "selective"},
            "checkpointing=selective is not in transformers",
        ),
        (
            {"implementation": "transformers", "parallel": Parallelism(tensor=2)},
            "tensor=2: tensor parallelism is modelled for mixlab's own layers",
        ),
        (
            {"implementation": "transformers", "parallel": Parallelism(pipeline=2)},
            "pipeline=2: pipeline parallelism is modelled for mixlab's own layers",
        ),
        ({"implementation": "transformers", "seq": 2000}, "seq=2000 is longer than gpt2"),
    ],
)
def test_what_is_not_modelled_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        estimate("gpt2", "fp32", **options)


def test_suggestions_keep_to_what_transformers_has():
    found = suggestions(estimate("gpt2-large", "amp-bf16", batch=16, implementation="transformers"), "a100-40gb")
    assert {one.estimate.module for one in found} == {"transformers"}
    assert not [one for one in found if "selective" in one.change or "tensor" in one.change]
    assert [one for one in found if "(full)" in one.change]


def test_deep_models_take_no_more_ops_than_shallow_ones():
    record = activations("llama-3.1-405b", "bf16", seq=64, implementation="transformers").record(accumulates=False)
    assert len(record.order) == 126
    assert len(record.layers) == 2  # one of those that are alike, and the last
