from __future__ import annotations

import math

import pytest

from mixlab import first_aid
from mixlab.first_aid import CASES, Case

SEEDS = range(3)


@pytest.fixture(scope="module")
def cases() -> dict[str, list[Case]]:
    return {name: [case(seed=seed) for seed in SEEDS] for name, case in CASES.items()}


def numbers(cases: list[Case]) -> list[tuple[float, float]]:
    return [(case.mistaken, case.remedied) for case in cases]


def test_a_clipped_scaled_gradient_teaches_nothing(cases):
    """0.1 * 1 / 65536 a step: the loss stays at that of guessing among ten, ln 10."""
    for mistaken, remedied in numbers(cases["clip_before_unscale"]):
        assert abs(mistaken - math.log(10)) < 0.02
        assert remedied < mistaken - 0.2


def test_a_sum_of_losses_passes_fp16(cases):
    for mistaken, remedied in numbers(cases["loss_in_16_bits"]):
        assert mistaken == math.inf
        assert remedied == pytest.approx(2**15 * math.log(10), rel=0.01)
        assert remedied > 65504


def test_a_schedule_runs_away_while_steps_are_skipped(cases):
    for mistaken, remedied in numbers(cases["schedule_after_skip"]):
        assert remedied == 0.1
        assert mistaken <= 0.1 * 0.5**2
        assert math.log2(0.1 / mistaken) == pytest.approx(round(math.log2(0.1 / mistaken)))  # whole skipped steps


def test_poisoned_statistics_guess(cases):
    for mistaken, remedied in numbers(cases["batch_norm_after_skip"]):
        assert mistaken < 0.2
        assert remedied > 0.7


def test_an_eps_that_fp16_cannot_hold(cases):
    for mistaken, remedied in numbers(cases["adam_eps_in_fp16"]):
        assert mistaken > 0.5
        assert remedied == 0


def test_a_new_scaler_hunts_again(cases):
    for mistaken, remedied in numbers(cases["resume_without_scaler_state"]):
        assert mistaken >= 7
        assert remedied <= 1


def test_unscaling_in_between_loses_the_micro_batches_before(cases):
    for mistaken, remedied in numbers(cases["accumulate_with_update"]):
        assert mistaken > 0.5
        assert remedied < 0.01


@pytest.mark.parametrize("name", CASES)
def test_a_case_is_a_function_of_its_seed(name, cases):
    assert repr(CASES[name](seed=1)) == repr(cases[name][1])


def test_every_scenario_is_in_the_table():
    public = {
        name
        for name, value in vars(first_aid).items()
        if callable(value) and getattr(value, "__annotations__", {}).get("return") == "Case"
    }
    assert set(CASES) == public
    assert len(CASES) == 7


def test_a_case_shows_itself():
    case = Case("A < B?", "NaNs", "this & that", math.nan, "that", 0.25)
    assert repr(case) == "A < B? (NaNs)\n  with the mistake, this & that  NaN\n  mended, that                   0.25"
    html = case._repr_html_()
    assert "A &lt; B?" in html
    assert "this &amp; that</td><td>NaN</td>" in html
