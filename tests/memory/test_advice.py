from __future__ import annotations

from dataclasses import replace

import pytest

from mixlab.memory import GpuSpec, break_even_batch, estimate, largest_batch, largest_seq, suggestions
from mixlab.memory.advice import FREE, HARDWARE, NUMERICS, SLOWER, TASK
from mixlab.shapes import SHAPES


@pytest.mark.parametrize("gpu", ["rtx-4090", "h200"])
@pytest.mark.parametrize("recipe", ["fp32", "amp-bf16", "bf16"])
def test_the_largest_batch_fits_and_one_more_does_not(recipe, gpu):
    training = estimate("llama-3.2-1b", recipe, seq=1024)
    most = largest_batch(training, gpu)
    assert most == 0 or replace(training, batch=most).fits(gpu)
    assert not replace(training, batch=most + 1).fits(gpu)
    assert largest_batch(replace(training, batch=77), gpu) == most


def test_a_model_that_is_too_large_has_no_batch_and_no_length():
    training = estimate("llama-3-70b", "amp-bf16")
    assert largest_batch(training, "h200") == largest_seq(training, "h200") == 0


def test_the_largest_length_ends_at_positions_or_at_memory():
    assert largest_seq(estimate("gpt2", "amp-bf16"), "h200") == 1024
    training = estimate("llama-3.2-1b", "amp-bf16", checkpointing="full")
    most = largest_seq(training, "h200")
    assert most > 20_000
    assert replace(training, seq=most).fits("h200")
    assert not replace(training, seq=most + 1).fits("h200")


@pytest.mark.parametrize(("name", "seq"), [("gpt2", 128), ("gpt2", 512), ("llama-3-8b", 2048)])
def test_autocast_pays_from_a_batch_on(name, seq):
    turn = break_even_batch(name, seq=seq)
    assert turn > 1
    peaks = {
        batch: [estimate(name, recipe, batch=batch, seq=seq).peak_bytes for recipe in ("fp32", "amp-bf16")]
        for batch in (*range(1, turn + 20), 100, 1000)
    }
    assert all((amp < fp32) == (batch >= turn) for batch, (fp32, amp) in peaks.items())


def test_what_never_or_always_pays():
    assert break_even_batch("gpt2", "amp-bf16", "fp32", seq=128) is None
    assert break_even_batch("gpt2", "fp32", "bf16", seq=128) == 1
    assert break_even_batch("gpt2", "fp32", "tf32") is None


def test_suggestions_are_what_they_say():
    training = estimate("gpt2", "fp32", batch=16, attention="materialised")
    found = suggestions(training, "rtx-4090")
    assert not training.fits("rtx-4090")
    for one in found:
        assert one.total_bytes == one.estimate.total_bytes == training.total_bytes - one.saved_bytes
        assert one.saved_bytes > 0
        assert one.fits == bool(one.estimate.fits("rtx-4090"))
        assert one.price
    assert [one.fits for one in found] == sorted((one.fits for one in found), reverse=True)
    fitting = [one.kind for one in found if one.fits]
    assert fitting == sorted(fitting)
    rest = [one.saved_bytes for one in found if not one.fits]
    assert rest == sorted(rest, reverse=True)
    assert {FREE, SLOWER, NUMERICS, HARDWARE, TASK} == {one.kind for one in found}


def test_what_costs_nothing_comes_first():
    training = estimate("llama-3.2-1b", "amp-bf16", batch=1, seq=512)
    tight = GpuSpec("tight", training.total_bytes - 1, 1e12, {})
    fused, *_ = suggestions(training, tight)
    assert (fused.change, fused.price, fused.fits) == ("an optimizer step in one pass (fused)", "none", True)
    assert str(fused).startswith("an optimizer step in one pass (fused): saves ")


def test_changes_are_put_together_where_one_is_not_enough():
    training = estimate("llama-3-8b", "fp32", batch=8, seq=4096)
    together, *singles = suggestions(training, "h100-sxm")
    assert together.fits
    assert not any(one.fits for one in singles)
    assert together.change.startswith(
        "batch 1 with 8 accumulated passes, then checkpointing of attention (selective), then "
    )
    assert together.estimate.parallel.gpus == 2  # no more than it takes
    assert together.kind == HARDWARE
    assert together.price.count(";") >= 3


def test_without_a_way_there_is_no_plan():
    training = estimate("gpt2", "bf16", batch=1, seq=64)
    none = GpuSpec("none", 10**8, 1e12, {})  # less than the CUDA context
    assert not any(one.fits for one in suggestions(training, none))


def test_a_training_that_fits_is_told_what_matters():
    found = suggestions(estimate("gpt2", "fp32", batch=16), "h200")
    assert all(one.fits for one in found)
    assert all(one.saved_bytes > 0.005 * one.total_bytes for one in found)
    assert found[0].change.startswith("batch ")


def test_tensor_parallelism_is_offered_where_heads_divide():
    def offers(name):
        return any("tensor" in one.change for one in suggestions(estimate(name, "fp32", seq=256), "t4"))

    assert offers("gpt2")
    assert not offers("gpt2-xl")  # 25 heads
    assert SHAPES["gpt2-xl"].heads == 25


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="unknown GPU 'h20': did you mean h200"):
        largest_batch(estimate("gpt2", "fp32"), "h20")
    with pytest.raises(ValueError, match="unknown recipe 'amp'"):
        break_even_batch("gpt2", "fp32", "amp")
