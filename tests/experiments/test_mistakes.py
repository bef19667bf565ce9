from __future__ import annotations

import math
from functools import cache

import pytest

from mixlab.experiments import mistakes
from mixlab.experiments.mistakes import MISTAKES, Mistake

SEEDS = (0, 1, pytest.param(2, marks=pytest.mark.slow))

on_every_seed = pytest.mark.parametrize("seed", SEEDS)


@cache
def made(name: str, seed: int) -> Mistake:
    return MISTAKES[name](seed=seed)


def numbers(name: str, seed: int) -> tuple[float, float]:
    return made(name, seed).mistaken, made(name, seed).remedied


@on_every_seed
def test_a_clipped_scaled_gradient_teaches_nothing(seed):
    """0.1 * 1 / 65536 a step: the loss stays at that of guessing among ten, ln 10."""
    mistaken, remedied = numbers("clip_before_unscale", seed)
    assert abs(mistaken - math.log(10)) < 0.02
    assert remedied < mistaken - 0.2


@on_every_seed
def test_a_sum_of_losses_passes_fp16(seed):
    mistaken, remedied = numbers("loss_in_16_bits", seed)
    assert mistaken == math.inf
    assert remedied == pytest.approx(2**15 * math.log(10), rel=0.01)
    assert remedied > 65504


@on_every_seed
def test_a_schedule_runs_away_while_steps_are_skipped(seed):
    mistaken, remedied = numbers("schedule_after_skip", seed)
    assert remedied == 0.1
    assert mistaken <= 0.1 * 0.5**2
    assert math.log2(0.1 / mistaken) == pytest.approx(round(math.log2(0.1 / mistaken)))  # whole skipped steps


@on_every_seed
def test_poisoned_statistics_guess(seed):
    mistaken, remedied = numbers("batch_norm_after_skip", seed)
    assert mistaken < 0.2
    assert remedied > 0.7


@on_every_seed
def test_an_eps_that_fp16_cannot_hold(seed):
    mistaken, remedied = numbers("adam_eps_in_fp16", seed)
    assert mistaken > 0.5
    assert remedied == 0


@on_every_seed
def test_a_new_scaler_hunts_again(seed):
    mistaken, remedied = numbers("resume_without_scaler_state", seed)
    assert mistaken >= 7
    assert remedied <= 1


@on_every_seed
def test_unscaling_in_between_loses_the_micro_batches_before(seed):
    mistaken, remedied = numbers("accumulate_with_update", seed)
    assert mistaken > 0.5
    assert remedied < 0.01


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_a_function_of_its_seed(name):
    assert repr(MISTAKES[name](seed=1)) == repr(made(name, 1))


def test_every_scenario_is_in_the_table():
    public = {
        name
        for name, value in vars(mistakes).items()
        if callable(value) and getattr(value, "__annotations__", {}).get("return") == "Mistake"
    }
    assert set(MISTAKES) == public
    assert len(MISTAKES) == 7


def test_a_mistake_shows_itself():
    mistake = Mistake("A < B?", "NaNs", "this & that", math.nan, "that", 75620.0, "Since A > B.")
    assert repr(mistake).splitlines() == [
        "A < B? (NaNs)",
        "  with the mistake, this & that  NaN",
        "  fixed, that                    75,620",
        "  Since A > B.",
    ]
    html = mistake._repr_html_()
    assert "A &lt; B?" in html
    assert "this &amp; that</td><td>NaN</td>" in html
    assert html.endswith("<p>Since A &gt; B.</p>")
    assert "<th></th>" not in html


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_says_why_in_a_sentence(name):
    assert 40 < len(made(name, 0).why) < 160
    assert made(name, 0).why.endswith(".")
