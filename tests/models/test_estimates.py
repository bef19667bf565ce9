"""Estimates of transformers' own modules, against their traces; each comparison is a row of the table of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mixlab.memory import estimate, trace
from mixlab.memory.categories import PHASES
from mixlab.memory.hf_parts import ACTIVATIONS
from mixlab.memory.hf_writings import writing_of
from mixlab.shapes import model_shape
from tests.conftest import ESTIMATED_PROPERTY
from tests.models.causal_configs import CHANGES
from tests.models.exactness import Say

pytestmark = pytest.mark.models

# Recipe, rows, tokens of each, attention, checkpointing: activations are most of each peak.
MIXED = ("amp-bf16", 16, 48, "fused", "none")
OTHERS = (
    ("fp32", 8, 40, "fused", "none"),
    ("bf16", 8, 48, "materialised", "none"),
    ("bf16", 12, 48, "fused", "full"),
)
# What is apart by more than 3 %: type, change, training, by how much at most, and a word of the note that says it.
PLAIN, RECOMPUTED = ("bf16", 16, 48, "fused", "none"), ("bf16", 16, 48, "fused", "full")
APART = [
    ("qwen2_moe", {"decoder_sparse_step": 2}, PLAIN, 0.07, "first ones"),
    ("qwen3_moe", {"mlp_only_layers": [0, 2]}, PLAIN, 0.07, "first ones"),
    ("ernie4_5_moe", {"moe_layer_interval": 2}, PLAIN, 0.07, "first ones"),
    ("qwen2_moe", {}, RECOMPUTED, 0.1, "shared one"),
    ("ernie4_5_moe", {"moe_num_shared_experts": 2}, RECOMPUTED, 0.1, "shared one"),
    ("phi3", {"sliding_window": 16}, ("fp32", 16, 48, "fused", "none"), 0.25, "sliding windows"),
    ("mixtral", {"sliding_window": 16}, PLAIN, 0.1, "sliding windows"),
]
# Every type under autocast, and in one of the other ways.
TRAININGS = [(kind, way) for place, kind in enumerate(CHANGES) for way in (MIXED, OTHERS[place % 3])]


def module(path: Path, attention: str, checkpointing: str) -> nn.Module:
    """Returns transformers' module of a config.json on the meta device."""
    from transformers import AutoConfig, AutoModelForCausalLM

    eager = attention == "materialised" or writing_of(json.loads(path.read_text())["model_type"]).only_eager
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(path), attn_implementation="eager" if eager else "sdpa"
        )
    model.train()
    if checkpointing == "full":
        model.activation_checkpointing_enable()
    return model


def compared(
    say: Say, path: Path, training: tuple[str, int, int, Any, Any], what: str
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Returns by how much an estimate is above the trace, in all and in each phase, and its notes; says the first."""
    recipe, batch, seq, attention, checkpointing = training
    tokens = torch.empty(batch, seq, dtype=torch.long, device="meta")
    exact = trace(module(path, attention, checkpointing), {"input_ids": tokens, "labels": tokens}, recipe)
    kinds = {"attention": attention, "checkpointing": checkpointing, "implementation": "transformers"}
    found = estimate(model_shape(path), recipe, batch=batch, seq=seq, **kinds)
    assert found.activations.bytes > 0.3 * exact.peak_bytes or checkpointing == "full"
    apart = {phase: found.phase_peaks[phase] / exact.phase_peaks[phase] - 1 for phase in PHASES}
    apart["peak"] = found.peak_bytes / exact.peak_bytes - 1
    row = (what, recipe, f"{batch} x {seq}", attention, checkpointing, f"{exact.peak_bytes:,}", f"{found.peak_bytes:,}")
    say(ESTIMATED_PROPERTY, [*row, f"{apart['peak']:+.2%}"])
    return apart, found.notes


def file_of(folder: Path, kind: str, fields: dict[str, Any]) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({"model_type": kind, "pad_token_id": 0, **fields}))
    return path


@pytest.mark.parametrize(("kind", "training"), TRAININGS, ids=lambda one: one if isinstance(one, str) else one[0])
def test_peaks_are_within_three_percent_of_the_trace(kind, training, tmp_path, record_property: Say):
    apart, _ = compared(record_property, file_of(tmp_path, kind, CHANGES[kind][0]), training, kind)
    assert abs(apart["peak"]) < 0.03, apart
    assert abs(apart["backward"]) < 0.03, apart


MORE = [
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("gemma3_text", {"final_logit_softcapping": 30.0}),
    ("qwen2_moe", {"decoder_sparse_step": 2}),
    ("deepseek_v2", {"q_lora_rank": None}),
    ("stablelm", {"use_parallel_residual": True}),
    ("gpt_neox", {"use_parallel_residual": False}),
    ("gpt_bigcode", {"multi_query": False}),
    ("glm4_moe", {"use_qk_norm": True}),
    ("phi", {"qk_layernorm": True}),
]


FALCON: list[dict[str, Any]] = [
    {"alibi": True},
    {"multi_query": False},
    {"parallel_attn": False, "bias": True, "multi_query": False},
    {"new_decoder_architecture": True, "num_kv_heads": 2},
]
FALCONS = [("falcon", change, way) for change in FALCON for way in (MIXED, PLAIN, OTHERS[1])]


@pytest.mark.parametrize(
    ("kind", "change", "training"),
    [*((kind, change, MIXED) for kind, change in MORE), *FALCONS],
    ids=lambda one: one if isinstance(one, str) else " ".join(map(str, one)),
)
def test_so_are_those_of_other_flags(kind, change, training, tmp_path, record_property: Say):
    path = file_of(tmp_path, kind, {**CHANGES[kind][0], **change})
    apart, _ = compared(record_property, path, training, f"{kind} {change}")
    assert abs(apart["peak"]) < 0.03, apart


@pytest.mark.parametrize(("kind", "change", "training", "most", "words"), APART)
def test_what_is_apart_is_said_by_the_estimate(kind, change, training, most, words, tmp_path, record_property: Say):
    path = file_of(tmp_path, kind, {**CHANGES[kind][0], **change})
    apart, notes = compared(record_property, path, training, f"{kind} {change}")
    assert abs(apart["peak"]) < most, apart
    assert any(words in note for note in notes), notes


# One name for each way to compute an activation; bloom's own is among the types.
COMPUTED = sorted({function: name for name, function in ACTIVATIONS.items() if name != "bloom_gelu"}.values())


@pytest.mark.parametrize("name", COMPUTED)
def test_so_is_that_of_each_activation(name, tmp_path, record_property: Say):
    path = file_of(tmp_path, "llama", {**CHANGES["llama"][0], "hidden_act": name})
    apart, _ = compared(record_property, path, MIXED, f"llama {name}")
    assert abs(apart["peak"]) < 0.03, apart
    assert abs(apart["backward"]) < 0.03, apart
