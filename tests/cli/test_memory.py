from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from mixlab.cli.commands import app
from mixlab.memory import GPUS, SHAPES, Parallelism, confirm, estimate, suggestions
from mixlab.memory.categories import PHASES
from mixlab.tables import gib

EIGHT = ("--model", "llama-3-8b", "--recipe", "amp-bf16", "--batch", "1", "--seq", "4096", "--gpus", "8", "--fsdp")
SMALL = ("--model", "gpt2", "--batch", "1", "--seq", "64")


def memory(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["memory", *arguments])


def printed(*arguments: str) -> str:
    result = memory(*arguments)
    assert result.exit_code == 0, result.stderr
    return re.sub(r" +", " ", result.stdout)


def as_json(*arguments: str) -> dict[str, Any]:
    result = memory(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    content: dict[str, Any] = json.loads(result.stdout)
    return content


def test_tables_show_phases_what_is_outside_and_where_it_fits():
    shown = printed(*EIGHT)
    training = estimate("llama-3-8b", "amp-bf16", batch=1, seq=4096, parallel=Parallelism(data=8, zero=3))
    assert shown.startswith(re.sub(r" +", " ", str(training)))
    assert f"total {training.total_bytes / 2**30:.2f}" in shown
    assert all(f"{name} {size / 2**30:.2f}" in shown for name, size in training.outside.items())
    for name in GPUS:
        fit = training.fits(name)
        verdict = "fits" if fit else "does not fit"
        assert f"{name} {fit.gpu.usable_bytes / 2**30:.2f} {fit.room / 2**30:+.2f} {verdict}\n" in shown


def test_advice_is_for_the_largest_gpu_on_which_it_does_not_fit():
    training = estimate("llama-3-8b", "amp-bf16", batch=1, seq=4096, parallel=Parallelism(data=8, zero=3))
    largest = max((gpu for gpu in GPUS.values() if not training.fits(gpu)), key=lambda gpu: gpu.usable_bytes)
    assert f"To fit on {largest}, change first:\n1. {suggestions(training, largest)[0]}\n2. " in printed(*EIGHT)
    assert "change first" not in printed(*SMALL)  # it fits on all


def test_a_gpu_is_judged_and_only_check_makes_it_a_failure():
    training = estimate("llama-3-8b", "fp32", batch=1, seq=2048)
    wanted = ("--model", "llama-3-8b", "--recipe", "fp32", "--gpu", "RTX 4090")
    shown = printed(*wanted)
    assert str(training.fits("rtx-4090")) in shown
    assert f"To fit on rtx-4090, change first:\n1. {suggestions(training, 'rtx-4090')[0]}\n" in shown
    assert shown.count("saves") == 5
    failed = memory(*wanted, "--check")
    assert (failed.exit_code, failed.stderr) == (1, "")
    assert "does not fit on rtx-4090" in failed.stdout
    assert memory(*SMALL, "--gpu", "rtx-4090", "--check").exit_code == 0


def test_json_is_all_of_it():
    content = as_json(*EIGHT, "--gpu", "l4", "--checkpointing", "full")
    training = estimate(
        *("llama-3-8b", "amp-bf16"),
        batch=1,
        seq=4096,
        checkpointing="full",
        parallel=Parallelism(data=8, zero=3),
    )
    assert (content["model"], content["recipe"], content["checkpointing"]) == ("llama-3-8b", "amp-bf16", "full")
    assert content["parallel"] == {**vars(training.parallel), "gpus": 8}
    assert content["phases"] == training.at_phase_peaks
    assert (content["peak_bytes"], content["total_bytes"]) == (training.peak_bytes, training.total_bytes)
    assert content["outside"] == training.outside
    assert set(content["fits"]) == set(GPUS)
    fit = training.fits("l4")
    assert content["judged"] == {"gpu": "l4", **content["fits"]["l4"]}
    assert content["judged"]["room_bytes"] == fit.room == fit.gpu.usable_bytes - content["total_bytes"]
    found = suggestions(training, "l4")[:5]
    assert [(one["change"], one["saved_bytes"], one["fits"]) for one in content["suggestions"]] == [
        (one.change, one.saved_bytes, one.fits) for one in found
    ]
    assert content["trace"] is None


@pytest.mark.parametrize(
    ("arguments", "parallel"),
    [
        ((), Parallelism()),
        (("--tensor", "4", "--sequence-parallel"), Parallelism(tensor=4, sequence=True)),
        (("--pipeline", "3", "--microbatches", "6"), Parallelism(pipeline=3, microbatches=6)),
        (("--gpus", "16", "--zero", "1", "--tensor", "2", "--pipeline", "4"), Parallelism(2, 1, 2, pipeline=4)),
        (("--gpus", "4", "--zero", "3", "--fsdp"), Parallelism(4, 3)),
    ],
)
def test_gpus_are_divided_as_told(arguments, parallel):
    content = as_json(*SMALL, *arguments)
    assert content["parallel"] == {**vars(parallel), "gpus": parallel.gpus}
    assert content["peak_bytes"] == estimate("gpt2", "amp-bf16", batch=1, seq=64, parallel=parallel).peak_bytes


def test_every_other_knob_arrives():
    knobs = {"attention": "materialised", "checkpointing": "selective", "optimizer": "sgd", "step": "loop"}
    numbers = {"batch": 3, "seq": 32, "accumulation": 2}
    words = [word for name, value in {**knobs, **numbers}.items() for word in (f"--{name}", str(value))]
    content = as_json("--recipe", "amp-fp16,scale=1024", *words)
    training = estimate("gpt2", "amp-fp16,scale=1024", **knobs, **numbers)
    assert {name: content[name] for name in (*knobs, *numbers)} == {**knobs, **numbers}
    assert (content["peak_bytes"], content["recipe"]) == (training.peak_bytes, "amp-fp16,scale=1024")


CONFIG = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 192,
    "vocab_size": 512,
    "max_position_embeddings": 128,
}


def test_a_model_may_be_a_config_of_hugging_face_and_traced(tmp_path: Path):
    path = tmp_path / "mine" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(CONFIG))
    content = as_json("--model", str(path), "--batch", "2", "--trace")
    assert (content["model"], content["seq"]) == ("mine", 128)
    traced = content["trace"]
    assert traced["peak_bytes"] == sum(traced["phases"][traced["peak_phase"]].values())
    assert traced["peak_bytes"] == pytest.approx(content["peak_bytes"], rel=0.02)
    shown = printed("--model", str(path), "--batch", "2", "--trace")
    assert f"traced: {gib(traced['peak_bytes'])} GiB, in {traced['peak_phase']}; the estimate is " in shown


@pytest.mark.parametrize(
    ("recipe", "knobs"),
    [
        ("amp-bf16", {"step": "loop"}),
        ("amp-bf16", {"step": "fused"}),
        ("fp32", {"step": "fused", "optimizer": "sgd"}),
        ("bf16-sr", {"step": "loop"}),
        ("bf16", {"accumulation": 2}),
    ],
)
def test_estimates_are_confirmed_with_the_same_step(recipe, knobs):
    training = estimate(replace(SHAPES["gpt2"], layers=2), recipe, batch=1, seq=32, **knobs)
    found = confirm(training)
    assert (str(found.recipe), found.numel) == (recipe, training.shape.parameters)
    for phase in PHASES:
        assert training.phase_peaks[phase] == pytest.approx(found.phase_peaks[phase], rel=0.005)
