from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from mixlab.cli.commands import app
from mixlab.memory import GPUS, Differences, Needs, Parallelism, confirm, estimate, suggestions, trace
from mixlab.memory.categories import PHASES
from mixlab.own_models import own_model
from mixlab.shapes import SHAPES, model_shape
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


SPARSE = {
    **CONFIG,
    "model_type": "mixtral",
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}


@pytest.fixture
def sparse(tmp_path: Path) -> str:
    path = tmp_path / "sparse" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(SPARSE))
    return str(path)


def test_a_trace_is_shown_beside_the_estimate_kind_by_kind(tmp_path: Path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG))
    asked = ("--model", str(path), "--batch", "2", "--trace")
    training = estimate(model_shape(path), "amp-bf16", batch=2)
    differences = Differences(training, confirm(training))
    assert re.sub(r" +", " ", str(differences)) in printed(*asked)
    content = as_json(*asked)["differences"]
    assert content["at_peak"] == differences.at_peak
    assert [tuple(one.values())[:4] for one in content["kinds"]] == list(differences.kinds)
    assert [tuple(one.values())[:4] for one in content["parts"]] == list(differences.parts)
    assert as_json("--model", str(path))["differences"] is None


def test_a_mixture_of_experts_has_active_parameters_and_another_module(sparse: str):
    shape = model_shape(sparse)
    shown = printed("--model", sparse)
    assert shown.startswith(
        f"sparse, {shape.parameters:,} parameters, of which a token passes {shape.active_parameters:,}\n"
    )
    assert "sparse, transformers' module, amp-bf16" in shown
    content = as_json("--model", sparse)
    assert (content["parameters"], content["active_parameters"]) == (shape.parameters, shape.active_parameters)
    assert (content["implementation"], content["notes"]) == ("transformers", list(estimate(shape, "amp-bf16").notes))
    refused = memory("--model", sparse, "--implementation", "mixlab")
    assert (refused.exit_code, "mixlab has no layers like those of sparse" in refused.stderr) == (2, True)


def test_either_implementation_is_estimated():
    needed = {which: as_json(*SMALL, "--implementation", which) for which in ("mixlab", "transformers")}
    for which, content in needed.items():
        training = estimate("gpt2", "amp-bf16", batch=1, seq=64, implementation=which)
        assert (content["implementation"], content["peak_bytes"]) == (which, training.peak_bytes)
    refused = memory(*SMALL, "--implementation", "transformers", "--trace")
    assert (refused.exit_code, "is built from its config.json; give its path" in refused.stderr) == (2, True)


OWN = """
import torch
from torch import nn

print("imported")


def rows():
    return torch.randn(64, 256), torch.randint(10, (64,))


def make():
    layers = [nn.Sequential(nn.Linear(256, 256), nn.ReLU()) for _ in range(3)]
    return nn.Sequential(*layers, nn.Linear(256, 10)), rows()


def with_loss():
    model, batch = make()
    return model, batch[0], lambda output, batch: output.square().mean()


def huge():
    with torch.device("meta"):
        return nn.Sequential(nn.Linear(2**17, 2**17), nn.Linear(2**17, 8)), (torch.ones(8, 2**17), torch.arange(8))


def no_parameters():
    return nn.ReLU(), (torch.ones(2, 3), torch.arange(2))


def no_scalar():
    return nn.Linear(3, 3), torch.ones(2, 3), lambda output, batch: output


def reads_values():
    class Model(nn.Linear):
        def forward(self, x):
            output = super().forward(x)
            return output * (2 if output.sum() > 0 else 1)

    return Model(3, 3), (torch.ones(2, 3), torch.arange(2))


def misfits():
    return nn.Linear(3, 3), (torch.ones(2, 4), torch.arange(2))
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_nets.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_nets", raising=False)
    return "own_nets"


def test_a_model_of_ones_own_is_traced(own: str):
    content = as_json("--module", f"{own}:make", "--recipe", "bf16", "--optimizer", "sgd", "--accumulation", "2")
    make = own_model(f"{own}:make")
    traced = trace(make.model, make.batch, "bf16", optimizer="sgd", accumulation=2)
    needs = Needs(traced)
    assert (content["module"], content["class"]) == (f"{own}:make", "Sequential")
    assert (content["parameters"], content["recipe"], content["optimizer"]) == (traced.numel, "bf16", "sgd")
    assert (content["phases"], content["peak_phase"]) == (traced.at_phase_peaks, traced.peak_phase)
    assert (content["peak_bytes"], content["total_bytes"]) == (traced.peak_bytes, needs.total_bytes)
    assert content["outside"] == needs.outside
    assert content["trace"]["at_peak_by_module"] == traced.at_peak_by_module
    assert {name: one["room_bytes"] for name, one in content["fits"].items()} == {
        name: needs.fits(name).room for name in GPUS
    }
    assert (content["differences"], content["suggestions"]) == (None, [])
    assert content["note"] == "No formulas to compare with: Sequential is no model of transformers with a config"


def test_its_tables_are_the_trace_the_modules_and_the_gpus(own: str):
    shown = printed("--module", f"{own}:make", "--recipe", "fp32")
    make = own_model(f"{own}:make")
    traced = trace(make.model, make.batch, "fp32")
    assert shown.startswith(f"{own}:make: Sequential\n\n{re.sub(' +', ' ', str(traced))}\n\n")
    assert "activations and temporaries at the peak, by MiB\n(optimizer) " in shown
    forward = printed("--module", f"{own}:with_loss", "--recipe", "fp32", "--optimizer", "sgd")
    assert "*.1" not in shown
    assert "activations and temporaries at the peak, by MiB\n*." in forward or "(loss)" in forward
    assert all(f"\n{name} " in shown for name in GPUS)


def test_a_gpu_is_judged_for_a_model_of_ones_own_too(own: str):
    asked = ("--module", f"{own}:huge", "--gpu", "h200")
    needs = Needs(trace(*own_model(f"{own}:huge")[:2], "amp-bf16"))
    result = memory(*asked, "--check")
    assert (result.exit_code, str(needs.fits("h200")) in result.stdout) == (1, True)
    assert memory(*asked).exit_code == 0
    assert memory("--module", f"{own}:make", "--gpu", "t4", "--check").exit_code == 0


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("no_parameters", "trace: no parameter of the model requires a gradient"),
        ("no_scalar", "trace: loss must return one floating number"),
        ("reads_values", "it reads a value"),
        ("misfits", "check that the model trains on a real batch of these shapes"),
        ("nosuch", "has no function 'nosuch'"),
    ],
)
def test_what_cannot_be_traced_is_said_in_words(own: str, function: str, words: str, caplog):
    caplog.clear()
    result = memory("--module", f"{own}:{function}")
    assert result.exit_code == 2
    assert (words in result.stderr, "Traceback" in result.stderr) == (True, False)
    assert caplog.text == ""  # torch logs a traceback of its own


@pytest.mark.parametrize(
    "option",
    [
        *(("--model", "gpt2"), ("--batch", "1"), ("--seq", "8"), ("--attention", "fused"), ("--checkpointing", "none")),
        *(
            ("--step", "loop"),
            ("--gpus", "2"),
            ("--zero", "1"),
            ("--fsdp",),
            ("--tensor", "1"),
            ("--sequence-parallel",),
        ),
        *(("--pipeline", "1"), ("--microbatches", "1"), ("--trace",), ("--implementation", "mixlab")),
    ],
    ids=lambda option: option[0],
)
def test_what_only_a_shape_has_is_refused_beside_a_module(own: str, option: tuple[str, ...]):
    result = memory("--module", f"{own}:make", *option)
    assert result.exit_code == 2
    assert f"{option[0]} is for --model; the function of --module says it itself, so leave it out" in result.stderr


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
