"""`mixlab claims`: what it prints, and how it ends."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from typer.testing import CliRunner

from mixlab import __version__
from mixlab import claims as mixlab_claims
from mixlab.claims import CLAIMS, Finding, Verdict, claim
from mixlab.cli import commands

QUICK = ("bytes-per-number", "fp16-eps", "bf16-range")  # one of each verdict


def mixlab(*arguments: str) -> Any:
    return CliRunner().invoke(commands.app, ["claims", *arguments], env={"COLUMNS": "120"})


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """All claims are a few quick ones."""
    monkeypatch.setattr(mixlab_claims, "CLAIMS", tuple(claim(key) for key in QUICK))


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> str:
    """The key of the only claim, whose verdict on file is not the measured one."""
    said = replace(claim("fp16-eps"), verdict=Verdict.HOLDS, correct="")
    monkeypatch.setattr(mixlab_claims, "CLAIMS", (said,))
    return said.key


@pytest.mark.usefixtures("few")
def test_all_claims_are_a_table():
    result = mixlab()
    assert result.exit_code == 0, result.stderr
    assert all(key in result.stdout for key in QUICK)
    assert "✗ does not hold" in result.stdout
    assert result.stdout.splitlines()[-2] == "1 ✓ holds, 1 ◐ holds if, 1 ✗ does not hold"
    assert result.stdout.splitlines()[-1].startswith("measured on ")


def test_a_claim_in_full():
    result = mixlab("fp16-eps")
    assert result.exit_code == 0
    said = claim("fp16-eps")
    for words in (said.words, f"from: {said.place}", f"theory: {said.theory}", said.correct, said.measure().shown):
        assert words in result.stdout


def test_json_holds_everything_and_where_it_was_measured():
    document = json.loads(mixlab("--json", *QUICK, QUICK[0]).stdout)
    assert document["machine"]["mixlab"] == __version__
    assert {"torch", "python", "cpu"} < document["machine"].keys()
    assert document["date"].endswith("+00:00")
    assert [row["key"] for row in document["claims"]] == list(QUICK)
    for row in document["claims"]:
        said = claim(row["key"])
        assert row["measured"] == {"verdict": said.verdict, "shown": said.measure().shown}
        assert row["agrees"] is True
        assert {"words", "place", "theory", "verdict", "correct", "recorded", "owed"} < row.keys()


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(("verdict", "key"), [("holds", QUICK[0]), ("does-not-hold", QUICK[1]), ("holds-if", QUICK[2])])
def test_claims_can_be_chosen_by_verdict(verdict: str, key: str):
    rows = json.loads(mixlab("--json", "--verdict", verdict).stdout)["claims"]
    assert [row["key"] for row in rows] == [key]


def test_a_verdict_that_changed_is_named_and_fails(wrong: str):
    result = mixlab()
    assert result.exit_code == 1
    assert f"{wrong}: on file holds, measured here does not hold" in result.stderr
    assert "measured otherwise here: fp16-eps" in result.stdout


def test_a_measurement_that_fails_is_named(monkeypatch: pytest.MonkeyPatch):
    def measure() -> Finding:
        raise RuntimeError("no room")

    monkeypatch.setattr(mixlab_claims, "CLAIMS", (replace(CLAIMS[0], measure=measure),))
    result = mixlab()
    assert result.exit_code == 1
    assert f"claim '{CLAIMS[0].key}' could not be measured: no room" in result.stderr


def test_it_can_be_stopped(monkeypatch: pytest.MonkeyPatch):
    def measure() -> Finding:
        raise KeyboardInterrupt

    monkeypatch.setattr(mixlab_claims, "CLAIMS", (replace(CLAIMS[0], measure=measure),))
    result = mixlab()
    assert result.exit_code == 130
    assert "stopped" in result.stderr


def test_an_unknown_claim_and_an_unknown_verdict_are_named():
    result = mixlab("fp16-epsilon")
    assert result.exit_code == 2
    assert "unknown claim 'fp16-epsilon': did you mean fp16-eps" in result.stderr
    result = mixlab("--verdict", "wrong")
    assert result.exit_code == 2
    assert "unknown verdict 'wrong'; use one of holds, holds-if, does-not-hold" in result.stderr
