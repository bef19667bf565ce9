"""Models of transformers in `mixlab memory`: their traces beside the formulas."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner, Result

from mixlab.cli.commands import app
from mixlab.memory import Differences, estimate, estimate_of, trace
from mixlab.shapes import model_shape
from tests.models.language_models import OF_LLAMA, WORDS
from tests.test_readme import code_under

pytestmark = pytest.mark.models

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
OF_GPT2 = {**WORDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "n_inner": 64}
CONFIGS: dict[str, dict[str, Any]] = {"gpt2": OF_GPT2, "llama": OF_LLAMA, "qwen3_moe": {**OF_LLAMA, **EXPERTS}}


def causal(kind: str, **more: Any) -> nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        made = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **CONFIGS[kind]), **more)
    assert isinstance(made, nn.Module)
    return made


def tokens(rows: int = 2, length: int = 32) -> dict[str, torch.Tensor]:
    ids = torch.zeros(rows, length, dtype=torch.long, device="meta")
    return {"input_ids": ids, "labels": ids.clone()}


def memory(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["memory", *arguments])


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_formulas_of_a_module_are_found_by_its_config_and_its_batch(kind: str, tmp_path: Path):
    model = causal(kind)
    found = estimate_of(model, tokens(8, 64), "amp-bf16", optimizer="sgd", accumulation=2)
    path = tmp_path / "config.json"
    model.config.to_json_file(path)  # type: ignore[union-attr, operator]
    shape = model_shape(path)
    assert found.shape.parameters == shape.parameters == sum(one.numel() for one in model.parameters())
    assert (found.batch, found.seq, found.module) == (8, 64, "transformers")
    assert (found.optimizer, found.accumulation, found.attention, found.checkpointing) == ("sgd", 2, "fused", "none")
    shown = Differences(found, trace(model, tokens(8, 64), "amp-bf16", optimizer="sgd", accumulation=2))
    assert abs(shown.at_peak) < 0.03
    assert {one.what for one in shown.parts} >= {"attention", "norms", "sums of a layer", "embedding, head and loss"}


def test_attention_and_checkpointing_are_the_modules_own():
    model = causal("llama", attn_implementation="eager")
    assert estimate_of(model, tokens(), "fp32").attention == "materialised"
    model.activation_checkpointing_enable()  # type: ignore[operator]
    assert estimate_of(model, (tokens()["input_ids"], tokens()["labels"]), "fp32").checkpointing == "full"


def test_what_has_no_formulas_is_told_in_words():
    from transformers import AutoConfig, AutoModel

    frozen, wider = causal("llama"), causal("llama")
    next(frozen.parameters()).requires_grad_(False)
    wider.extra = nn.Linear(3, 3, device="meta")
    with torch.device("meta"):
        headless = AutoModel.from_config(AutoConfig.for_model("llama", **OF_LLAMA))
    words = {
        "no model of transformers": nn.Linear(3, 3),
        "1 parameters of LlamaForCausalLM are frozen": frozen,
        "was changed after it was made": wider,
        r"architectures must be \['LlamaForCausalLM'\] or absent, got \['LlamaModel'\]": headless,
    }
    for said, model in words.items():
        with pytest.raises(ValueError, match=said):
            estimate_of(model, tokens(), "fp32")
    with pytest.raises(ValueError, match="batch must have input_ids"):
        estimate_of(causal("llama"), {"inputs_embeds": torch.ones(2, 3, 32)}, "fp32")


SOURCE = """
from tests.models.test_own_models import causal, tokens


def make():
    return causal("qwen3_moe"), tokens()
"""


def test_a_module_is_traced_beside_its_formulas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "own_transformers.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_transformers", raising=False)
    result = memory("--module", "own_transformers:make", "--json")
    assert result.exit_code == 0, result.stderr
    content = json.loads(result.stdout)
    assert content["active_parameters"] < content["parameters"]
    assert abs(content["differences"]["at_peak"]) < 0.03
    assert content["note"] is None
    shown = memory("--module", "own_transformers:make").stdout
    assert f"Qwen3MoeForCausalLM, {content['parameters']:,} parameters, of which a token passes " in shown
    assert "MiB kept as forward ends by" in shown


def test_the_lines_of_the_readme_run(capsys: pytest.CaptureFixture[str]):
    model, batch = causal("llama"), tokens()
    exec(code_under("Memory")[1], {"model": model, "batch": batch, "traced": trace(model, batch, "amp-bf16")})
    shown = capsys.readouterr().out
    assert shown.startswith("fits on h100-sxm: 0.")
    assert "largest differences: " in shown


@pytest.mark.parametrize("options", [(), ("--attention", "materialised"), ("--checkpointing", "full")])
def test_a_config_is_built_and_traced(options: tuple[str, ...], tmp_path: Path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "qwen3_moe", **CONFIGS["qwen3_moe"]}))
    result = memory("--model", str(path), "--batch", "2", "--seq", "32", "--trace", "--json", *options)
    assert result.exit_code == 0, result.stderr
    content = json.loads(result.stdout)
    assert content["trace"]["peak_bytes"] == pytest.approx(content["peak_bytes"], rel=0.03)
    assert content["implementation"] == "transformers"


def test_mixlabs_own_layers_and_those_of_transformers_are_two_traces(tmp_path: Path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "gpt2", **OF_GPT2}))
    asked = ("--model", str(path), "--batch", "2", "--seq", "32", "--trace", "--json", "--implementation")
    found = {which: json.loads(memory(*asked, which).stdout) for which in ("mixlab", "transformers")}
    assert found["mixlab"]["trace"]["peak_bytes"] < found["transformers"]["trace"]["peak_bytes"]
    for which, content in found.items():
        assert (
            content["peak_bytes"]
            == estimate(model_shape(path), "amp-bf16", batch=2, seq=32, implementation=which).peak_bytes
        )
