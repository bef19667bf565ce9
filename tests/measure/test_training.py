from __future__ import annotations

import math

import pytest
import torch

from mixlab.measure import Record, measure_train, shipped
from mixlab.measure import training as module
from mixlab.measure.gpt_shapes import SMALL, GPTShape
from mixlab.measure.training import peak_flops

TINY = GPTShape(width=16, layers=2, heads=2, vocabulary=128, context=8, batch=2)


def test_the_default_is_gpt_2_small():
    """50304 * 768 + 1024 * 768 + 12 * (12 * 768^2 + 13 * 768) + 2 * 768"""
    assert GPTShape().parameters == 38_633_472 + 786_432 + 85_054_464 + 1_536 == 124_475_904


@pytest.mark.parametrize("shape", [TINY, SMALL], ids=["tiny", "small"])
def test_parameters_and_tokens_are_those_of_the_task(shape):
    task = shape.task()
    assert sum(p.numel() for p in task.seeded_model(0).parameters()) == shape.parameters
    inputs, targets = task.batch(0, 0)
    assert inputs.numel() == targets.numel() == shape.tokens == shape.batch * shape.context
    assert int(inputs.max()) < 128


def test_flops_are_six_a_parameter_and_attention():
    assert TINY.flops_per_token == 6 * TINY.parameters + 12 * 2 * 16 * 8


def test_a_record_of_recipes_and_modes(tmp_path):
    parts = []
    record = measure_train(shape=TINY, recipes=["fp32", "bf16-master"], modes=["eager"], steps=2, progress=parts.append)
    assert [series.name for series in record.series] == [
        "fp32 eager, tokens/s",
        "fp32 eager, loss",
        "bf16-master eager, tokens/s",
        "bf16-master eager, loss",
    ]
    assert [len(series.samples) for series in record.series] == [2, 5, 2, 5]  # losses of the warm-up steps too
    assert record["fp32 eager, loss"].samples[0] == pytest.approx(math.log(128), abs=0.2)
    assert record.parameters["parameters"] == TINY.parameters
    assert record.kind == "train"
    assert parts == sorted(parts)
    assert parts[-1] == 1
    record.save(tmp_path / "train.json")
    assert Record.load(tmp_path / "train.json") == record


def test_a_training_that_diverges_is_named_and_the_others_go_on():
    record = measure_train(shape=TINY, recipes=["fp16", "bf16"], modes=["eager"], steps=3)
    assert record.parameters["fp16 eager"] == "diverged: the loss is not finite from step 1 on"
    assert "bf16 eager" not in record.parameters
    assert len(record["fp16 eager, loss"].samples) == 1
    assert len(record["fp16 eager, tokens/s"].samples) == 3
    assert len(record["bf16 eager, loss"].samples) == 6


def test_what_does_not_fit_or_compile_is_named(monkeypatch):
    def refuse(*_arguments: object, **_options: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(module, "Trainer", refuse)
    record = measure_train(shape=TINY, recipes=["fp32"], modes=["eager"], steps=1)
    assert record.parameters["fp32 eager"] == "out of memory"
    assert record.series == ()


def test_peaks_are_known_by_the_name_of_the_gpu(monkeypatch):
    assert peak_flops(torch.device("cpu"), "bf16") is None
    peaks = {"NVIDIA H200": 989.4e12, "NVIDIA A100-SXM4-80GB": 312e12, "Tesla K80": None}
    peaks |= {"NVIDIA RTX A1000": None, "NVIDIA H100 PCIe": 756e12}
    for name, peak in peaks.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device, name=name: name)
        assert peak_flops(torch.device("cuda"), "bf16") == peak


def test_no_recipe_gets_what_was_compiled_for_another():
    """With torch 2.11's cache, amp-bf16 would be given amp-fp16's graph."""
    caching = []

    def note(_part: float) -> None:
        caching.append(torch._functorch.config.enable_autograd_cache)

    record = measure_train(shape=TINY, recipes=["amp-bf16"], modes=["compiled"], steps=1, progress=note)
    assert record["amp-bf16 compiled, tokens/s"].median > 0
    assert set(caching) == {False}
    assert torch._functorch.config.enable_autograd_cache  # as it was
    assert torch._functorch.config.enable_autograd_cache


@pytest.mark.parametrize("record", shipped("train"), ids=lambda record: record.machine["gpus"] or "cpu")
def test_compiled_and_eager_training_lose_alike_in_shipped_records(record):
    losses = {series.name: series.samples for series in record.series if series.name.endswith(", loss")}
    pairs = [(name, name.replace(" compiled", " eager")) for name in losses if " compiled" in name]
    assert pairs
    for compiled, eager in pairs:
        assert losses[compiled] == pytest.approx(losses[eager], rel=0.02), compiled


@pytest.mark.gpu
def test_on_a_gpu_memory_is_measured():
    record = measure_train("cuda", shape=TINY, recipes=["fp32", "amp-bf16"], steps=2)
    assert record["fp32 eager, peak memory"].samples[0] > 16 * TINY.parameters
    assert record["amp-bf16 compiled, tokens/s"].median > 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: measure_train(shape=TINY, recipes=["amp-fp17"]), "unknown recipe 'amp-fp17'"),
        (lambda: measure_train(shape=TINY, recipes=[]), "recipes not empty"),
        (lambda: measure_train(shape=TINY, modes=["jit"]), r"modes must be eager, compiled or both.*got \['jit'\]"),
        (lambda: measure_train(shape=TINY, steps=0), "steps must be a whole number from 1 up, got 0"),
        (lambda: measure_train("tpu"), "device must be cpu, cuda or cuda:<number>"),
        (lambda: GPTShape(heads=7), "heads must divide width, got 7 heads and a width of 768"),
        (lambda: GPTShape(layers=0), "layers must be a whole number from 1 up, got 0"),
        (lambda: GPTShape(vocabulary=100), "vocabulary must hold the 128 ASCII codes, got 100"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
