"""Every claim is measured, and its verdict is the one on file."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mixlab.claims import (
    CLAIMS,
    PLACES,
    Claim,
    Finding,
    Verdict,
    claim,
    loss_scaling,
    matrix_products,
    memory_sizes,
    number_formats,
    optimizer_states,
    speed,
)
from mixlab.formats import FP16, FP32
from mixlab.loss_scaling import ApexPolicy

BY_KEY = {one.key: one for one in CLAIMS}


@pytest.mark.parametrize("key", BY_KEY)
def test_the_measured_verdict_is_the_one_on_file(key):
    finding = BY_KEY[key].measure()
    assert finding.verdict == BY_KEY[key].verdict, finding.shown
    assert finding.shown.endswith(".")


@pytest.mark.parametrize("key", [one.key for one in CLAIMS if one.recorded])
def test_what_is_recorded_names_its_gpu_and_date(key):
    shown = BY_KEY[key].recorded()
    assert "recorded on" in shown
    assert "NVIDIA" in shown
    assert "2026-" in shown


def test_a_recorded_training_that_diverged_ends_with_nan():
    shown = BY_KEY["stability-of-the-modes"].recorded()
    assert "fp32 3.34, amp-fp16 3.34, fp16 NaN (10.91 at step 0)" in shown


def test_there_are_claims_of_every_part_and_of_every_verdict():
    verdicts = [one.verdict for one in CLAIMS]
    assert len(BY_KEY) == len(CLAIMS) >= 25
    assert verdicts.count(Verdict.DOES_NOT_HOLD) >= 5
    assert set(verdicts) == set(Verdict)
    assert [one.place for one in CLAIMS] == sorted((one.place for one in CLAIMS), key=PLACES.index)
    assert {one.place for one in CLAIMS} == set(PLACES)


@pytest.mark.parametrize(
    ("cases", "verdict"),
    [([True, True], "holds"), ([True, False], "holds if"), ([False], "does not hold")],
)
def test_a_finding_is_judged_by_its_cases(cases, verdict):
    assert Finding.of(cases, "shown").verdict == verdict


def test_a_finding_needs_a_case():
    with pytest.raises(ValueError, match="at least one case"):
        Finding.of([], "nothing")


def test_a_claim_by_key_and_by_a_mistyped_one():
    assert claim("fp16-max").words == "fp16: largest value 65504."
    with pytest.raises(ValueError, match=r"unknown claim 'fp16-maxx': did you mean fp16-max "):
        claim("fp16-maxx")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"words": ""}, "words must not be empty"),
        ({"place": "7. Nowhere"}, "place must be one of Introduction"),
        ({"verdict": Verdict.HOLDS}, "correct must be given unless the claim holds"),
        ({"correct": ""}, "correct must be given unless the claim holds"),
    ],
)
def test_a_claim_that_contradicts_itself_is_refused(changed, words):
    with pytest.raises(ValueError, match=words):
        replace(claim("fp16-eps"), **changed)


class TestVerdictsThatChange:
    """A measurement judges by its numbers: with other ones, the verdict is another."""

    def test_a_limit(self):
        said = number_formats._limit(FP16, "eps", "9.8e-4")
        assert said.verdict == Verdict.HOLDS
        assert number_formats._limit(FP32, "max", "2e38").verdict == Verdict.DOES_NOT_HOLD

    def test_every_scaler_halves_at_once(self, monkeypatch):
        for name in ("MegatronPolicy", "DeepSpeedPolicy"):
            monkeypatch.setattr(loss_scaling, name, lambda scale, hysteresis: ApexPolicy(scale))
        assert loss_scaling._lower_scale().verdict == Verdict.HOLDS

    def test_a_zeroed_gradient_that_moves_nothing(self, monkeypatch):
        monkeypatch.setattr(loss_scaling, "_moved_by_zero", lambda optimizer: 0.0)
        assert loss_scaling._set_to_zero().verdict == Verdict.HOLDS

    def test_gpus_with_other_peaks(self, monkeypatch):
        monkeypatch.setattr(speed, "_peak_ratios", lambda fmt: {"a": 8.0, "b": 16.0})
        assert speed._eight_to_sixteen().verdict == Verdict.HOLDS

    def test_a_gpu_that_gains_nothing(self, monkeypatch):
        recipes = ("fp32", "tf32", "amp-fp16", "amp-bf16", "fp16", "bf16")
        monkeypatch.setattr(speed, "_speeds", lambda mode: dict.fromkeys(recipes, 100.0))
        assert speed._two_to_four().verdict == speed._trains_faster().verdict == Verdict.DOES_NOT_HOLD

    def test_states_that_train_as_well(self, monkeypatch):
        monkeypatch.setattr(optimizer_states, "_worst_ratio", lambda setting: (1.0, 1.0))
        assert optimizer_states._second_moment().verdict == Verdict.DOES_NOT_HOLD

    def test_a_fast_memory_of_another_product(self, monkeypatch):
        monkeypatch.setattr(matrix_products, "traffic_ratio", lambda *products, **depth: 2.83)
        assert matrix_products._total().verdict == Verdict.HOLDS

    def test_models_that_fit(self, monkeypatch):
        monkeypatch.setattr(memory_sizes, "model_shape", lambda name: type("Small", (), {"parameters": 10**9}))
        assert memory_sizes._does_not_fit().verdict == Verdict.DOES_NOT_HOLD


def test_claims_are_measured_alike_with_other_threads():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if before > 1 else 2)
        for key in (
            "scaled-gradient",
            "adam-second-moment-bf16",
            "converted-back-and-divided",
            "scaler-skips-lowers-grows",
        ):
            assert claim(key).measure().verdict == claim(key).verdict
    finally:
        torch.set_num_threads(before)


def test_a_claim_names_what_settles_it():
    def settled(one: Claim) -> bool:
        return callable(one.measure) and (one.recorded is None or one.recorded() != "")

    assert all(settled(one) for one in CLAIMS)
    assert all("mixlab measure" in one.owed for one in CLAIMS if one.owed)


def test_the_speed_of_this_machine_does_not_decide(monkeypatch):
    for words in ("Here, 100 times as fast.", "Here, 0.01 times as fast."):
        monkeypatch.setattr(speed, "_here", lambda words=words: words)
        assert speed._trains_faster().verdict == claim("trains-faster").verdict
