"""Models of transformers and timm in the tools that take a task, against a loop of plain torch, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mixlab import Task, Trainer, cast_trace, dtype_ledger
from mixlab.training.tasks import step_seed
from tests.models.language_models import OF_LLAMA, WORDS

pytestmark = pytest.mark.models

OF_BERT = {**WORDS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


def language_model() -> nn.Module:
    from transformers import AutoModelForCausalLM, LlamaConfig

    return AutoModelForCausalLM.from_config(LlamaConfig(**OF_LLAMA))


def classifier() -> nn.Module:
    from transformers import AutoModelForSequenceClassification, BertConfig

    return AutoModelForSequenceClassification.from_config(BertConfig(**OF_BERT, num_labels=3))


def image_model() -> nn.Module:
    import timm

    return timm.create_model("resnet10t", num_classes=3)


def text(generator: torch.Generator) -> Any:
    from transformers import BatchEncoding

    ids = torch.randint(100, (2, 8), generator=generator)
    return BatchEncoding({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids})


def marked_text(generator: torch.Generator) -> Any:
    ids = torch.randint(100, (4, 8), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ids[:, 0] % 3


def images(generator: torch.Generator) -> Any:
    return torch.rand(2, 3, 32, 32, generator=generator), torch.randint(3, (2,), generator=generator)


CASES = {
    "a loss of the model's own": (language_model, text, lambda model, batch: model(**batch).loss, ""),
    "logits and targets": (
        classifier,
        marked_text,
        lambda model, batch: F.cross_entropy(model(**batch[0]).logits, batch[1]),
        "accuracy",
    ),
    "images": (image_model, images, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), "accuracy"),
}


@pytest.mark.parametrize(("make", "draw", "by_hand", "metric"), CASES.values(), ids=list(CASES))
def test_a_training_is_a_loop_by_hand(make, draw, by_hand, metric):
    task = Task("theirs", make, draw, draw(torch.Generator().manual_seed(9)))
    records = list(Trainer(task, "fp32", device="cpu", native=True).steps(2))
    model = task.seeded_model(0)
    optimizer = task.make_optimizer(model, "fp32")
    for step in range(2):
        torch.manual_seed(step_seed(0, step, "forward"))
        loss = by_hand(model, task.batch(0, step))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        assert (records[step].loss, records[step].metric_name) == (loss.item(), metric)
    ledger = dtype_ledger(task, "bf16", device="cpu", native=True)
    assert ledger.bytes_of("parameters") == ledger.bytes_of("exp_avg") == 2 * ledger.numel


def test_the_casts_of_a_model_with_a_loss_of_its_own():
    traced = cast_trace(language_model(), text(torch.Generator().manual_seed(0)))
    assert traced[-1].op == "cross_entropy"
    assert {op.computed for op in traced if op.op == "linear"} == {"fp16"}
