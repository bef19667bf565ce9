"""Traces of language models as on a CPU, against real steps, to the byte."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mixlab.memory import trace
from mixlab.memory.traceable import TraceError
from tests.models.exactness import Architecture, Say, assert_exact
from tests.models.language_models import CAUSAL, ENCODERS, IDS, KINDS, SEQ2SEQ, causal, made, trained_as

pytestmark = [
    pytest.mark.models,
    pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing(_enable)?` is deprecated:FutureWarning"),
]

AUTO = ("MaskedLM", "SequenceClassification", "TokenClassification", "QuestionAnswering")
KNOWN = {("gpt2", "checkpointing"): (-72, "a checkpoint keeps the numbers of Python in it, 8 bytes each")}
MIXTURES = ("deepseek_v3", "gpt_oss", "granitemoe", "mixtral", "qwen3_moe")


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_models_in_float32(name: str, record_property: Say):
    assert_exact(record_property, name, causal(name, "sdpa"), "fp32")


@pytest.mark.parametrize(
    ("name", "kind", "recipe"),
    [
        (name, *(("mask of ones", "amp-bf16") if place % 2 else ("cache", "bf16")))
        for place, name in enumerate(sorted(CAUSAL))
    ],
)
def test_causal_models_in_16_bits(name: str, kind: str, recipe: str, record_property: Say):
    assert_exact(record_property, name, causal(name, kind), recipe)


@pytest.mark.parametrize(
    ("name", "kind", "recipe"),
    [
        (name, kind, ("fp32", "amp-fp16")[(place + shift) % 2])
        for shift, name in enumerate(("gpt2", "llama"))
        for place, kind in enumerate(KINDS)
        if kind not in ("sdpa", "batched experts")
    ],
)
def test_kinds_of_training(name: str, kind: str, recipe: str, record_property: Say):
    apart, reason = KNOWN.get((name, kind), (0, ""))
    assert_exact(record_property, name, causal(name, kind), recipe, apart=apart, reason=reason)


@pytest.mark.parametrize(
    ("name", "recipe"), [(name, ("amp-bf16", "bf16")[place % 2]) for place, name in enumerate(MIXTURES)]
)
def test_batched_experts(name: str, recipe: str, record_property: Say):
    assert_exact(record_property, name, causal(name, "batched experts"), recipe)


def test_experts_that_are_called_one_by_one_are_refused_with_the_way_out():
    architecture = causal("mixtral", "sdpa")
    model: Any = architecture.make()
    model.set_experts_implementation("eager")
    with pytest.raises(TraceError, match=r"mlp\.experts .*: call model\.set_experts_implementation\('grouped_mm'\)"):
        trace(model, architecture.batch)


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders(name: str, record_property: Say):
    place = sorted(ENCODERS).index(name)
    for auto, recipe in ((AUTO[place % 4], "fp32"), (AUTO[(place + 2) % 4], "amp-bf16")):
        assert_exact(record_property, name, trained_as(auto, name, ENCODERS[name]), recipe)


@pytest.mark.parametrize("name", SEQ2SEQ)
def test_encoders_with_decoders(name: str, record_property: Say):
    for recipe in ("fp32", "amp-bf16"):
        assert_exact(record_property, name, trained_as("Seq2SeqLM", name, SEQ2SEQ[name]), recipe)


def adapted(name: str) -> Architecture:
    """Returns a model with adapters of rank 4 (LoRA), which alone are trained."""

    def adapt(model: Any) -> Any:
        from peft import LoraConfig, get_peft_model

        return get_peft_model(model, LoraConfig(r=4, lora_dropout=0.1, target_modules="all-linear"))

    make = made("CausalLM", name, CAUSAL[name], lambda _model: None)
    return Architecture("causal, LoRA", lambda: adapt(make()).train(), {"input_ids": IDS, "labels": IDS})


@pytest.mark.parametrize(("name", "recipe"), [("llama", "fp32"), ("llama", "amp-bf16"), ("gpt_neox", "bf16")])
def test_adapters(name: str, recipe: str, record_property: Say):
    assert_exact(record_property, name, adapted(name), recipe)


@pytest.mark.parametrize("name", CAUSAL)
def test_as_on_cuda_causal_models_keep_no_more_than_on_a_cpu(name: str):
    """Fused kernels keep less; each size is rounded up to 512 bytes, which the number of allocations bounds."""
    architecture = causal(name, "padding")
    with torch.device("meta"):
        model = architecture.make()
    batch = {key: value for key, value in architecture.batch.items() if key != "attention_mask"}
    on_cuda, on_cpu = (trace(model, batch, "amp-bf16", as_on=place) for place in ("cuda", "cpu"))
    assert on_cuda.numel == on_cpu.numel
    assert on_cuda.after["forward"] <= on_cpu.after["forward"] + 512 * len(on_cuda.allocations)
