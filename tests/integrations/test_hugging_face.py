"""The callback in real Trainers of transformers. About 25 seconds."""

from __future__ import annotations

import copy
import logging
import pickle
from importlib import import_module
from pathlib import Path

import pytest
import torch

import tests.models  # noqa: F401  HF_HUB_OFFLINE
from mixlab.integrations import HFCallback
from mixlab.memory import estimate

pytestmark = [
    pytest.mark.models,
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*Enum subclass:UserWarning"),
]


def llama():
    transformers = import_module("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
    )
    return transformers.LlamaForCausalLM(config)


def tokens(count=64):
    generator = torch.Generator().manual_seed(1)
    drawn = (torch.randint(64, (8,), generator=generator) for _ in range(count))
    return [{"input_ids": one, "labels": one} for one in drawn]


def trainer(folder, callbacks, *, model=None, kind=None, **settings):
    transformers = import_module("transformers")
    defaults = {
        "max_steps": 6,
        "per_device_train_batch_size": 2,
        "report_to": "none",
        "use_cpu": True,
        "logging_steps": 2,
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    args = transformers.TrainingArguments(str(folder), **(defaults | settings))
    made = (kind or transformers.Trainer)(
        model or llama(), args, train_dataset=tokens(), eval_dataset=tokens(4), callbacks=callbacks
    )
    made.remove_callback(transformers.PrinterCallback)
    return made


def weights(trained):
    return [parameter.detach().clone() for parameter in trained.model.parameters()]


def hooks(model):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    owners = [*model.modules(), *model.parameters()]
    return sum(len(getattr(owner, kind, None) or ()) for owner in owners for kind in kinds)


SETTINGS = {
    "fp32": {},
    "bf16": {"bf16": True},
    "accumulated": {"gradient_accumulation_steps": 3, "max_steps": 4},
    "checkpointed": {"gradient_checkpointing": True},
    "evaluated": {"eval_strategy": "steps", "eval_steps": 1},
    "clipped": {"max_grad_norm": 1e-3},
    "adafactor": {"optim": "adafactor"},
    "sgd": {"optim": "sgd"},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_the_weights_come_out_as_without_the_callback(settings, tmp_path):
    alone = trainer(tmp_path, [], **settings)
    alone.train()
    watch = HFCallback(every=2, prints=False)
    watched = trainer(tmp_path, [watch], **settings)
    watched.train()
    assert all(map(torch.equal, weights(alone), weights(watched)))
    steps = settings.get("max_steps", 6)
    assert [row["step"] for row in watch.metrics] == list(range(0, steps, 2))
    assert watch.failed == ""
    assert hooks(watched.model) == hooks(alone.model)
    inner = watched.optimizer.optimizer
    assert len(inner._optimizer_step_pre_hooks) == len(inner._optimizer_step_post_hooks) == 0
    micro = settings.get("gradient_accumulation_steps", 1)
    assert watch.last.stats[0].numel == micro * 2 * 8 * 16  # the embedding's output
    assert watch.window.usable
    assert watch.updates.swallowed.of > 0
    assert watch.last.memory.gradients == watch.last.memory.parameters == 26_944


def test_metrics_reach_the_history_and_the_reporters(tmp_path):
    transformers = import_module("transformers")

    class Reporter(transformers.TrainerCallback):
        def __init__(self):
            self.logs = []

        def on_log(self, args, state, control, logs=None, **given):
            self.logs.append(dict(logs))

    reporter, watch = Reporter(), HFCallback(every=2, prints=False)
    watched = watch.attach(trainer(tmp_path, [reporter, watch]))
    watched.train()
    assert watched.callback_handler.callbacks[0] is watch
    assert watched.callback_handler.callbacks.count(watch) == 1
    logs = [log for log in reporter.logs if "loss" in log]
    assert [log["mixlab/updates_swallowed"] for log in logs] == [
        row["mixlab/updates_swallowed"] for row in watch.metrics
    ]
    history = [entry for entry in watched.state.log_history if "loss" in entry]
    assert [entry["mixlab/gradient_amax"] for entry in history] == [
        row["mixlab/gradient_amax"] for row in watch.metrics
    ]
    assert [entry["step"] for entry in history] == [2, 4, 6]
    assert list(watch.to_frame().step) == [0, 2, 4]


def scaled(scale):
    """A Trainer with accelerate's scaler, which it makes on a GPU for fp16."""

    class Scaled(import_module("transformers").Trainer):
        def create_accelerator_and_postprocess(self):
            super().create_accelerator_and_postprocess()
            self.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)

    return Scaled


def test_a_scaler_is_read_and_skipped_steps_are_told(tmp_path):
    ends = []
    for callbacks in ([], [HFCallback(every=1, prints=False)]):
        watched = trainer(tmp_path, callbacks, kind=scaled(2.0**127))
        watched.train()
        ends.append(weights(watched))
    assert all(map(torch.equal, *ends))
    (watch,) = callbacks
    skipped = [row["mixlab/skipped"] for row in watch.metrics]
    scales = [row["mixlab/loss_scale"] for row in watch.metrics]
    assert skipped[0] == 1
    assert scales[:2] == [2.0**127, 2.0**126]
    assert f"{int(sum(skipped))} of them skipped" in watch.report()
    plain = HFCallback(every=1, prints=False)
    trainer(tmp_path, [plain], kind=scaled(2.0**10), max_steps=1, max_grad_norm=0).train()
    unscaled = HFCallback(every=1, prints=False)
    trainer(tmp_path, [unscaled], max_steps=1, max_grad_norm=0).train()
    assert plain.window == unscaled.window  # the scale is taken out
    assert plain.metrics[0]["mixlab/gradient_amax"] == unscaled.metrics[0]["mixlab/gradient_amax"]


def test_a_resumed_training_goes_on_watching_the_same_steps(tmp_path):
    watch = HFCallback(every=2, prints=False)
    trainer(tmp_path, [watch], save_strategy="steps", save_steps=3).train()
    again = HFCallback(every=2, prints=False)
    resumed = trainer(tmp_path, [again], save_strategy="steps", save_steps=3)
    resumed.train(resume_from_checkpoint=str(next(Path(tmp_path).glob("checkpoint-3"))))
    assert [row["step"] for row in again.metrics] == [4]
    assert again.metrics[0]["mixlab/gradient_amax"] == watch.metrics[-1]["mixlab/gradient_amax"]


@pytest.mark.parametrize("where", ["on_step_begin", "on_step_end"])
def test_a_callback_that_fails_says_so_once_and_the_training_goes_on(where, tmp_path, caplog, monkeypatch):
    alone = trainer(tmp_path, [])
    alone.train()
    watch = HFCallback(every=2, prints=False)
    inner = {"on_step_begin": "_begin_step", "on_step_end": "_end_step"}[where]
    monkeypatch.setattr(watch, inner, lambda *a, **k: 1 / 0)
    watched = trainer(tmp_path, [watch])
    with caplog.at_level(logging.WARNING, logger="mixlab"):
        watched.train()
    assert all(map(torch.equal, weights(alone), weights(watched)))
    said = [record.getMessage() for record in caplog.records if record.name.startswith("mixlab")]
    assert said == ["HFCallback watches no more, and the training goes on: ZeroDivisionError: division by zero"]
    assert "watching stopped: ZeroDivisionError" in watch.report()
    assert hooks(watched.model) == 0


def test_a_layer_that_cannot_be_watched_is_left_out(tmp_path):
    model = llama()
    model.lm_head.register_forward_hook(lambda module, given, output: output.double())
    watch = HFCallback(every=2, prints=False)
    trainer(tmp_path, [watch], model=model).train()
    assert watch.failed == ""
    assert list(watch.last.left_out) == ["lm_head"]
    assert "left out of lm_head: track: activation of layer 'lm_head': probes look at floating" in watch.report()


def test_a_lora_adapter_is_watched(tmp_path):
    peft = import_module("peft")
    model = peft.get_peft_model(llama(), peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    watch = HFCallback(every=2, prints=False)
    trainer(tmp_path, [watch], model=model).train()
    seen = {stats.layer for stats in watch.last.stats if stats.kind == "weight_gradient"}
    assert len(seen) == 4
    assert all("lora_" in layer for layer in seen)
    assert {one.parameter.split(".")[-3] for one in watch.last.lost} == {"lora_A", "lora_B"}


def test_the_report_is_printed_at_the_end_with_the_prediction(tmp_path, capsys):
    predicted = estimate("gpt2", "fp32", batch=1, seq=8)
    watch = HFCallback(every=3, predicted=predicted)
    trainer(tmp_path, [watch]).train()
    shown = capsys.readouterr().out
    assert watch.report() in shown
    lines = watch.report().splitlines()
    assert lines[0] == "mixlab: 2 steps watched, one in 3; 0 of them skipped"
    assert lines[2].startswith("loss scales that fit fp16: 2")
    assert lines[4] == "memory: parameters 26.31 KiB, gradients 26.31 KiB, states 52.62 KiB"
    assert lines[5].strip() == (
        f"no peak: a CPU's allocator keeps none; predicted {predicted.peak_bytes / 2**30:.2f} GiB"
    )


def test_an_error_in_the_training_leaves_no_hook(tmp_path):
    model, calls = llama(), []

    def failing(module, given):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("out of memory")

    model.lm_head.register_forward_pre_hook(failing)
    watch = HFCallback(every=1, prints=False)
    watched = trainer(tmp_path, [watch], model=model)
    with pytest.raises(RuntimeError, match="out of memory"):
        watched.train()
    assert len(watch.metrics) == 2
    watch.detach()
    assert hooks(model) == 1
    watched.train()
    assert watch.failed == ""


def test_a_compiled_training_is_watched_but_for_its_layers(tmp_path):
    watch = HFCallback(every=2, prints=False)
    trainer(tmp_path, [watch], torch_compile=True, torch_compile_backend="eager", max_steps=3).train()
    assert watch.failed == ""
    assert watch.last.stats == ()
    assert watch.last.left_out == {"": "the model is compiled, so its layers call no hooks"}
    assert watch.updates.swallowed.of > 0


def test_its_class_can_be_given_instead_of_one():
    watched = import_module("transformers").trainer_callback.CallbackHandler([HFCallback], None, None, None, None)
    assert isinstance(watched.callbacks[0], HFCallback)


def test_it_is_a_callback_of_transformers_and_is_copied_and_pickled():
    watch = HFCallback(every=7)
    assert isinstance(watch, import_module("transformers").TrainerCallback)
    assert isinstance(watch, HFCallback)
    assert type(watch).__name__ == "HFCallback"
    for twin in (copy.deepcopy(watch), pickle.loads(pickle.dumps(watch))):
        assert type(twin) is type(watch)
        assert twin._every == 7


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"every": 0}, "HFCallback: every must be a whole number from 1 up, got 0"),
        ({"every": True}, "HFCallback: every must be a whole number from 1 up, got True"),
        ({"sample": 0}, "sample must be a positive whole number, or None for all elements, got 0"),
        ({"predicted": 3}, "HFCallback: predicted must be what mixlab.memory.trace or estimate returns, got int"),
        ({"prints": 1}, "HFCallback: prints must be True or False, got 1"),
    ],
)
def test_what_is_not_allowed_is_said(settings, words):
    with pytest.raises((TypeError, ValueError), match=words):
        HFCallback(**settings)
