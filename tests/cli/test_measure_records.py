"""The commands of `mixlab measure` that keep, complete and compare records: matmul, all, compare."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from mixlab import measure as measuring
from mixlab.cli.commands import app
from mixlab.measure import KindOutcome, Record, shipped

RECORDS = Path(measuring.__file__).parent / "records"
SMALL = ("--device=cpu", "--formats=fp32,bf16", "--shapes=16x16x16", "--numel=4096", "--budget=2")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["measure", *map(str, arguments)], env={"COLUMNS": "200"})


def plain(text: str) -> str:
    return re.sub(r"[\s│]+", " ", text)


def test_matmul_shows_speeds_beside_the_roofline_and_keeps_the_record(tmp_path: Path):
    path = tmp_path / "r.json"
    result = run("matmul", *SMALL, "--out", path)
    assert result.exit_code == 0, result.stderr
    record = Record.load(path)
    shown = plain(result.stdout)
    assert all(name in shown for name in ("read", "fp32 16x16x16", "bf16 16x16x16", "gelu bf16 4096", "roofline"))
    assert record.summary in shown
    before = path.read_bytes()
    again = run("matmul", *SMALL, "--out", path, "--json")
    assert again.exit_code == 0, again.stderr
    assert json.loads(again.stdout) == json.loads(before)
    assert path.read_bytes() == before


def test_a_stopped_matmul_says_how_to_go_on(tmp_path: Path, monkeypatch):
    def stopped(*_arguments: Any, **_options: Any) -> Record:
        raise KeyboardInterrupt

    monkeypatch.setattr(measuring, "measure_matmul", stopped)
    result = run("matmul", "--out", tmp_path / "r.json")
    assert result.exit_code == 130
    assert "r.json keeps what was measured; the same command continues it" in plain(result.stderr)
    assert "stopped; nothing was saved" in plain(run("matmul").stderr)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--formats", "fp17"], "unknown format 'fp17'"),
        (["--shapes", "8x8x0"], "k of 8x8x0 must be a whole number from 1 to 2147483647, got 0"),
        (["--shapes", ""], "a shape must be MxNxK"),
        (["--budget", "0"], "budget_s must be a number of seconds above 0, got 0.0"),
        (["--budget", "soon"], "'soon' is not a number"),
        (["--device", "tpu"], "device must be cpu, cuda or cuda:<number>"),
        (["--out", "no/such/folder/r.json"], "there is no folder"),
        (["--out", RECORDS / "train-h100.json"], "is a record of kind train, not matmul; it is kept"),
    ],
)
def test_bad_arguments_of_matmul_end_with_2_and_words(arguments: list[Any], words: str):
    result = run("matmul", *arguments)
    assert result.exit_code == 2
    assert words in plain(result.stderr)
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("states", [("measured", "there already"), ("measured", "failed"), ("no time", "no time")])
def test_all_says_what_became_of_each(tmp_path: Path, monkeypatch, states: tuple[str, str]):
    kinds = ("cast", "train")

    def stand_in(folder: Path, device: str | None, **options: Any) -> tuple[KindOutcome, ...]:
        assert (folder, device, options["budget_s"], options["seed"]) == (tmp_path, "cpu", 60.0, 3)
        options["progress"]("cast", 1.0)
        return tuple(
            KindOutcome(kind, folder / f"{kind}.json", state) for kind, state in zip(kinds, states, strict=True)
        )

    monkeypatch.setattr(measuring, "measure_all", stand_in)
    result = run("all", "--out", tmp_path, "--device", "cpu", "--budget", "60", "--seed", "3")
    missing = [kind for kind, state in zip(kinds, states, strict=True) if state in ("failed", "no time")]
    assert result.exit_code == (1 if missing else 0)
    assert all(f"{kind} {state}" in plain(result.stdout) for kind, state in zip(kinds, states, strict=True))
    assert (f"without a record: {', '.join(missing)}" in plain(result.stderr)) == bool(missing)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "no/such/folder"], "No such file or directory"),
        (["--out", "{}", "--budget", "-1"], "budget_s must be a number of seconds above 0, got -1.0"),
        (["--out", "{}", "--device", "tpu"], "device must be cpu, cuda or cuda:<number>"),
        ([], "Missing option '--out'"),
    ],
)
def test_bad_arguments_of_all_end_with_2_and_words(tmp_path: Path, arguments: list[str], words: str):
    result = run("all", *(argument.format(tmp_path) for argument in arguments))
    assert result.exit_code == 2
    assert words in plain(result.stderr)


def test_compare_shows_two_records_and_their_ratio():
    cpu, h100 = shipped("train")
    paths = (RECORDS / "train-amd-epyc.json", RECORDS / "train-h100.json")
    result = run("compare", *paths)
    assert result.exit_code == 0, result.stderr
    shown = plain(result.stdout)
    ratio = h100["fp32 eager, tokens/s"].median / cpu["fp32 eager, tokens/s"].median
    assert f"{ratio:.3g}" in shown
    assert f"A: {cpu.summary}" in shown
    assert f"B: {h100.summary}" in shown
    content = json.loads(run("compare", *paths, "--json").stdout)
    assert content["series"][0]["ratio"] == pytest.approx(ratio)
    assert "fp32 eager, MFU (1)" in content["only in the second"]


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("train-h100.json", "memory-h100.json", "both records must be of one kind, got train and memory"),
        ("train-h100.json", "nothing.json", "No such file or directory"),
        ("train-h100.json", "..", "Is a directory"),
        ("train-h100.json", "../record.py", "is not a record"),
    ],
)
def test_what_cannot_be_compared_ends_with_2_and_words(first: str, second: str, words: str):
    result = run("compare", RECORDS / first, RECORDS / second)
    assert result.exit_code == 2
    assert words in plain(result.stderr)
    assert "Traceback" not in result.stderr
