"""The callback in real Trainers of Lightning. About 15 seconds."""

from __future__ import annotations

import copy
import logging
import os
import pickle
from importlib import import_module

import pytest
import torch
from torch import nn

import tests.models  # noqa: F401  names torchvision's ops
from mixlab.integrations import LightningCallback

pytestmark = [
    pytest.mark.models,
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before:UserWarning"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*Enum subclass:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*isinstance.*TreeSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*exists and is not empty:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used:UserWarning"),
]


def module(optimizer="AdamW", *, logs=True, **settings):
    lightning = import_module("lightning")

    class Net(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.1), nn.Linear(16, 3))

        def training_step(self, batch, batch_idx):
            loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
            if logs:
                self.log("loss", loss)
            return loss

        def validation_step(self, batch, batch_idx):
            self.log("held_out", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

        def configure_optimizers(self):
            return getattr(torch.optim, optimizer)(self.parameters(), lr=1e-2, **settings)

    return Net()


def adversaries():
    """Two networks and two optimizers, stepped by hand, the second every other batch."""
    lightning = import_module("lightning")

    class Adversaries(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.automatic_optimization = False
            self.maker, self.judge = nn.Linear(4, 4), nn.Linear(4, 3)

        def training_step(self, batch, batch_idx):
            for place, optimizer in enumerate(self.optimizers()):
                if place and batch_idx % 2:
                    continue
                loss = nn.functional.cross_entropy(self.judge(self.maker(batch[0])), batch[1]) * (-1) ** place
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()

        def configure_optimizers(self):
            return torch.optim.AdamW(self.judge.parameters()), torch.optim.SGD(self.maker.parameters(), lr=0.1)

    return Adversaries()


def loader(count=48):
    generator = torch.Generator().manual_seed(1)
    data = torch.utils.data.TensorDataset(
        torch.randn(count, 4, generator=generator), torch.randint(3, (count,), generator=generator)
    )
    return torch.utils.data.DataLoader(data, batch_size=4)


class Kept:
    """What a logger was given."""

    def __new__(cls):
        base = import_module("lightning.pytorch.loggers").Logger

        class Logger(base):
            name, version = "kept", 0

            def __init__(self):
                super().__init__()
                self.given = []

            def log_metrics(self, metrics, step=None):
                self.given.append((step, dict(metrics)))

            def log_hyperparams(self, *given, **named):
                pass

        return Logger()


def fit(model, callbacks, folder, *, held_out=False, ckpt_path=None, **settings):
    lightning = import_module("lightning")
    defaults = {
        "max_steps": 6,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "default_root_dir": str(folder),
    }
    torch.manual_seed(5)
    trainer = lightning.Trainer(callbacks=callbacks, **(defaults | settings))
    trainer.fit(model, loader(), loader(8) if held_out else None, ckpt_path=ckpt_path)
    return trainer


def weights(model):
    return [value.detach().clone() for value in model.state_dict().values()]


def hooks(model):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    owners = [*model.modules(), *model.parameters()]
    return sum(len(getattr(owner, kind, None) or ()) for owner in owners for kind in kinds)


def half_precision(scale):
    precision = import_module("lightning.pytorch.plugins").MixedPrecision
    return precision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=scale))


SETTINGS = {
    "fp32": dict,
    "bf16": lambda: {"precision": "bf16-mixed"},
    "fp16": lambda: {"plugins": [half_precision(2.0**10)]},
    "overflowing": lambda: {"plugins": [half_precision(2.0**24)]},
    "pure bf16": lambda: {"precision": "bf16-true"},
    "accumulated": lambda: {"accumulate_grad_batches": 5, "max_steps": 4},
    "clipped": lambda: {"gradient_clip_val": 1e-3},
    "validated": lambda: {"held_out": True, "val_check_interval": 1},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_the_weights_come_out_as_without_the_callback(settings, tmp_path):
    alone, watched = module(), module()
    fit(alone, [], tmp_path, **settings())
    watch = LightningCallback(every=2, prints=False)
    trainer = fit(watched, [watch], tmp_path, **settings())
    assert all(map(torch.equal, weights(alone), weights(watched)))
    assert watch.failed == ""
    assert [row["step"] for row in watch.metrics] == list(range(0, trainer.global_step, 2))
    assert hooks(watched) == 0
    assert len(trainer.optimizers[0]._optimizer_step_pre_hooks) == 0
    assert trainer.callback_metrics["mixlab/loss_scale"] == watch.last.loss_scale
    assert watch.last.memory.gradients == watch.last.memory.parameters or watch.last.skipped


@pytest.mark.parametrize("kind", ["AdamW", "SGD", "LBFGS", "Adafactor", "RMSprop"])
def test_every_optimizer_is_watched(kind, tmp_path):
    alone, watched = module(kind), module(kind)
    fit(alone, [], tmp_path, max_steps=3)
    watch = LightningCallback(every=1, prints=False)
    fit(watched, [watch], tmp_path, max_steps=3)
    assert all(map(torch.equal, weights(alone), weights(watched)))
    assert watch.failed == ""
    assert len(watch.metrics) == 3
    assert watch.updates.swallowed.of > 0


def test_micro_batches_count_together(tmp_path):
    watch = LightningCallback(every=2, prints=False)
    fit(module(), [watch], tmp_path, accumulate_grad_batches=3, max_steps=3)
    assert [row["step"] for row in watch.metrics] == [0, 2]
    assert watch.last.stats[0].numel == 3 * 4 * 16


def test_a_validation_between_micro_batches_is_not_seen(tmp_path):
    watch = LightningCallback(every=1, prints=False)
    settings = {"accumulate_grad_batches": 4, "val_check_interval": 3, "held_out": True}
    fit(module(), [watch], tmp_path, max_steps=2, **settings)
    assert watch.failed == ""
    assert watch.last.stats[0].numel == 4 * 4 * 16
    assert watch.last.stats[0].kind == "activation"


def test_two_optimizers_that_are_stepped_by_hand_are_watched_together(tmp_path):
    alone, watched = adversaries(), adversaries()
    fit(alone, [], tmp_path, max_steps=9)
    watch = LightningCallback(every=1, prints=False)
    fit(watched, [watch], tmp_path, max_steps=9)
    assert all(map(torch.equal, weights(alone), weights(watched)))
    assert watch.failed == ""
    assert len(watch.metrics) == 6
    assert {one.parameter for one in watch.last.lost} >= {"judge.weight", "judge.bias"}


def test_every_logger_gets_every_watched_step_once(tmp_path):
    kept, watch = Kept(), LightningCallback(every=2, prints=False)
    fit(module(), [watch], tmp_path, logger=kept, log_every_n_steps=50)
    given = [(step, metrics) for step, metrics in kept.given if "mixlab/updates_swallowed" in metrics]
    assert [step for step, _ in given] == [0, 2, 4]
    assert [metrics | {"step": step} for step, metrics in given] == watch.metrics


def test_the_loss_scale_is_taken_out_and_skipped_steps_are_told(tmp_path):
    overflowing, plain = (LightningCallback(every=1, prints=False) for _ in range(2))
    fit(module(), [overflowing], tmp_path, plugins=[half_precision(2.0**24)])
    assert overflowing.metrics[0]["mixlab/skipped"] == 1
    assert overflowing.metrics[1]["mixlab/loss_scale"] == 2.0**23
    assert overflowing.metrics[0]["mixlab/gradient_non_finite"] > 0
    fit(module(), [plain], tmp_path, precision="32-true")
    scaled = LightningCallback(every=1, prints=False)
    fit(module(), [scaled], tmp_path, plugins=[half_precision(2.0**10)])
    assert scaled.metrics[0]["mixlab/loss_scale"] == 2.0**10
    assert scaled.metrics[0]["mixlab/gradient_amax"] == pytest.approx(
        plain.metrics[0]["mixlab/gradient_amax"], rel=0.01
    )
    assert abs(scaled.window.high - plain.window.high) <= 1


def test_a_resumed_training_goes_on_watching_the_same_steps(tmp_path):
    whole = LightningCallback(every=2, prints=False)
    fit(module(), [whole], tmp_path)
    first = fit(module(), [], tmp_path, max_steps=3)
    first.save_checkpoint(tmp_path / "third.ckpt")
    rest = LightningCallback(every=2, prints=False)
    fit(module(), [rest], tmp_path, ckpt_path=str(tmp_path / "third.ckpt"))
    assert [row["step"] for row in rest.metrics] == [4]


def test_a_training_that_stops_early_or_fails_leaves_no_hook(tmp_path):
    lightning = import_module("lightning")

    class Failing(lightning.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            raise RuntimeError("out of memory")

    class Stopping(lightning.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            trainer.should_stop = trainer.global_step == 3

    for other, steps in ((Failing(), 0), (Stopping(), 3)):
        model, watch = module(), LightningCallback(every=1, prints=False)
        if steps:
            fit(model, [watch, other], tmp_path, max_epochs=1, max_steps=-1)
        else:
            with pytest.raises(RuntimeError, match="out of memory"):
                fit(model, [watch, other], tmp_path)
        assert len(watch.metrics) == steps
        assert hooks(model) == 0
        assert watch.failed == ""


def test_a_callback_that_fails_says_so_once_and_the_training_goes_on(tmp_path, caplog, monkeypatch):
    alone, watched = module(), module()
    fit(alone, [], tmp_path)
    watch = LightningCallback(every=2, prints=False)
    monkeypatch.setattr(watch, "_end_step", lambda: 1 / 0)
    with caplog.at_level(logging.WARNING, logger="mixlab"):
        fit(watched, [watch], tmp_path)
    assert all(map(torch.equal, weights(alone), weights(watched)))
    said = [record.getMessage() for record in caplog.records if record.name.startswith("mixlab")]
    assert said == ["LightningCallback watches no more, and the training goes on: ZeroDivisionError: division by zero"]
    assert hooks(watched) == 0


def test_the_report_is_printed_at_the_end(tmp_path, capsys):
    watch = LightningCallback(every=3)
    fit(module(), [watch], tmp_path)
    assert capsys.readouterr().out.count(watch.report()) == 1
    assert watch.report().startswith("mixlab: 2 steps watched, one in 3; 0 of them skipped\nupdates: swallowed ")


def test_a_compiled_module_is_watched_but_for_its_layers(tmp_path):
    watch = LightningCallback(every=2, prints=False)
    fit(torch.compile(module(logs=False), backend="eager"), [watch], tmp_path, max_steps=2)
    assert watch.failed == ""
    assert watch.last.stats == ()
    assert watch.updates.swallowed.of > 0


def test_it_is_a_callback_of_lightning_and_is_copied_and_pickled():
    watch = LightningCallback(every=7)
    assert isinstance(watch, import_module("lightning").Callback)
    for twin in (copy.deepcopy(watch), pickle.loads(pickle.dumps(watch))):
        assert type(twin) is type(watch)
        assert twin._every == 7


@pytest.fixture
def no_trace_of_processes():
    """Lightning leaves the variables of its processes behind, and accelerate would join them."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]


def test_a_module_under_ddp_is_watched(tmp_path, no_trace_of_processes, monkeypatch):
    # Lightning takes a process that has run notebooks for a notebook, where it allows no DDP.
    monkeypatch.setattr("lightning.pytorch.trainer.connectors.accelerator_connector._IS_INTERACTIVE", False)
    ends = []
    for callbacks in ([], [watch := LightningCallback(every=2, prints=False)]):
        model = module()
        try:
            fit(model, callbacks, tmp_path, strategy="ddp", devices=1, max_steps=3)
        finally:
            torch.distributed.destroy_process_group()
        ends.append(weights(model))
    assert all(map(torch.equal, *ends))
    assert watch.failed == ""
    assert [row["step"] for row in watch.metrics] == [0, 2]
    assert {stats.kind for stats in watch.last.stats} == {"activation", "gradient", "weight_gradient"}
    assert watch.last.left_out == {}
