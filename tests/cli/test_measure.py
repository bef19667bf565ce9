from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from mixlab import Recipe
from mixlab.cli.commands import app
from mixlab.experiments import GridSetting
from mixlab.measure import Record, casts, states

NO_COMPILER = torch._dynamo.exc.BackendCompilerFailed(lambda: None, RuntimeError("no compiler"), None)
SMALL = ("--numel", "5000", "--rounds", "2", "--formats", "fp16,e2m1fn")


def cast(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["measure", "cast", *arguments])


def test_cast_shows_every_path_and_keeps_the_record(tmp_path: Path):
    result = cast(*SMALL, "--threads", "1", "--out", str(tmp_path / "r.json"))
    assert result.exit_code == 0, result.stderr
    record = Record.load(tmp_path / "r.json")
    names = [series.name for series in record.series]
    assert names[:4] == ["copy_", "clone", "fp16 torch", "fp16 eager"]
    assert "e2m1fn torch" not in names
    assert len(names) == 2 + 7 + 6
    assert all(len(series.samples) == 2 and min(series.samples) > 0 for series in record.series)
    assert (record.parameters["threads"], record.parameters["numel"]) == (1, 5000)
    shown = re.sub(r"\s+", " ", result.stdout)
    assert all(name in shown for name in names)
    assert record.summary in shown


def test_json_is_the_record_itself():
    content = json.loads(cast(*SMALL, "--json").stdout)
    assert content["kind"] == "cast"
    assert content["series"][0]["unit"] == "GB/s"


def test_without_a_compiler_the_compiled_paths_are_skipped(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_arguments: object, compiled: bool = False, **_rest: object) -> torch.Tensor:
        if compiled:
            raise NO_COMPILER
        return torch.ones(1)

    monkeypatch.setattr(casts, "round_to", refuse)
    monkeypatch.setattr(casts, "round_with_stats", refuse)
    record = casts.measure_cast(numel=100, rounds=1, formats=["fp16"])
    assert [series.name for series in record.series] == [
        "copy_",
        "clone",
        "fp16 torch",
        "fp16 eager",
        "fp16 eager, out=",
    ]
    assert "fp16 compiled, out=" in record.parameters["skipped, torch.compile does not work here"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--formats", "fp17"), "unknown format 'fp17'"),
        (("--numel", "0"), "numel must be a whole number from 1 up, got 0"),
        (("--rounds", "-1"), "rounds must be a whole number from 1 up, got -1"),
        (("--threads", "0"), "threads must be a whole number from 1 up, got 0"),
        (("--device", "tpu"), "device must be cpu, cuda or cuda:<number>, got 'tpu'"),
        (("--out", "no/such/folder/r.json"), "there is no folder"),
    ],
)
def test_bad_input_ends_with_2_and_words(arguments: tuple[str, ...], words: str):
    result = cast(*arguments)
    assert result.exit_code == 2
    assert words in re.sub(r"\s+", " ", result.stderr)
    assert "Traceback" not in result.stderr


SHAPE = {"width": 16, "layers": 1, "heads": 2, "vocabulary": 128, "context": 8, "batch": 2}
TINY = [f"--{name}={value}" for name, value in {**SHAPE, "steps": 2, "modes": "eager"}.items()]


def measured(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["measure", *arguments])


def test_train_shows_speed_and_loss_and_keeps_the_record(tmp_path: Path):
    result = measured("train", *TINY, "--recipes", "fp32;amp-bf16,scaler=dynamic", "--out", str(tmp_path / "t.json"))
    assert result.exit_code == 0, result.stderr
    record = Record.load(tmp_path / "t.json")
    assert "amp-bf16,scaler=dynamic eager, tokens/s" in [series.name for series in record.series]
    shown = re.sub(r"\s+", " ", result.stdout)
    assert (
        f"{record['fp32 eager, tokens/s'].median:,.0f} 1.00 - - {record['fp32 eager, loss'].samples[-1]:.4f}" in shown
    )


def test_train_says_which_recipe_diverged():
    shown = re.sub(r"\s+", " ", measured("train", *TINY, "--recipes", "fp16").stdout)
    assert "- - NaN" in shown
    assert "fp16 eager diverged" in shown


def test_emulation_shows_every_op():
    result = measured("emulation", "--device", "cpu", "--formats", "bf16")
    assert result.exit_code == 0, result.stderr
    assert re.search(r"bf16 linear forward\s+9\d\.\d+%|bf16 linear forward\s+100\.00%", result.stdout)
    assert (
        json.loads(measured("emulation", "--device", "cpu", "--formats", "fp16", "--json").stdout)["kind"]
        == "emulation"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--recipes", "amp-fp17"], "unknown recipe 'amp-fp17'"),
        (["train", "--heads", "3"], "heads must divide width, got 3 heads"),
        (["train", "--device", "tpu"], "device must be cpu, cuda or cuda:<number>"),
        (["train", "--out", "no/such/folder/r.json"], "there is no folder"),
        (["emulation", "--device", "cpu", "--formats", "fp32"], "formats must be fp16 or bf16, got fp32"),
    ],
)
def test_bad_arguments_of_the_new_commands_end_with_2_and_words(arguments, words):
    result = measured(*arguments)
    assert result.exit_code == 2
    assert words in re.sub(r"\s+", " ", result.stderr)


def test_optimizer_measures_ours_and_theirs(tmp_path: Path):
    small = ("--numel", "4096", "--rounds", "2", "--recipes", "fp32;bf16-sr", "--modes", "eager")
    out = ("--backends", "torch loop,bitsandbytes 8-bit", "--out", str(tmp_path / "r.json"))
    result = CliRunner().invoke(app, ["measure", "optimizer", *small, *out])
    assert result.exit_code == 0, result.stderr
    assert Record.load(tmp_path / "r.json").kind == "optimizer"
    shown = re.sub(r"\s+", " ", result.stdout)
    assert all(name in shown for name in ("torch loop", "bitsandbytes 8-bit", "fp32 eager", "bf16-sr eager", "copy_"))
    wrong = CliRunner().invoke(app, ["measure", "optimizer", "--backends", "apex"])
    assert (wrong.exit_code, "unknown optimizer backend 'apex'" in wrong.stderr) == (2, True)


def test_states_measures_what_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings = [GridSetting(Recipe()), GridSetting(Recipe.parse("fp32,exp_avg_sq=bf16"))]
    monkeypatch.setattr(states, "moment_settings", lambda: settings)
    monkeypatch.setattr(states, "weight_settings", list)
    result = CliRunner().invoke(
        app, ["measure", "states", "--steps=4", "--spike-at=1", "--seeds=2", "--out", str(tmp_path / "r.json")]
    )
    assert result.exit_code == 0, result.stderr
    record = Record.load(tmp_path / "r.json")
    assert (record.kind, record.parameters["seeds"], len(record.series)) == ("states", 2, 4)
    assert "fp32,exp_avg_sq=bf16, lr 0.001, spike" in re.sub(r"\s+", " ", result.stdout)
    assert CliRunner().invoke(app, ["measure", "states", "--seeds", "0"]).exit_code == 2


def test_memory_shows_what_was_seen_beside_what_was_predicted(tmp_path: Path):
    names = ["small-mlp x16 fp32", "small-mlp x16 amp-fp16"]
    result = measured("memory", "--cases", ";".join(names), "--rounds", "2", "--out", str(tmp_path / "m.json"))
    assert result.exit_code == 0, result.stderr
    record = Record.load(tmp_path / "m.json")
    assert (record.kind, len(record[f"{names[0]}, peak"].samples)) == ("memory", 2)
    shown = re.sub(r"\s+", " ", result.stdout)
    for name in names:
        peak = f"{record[f'{name}, peak'].median / 2**20:,.2f}"
        assert f"{name} {peak} {peak} +0.00%" in shown
    assert "median 0.00% worst 0.00%" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--cases", "small-mlp x16 fp23"], "unknown case 'small-mlp x16 fp23': did you mean small-mlp x16 fp32"),
        (["--cases", ""], "unknown case ''"),
        (["--rounds", "0"], "rounds must be a whole number from 1 up, got 0"),
        (["--device", "tpu"], "device must be cpu, cuda or cuda:<number>, got 'tpu'"),
        (["--out", "no/such/folder/r.json"], "there is no folder"),
    ],
)
def test_bad_arguments_of_memory_end_with_2_and_words(arguments, words):
    result = measured("memory", *arguments)
    assert result.exit_code == 2
    assert words in re.sub(r"\s+", " ", result.stderr)
