from __future__ import annotations

import math
import multiprocessing
import random
import signal
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from torch import nn

from mixlab import PRESETS, Recipe, Run, StepRecord, Task, Trainer, final, outcome
from mixlab.training import first_non_finite

RECIPE = Recipe.parse("amp-fp16,growth_interval=7")


def new_run(path, **options) -> Run:
    return Run.create(path / "run", task="digits-cnn", recipe=RECIPE, seed=3, **options)


def without_time(records) -> list[StepRecord]:
    return [replace(record, seconds=0.0) for record in records]


def state(run: Run) -> dict[str, torch.Tensor]:
    return run.trainer(device="cpu").model.state_dict()


def assert_equal_states(left: Run, right: Run) -> None:
    ours, theirs = left.trainer(device="cpu"), right.trainer(device="cpu")
    assert ours.step == theirs.step
    assert ours.scaler.state_dict() == theirs.scaler.state_dict()
    for mine, yours in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        assert torch.equal(mine, yours)
        for name, value in ours.optimizer.state[mine].items():
            assert torch.equal(value, theirs.optimizer.state[yours][name])


def test_what_is_yielded_is_what_is_recorded(tmp_path):
    run = new_run(tmp_path, probe_every=4)
    records = list(run.train(until=9, device="cpu"))
    assert Run(run.path).records() == records
    assert [bool(record.underflow) for record in records] == [step % 4 == 0 for step in range(9)]
    assert run.info.recipe == "amp-fp16,growth_interval=7"
    assert run.info.label == "amp-fp16,growth_interval=7 on digits-cnn, seed 3"
    assert "torch" in run.info.machine


def test_a_stopped_run_goes_on_where_it_stopped(tmp_path):
    whole = Run.create(tmp_path / "whole", task="digits-cnn", recipe=RECIPE, seed=3)
    list(whole.train(until=12, device="cpu"))
    run = new_run(tmp_path)
    for record in run.train(until=12, device="cpu"):
        if record.step == 4:
            break
    assert run.trainer(device="cpu").step == 5
    assert [record.step for record in Run(run.path).train(until=12, device="cpu")] == list(range(5, 12))
    assert without_time(run.records()) == without_time(whole.records())
    assert_equal_states(run, whole)
    assert list(run.train(until=12, device="cpu")) == []


def train_and_tell(path: Path, steps: int, told: Connection) -> None:
    for record in Run(path).train(until=steps, checkpoint_every=4, device="cpu"):
        told.send(record.step)


@pytest.mark.parametrize("times", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_at_random_steps_it_ends_with_the_same_weights(times, tmp_path):
    """Several times over, a process is killed with SIGKILL after a random number of steps, and resumed."""
    steps = 30
    whole = Run.create(tmp_path / "whole", task="digits-cnn", recipe=RECIPE, seed=3)
    list(whole.train(until=steps, device="cpu"))
    run = new_run(tmp_path)
    server = multiprocessing.get_context("forkserver")  # its processes share one import of torch
    server.set_forkserver_preload([__name__, "sklearn.datasets"])
    kills = sorted(random.Random(0).sample(range(1, steps - 1), times))
    for kill in kills:
        heard, told = server.Pipe(duplex=False)
        process = server.Process(target=train_and_tell, args=(run.path, steps, told))
        process.start()
        told.close()
        while heard.recv() < kill:
            pass
        process.kill()
        heard.close()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        records = run.records()
        assert [record.step for record in records] == list(range(len(records)))
        assert len(records) > kill
        assert run.trainer(device="cpu").step >= kill - 4
    list(run.train(until=steps, device="cpu"))
    assert without_time(run.records()) == without_time(whole.records())
    assert_equal_states(run, whole)


def test_a_torn_last_line_is_left_out_and_written_again(tmp_path):
    run = new_run(tmp_path)
    list(run.train(until=4, device="cpu"))
    kept = run.records()
    with (run.path / "steps.jsonl").open("ab") as file:
        file.write(b'{"step": 4, "lo')
    assert run.records() == kept
    list(run.train(until=6, device="cpu"))
    assert [record.step for record in run.records()] == list(range(6))


def test_an_error_in_training_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    run = new_run(tmp_path)
    list(run.train(until=4, device="cpu"))
    monkeypatch.setattr("mixlab.training.trainer.Trainer._train_step", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(run.train(until=8, device="cpu"))
    monkeypatch.undo()
    assert run.trainer(device="cpu").step == 4
    assert len(list(run.train(until=8, device="cpu"))) == 4


def test_a_full_disk_leaves_the_old_checkpoint_whole(tmp_path, monkeypatch):
    run = new_run(tmp_path)
    list(run.train(until=2, device="cpu"))
    before = (run.path / "checkpoint.pt").read_bytes()

    def half_written(state, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.save", half_written)
    with pytest.raises(OSError, match="No space left"):
        list(run.train(until=4, device="cpu"))
    assert (run.path / "checkpoint.pt").read_bytes() == before
    assert not list(run.path.glob("*.part"))


def test_nan_and_inf_survive_the_disk(tmp_path):
    run = Run.create(tmp_path / "nan", task="digits-cnn", recipe=PRESETS["fp16"])
    list(run.train(until=3, device="cpu"))
    assert math.isnan(run.records()[-1].loss)
    assert "NaN" not in (run.path / "steps.jsonl").read_text()  # strict JSON
    assert outcome(run.records()).startswith("diverged: the loss is nan from step 1 on")


def record(step: int, loss: float, *, skipped: bool = False) -> StepRecord:
    return StepRecord(step, loss, 0.5, 1.0, skipped, skipped, 1.0, 0.01)


def test_outcome_in_words():
    assert outcome([]) == "no steps"
    assert outcome([record(0, 2.0), record(1, 1.0)]) == "loss 1, accuracy 50.0% after 2 steps"
    assert "1 of 2 steps skipped" in outcome([record(0, 2.0), record(1, 1.0, skipped=True)])
    assert outcome([record(0, 2.0), record(1, math.inf)]).startswith("diverged: the loss is inf from step 1 on")
    assert first_non_finite([record(0, math.nan), record(1, 1.0)]) is None


def test_outcome_names_the_metric_or_none():
    error = [replace(record(step, 2.0), metric=0.1234, metric_name="largest error") for step in range(2)]
    assert outcome(error) == "loss 2, largest error 0.123 after 2 steps"
    none = [replace(one, metric=None, metric_name="") for one in error]
    assert (outcome(none), final(none)) == ("loss 2 after 2 steps", (2.0, None))
    undefined = [replace(record(0, 2.0), metric=math.nan)]
    assert outcome(undefined) == "loss 2, accuracy nan after 1 step"


X = torch.linspace(0, 1, 12).view(4, 3)


def own_task(**fields) -> Task:
    def draw(generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {"input": X + torch.rand(4, 3, generator=generator)}

    task = Task("own", lambda: nn.Linear(3, 2), draw, {"input": X}, loss=lambda output, batch: output.square().mean())
    return replace(task, **fields)


def test_a_run_of_ones_own_task_resumes_bit_for_bit(tmp_path):
    task = own_task(loss_weight=2.0)
    run = Run.create(tmp_path / "own", task=task, recipe="fp32")
    list(run.train(until=3, device="cpu"))
    with pytest.raises(ValueError, match=r"unknown task 'own': use one of .*; a task of your own is given itself"):
        Run(run.path).trainer(device="cpu")
    again = Run.resume_or_create(run.path, task=task, recipe="fp32")
    list(again.train(until=5, device="cpu"))
    whole = Trainer(task, "fp32", device="cpu")
    records = list(whole.steps(5))
    assert [one.loss for one in Run(run.path).records()] == [one.loss for one in records]
    assert {one.metric for one in run.records()} == {None}
    resumed = Run(run.path, task=task).trainer(device="cpu")
    assert all(map(torch.equal, whole.model.parameters(), resumed.model.parameters()))


def test_a_task_that_a_run_cannot_have_is_told(tmp_path):
    run = Run.create(tmp_path / "own", task=own_task(), recipe="fp32")
    for call, words in (
        (lambda: Run(run.path, task=own_task(name="another")), "holds a run of task own .*, not of another"),
        (lambda: Run(run.path, task=own_task(loss_weight=2.0)), "with loss weight 1, not of own with 2"),
        (lambda: Run(run.path, task=3), "task must be a Task of your own, or the name of a shipped one, got 3"),
        (lambda: Run.create(tmp_path / "b", task=None, recipe="fp32"), "task must be a Task of your own, .* got None"),
        (lambda: Run.create(tmp_path / "b", task=own_task(name="digits-mlp"), recipe="fp32"), "name of a shipped task"),
        (lambda: Run.create(tmp_path / "b", task=own_task(), recipe="fp32", loss_weight=3.0), "loss_weight=1, so 3 is"),
        (lambda: Run.resume_or_create(run.path, task="digits-mlp", recipe="fp32"), "holds a run with task=own"),
    ):
        with pytest.raises((TypeError, ValueError), match=words):
            call()
    assert not (tmp_path / "b").exists()


def test_folders_that_hold_no_run_or_a_damaged_one_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="Run.create starts a new one"):
        Run(tmp_path)
    run = new_run(tmp_path)
    with pytest.raises(FileExistsError, match="is not empty; choose another folder"):
        new_run(tmp_path)
    (run.path / "run.json").write_text('{"tusk": 1}')
    with pytest.raises(ValueError, match="does not describe a run"):
        Run(run.path)
    list((new := Run.create(tmp_path / "new", task="digits-cnn", recipe=RECIPE)).train(until=3, device="cpu"))
    (new.path / "steps.jsonl").write_bytes(b"")
    with pytest.raises(ValueError, match="the checkpoint is at step 3, but only 0 steps are recorded"):
        list(new.train(until=5, device="cpu"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"until": -1}, "until must be a whole number from 0 up, got -1"),
        ({"until": 1.5}, "until must be a whole number from 0 up, got 1.5"),
        ({"until": 3, "checkpoint_every": 0}, "checkpoint_every must be a whole number from 1 up, got 0"),
    ],
)
def test_bad_numbers_are_named_at_once(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        new_run(tmp_path).train(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "mnist"}, "unknown task 'mnist'"),
        ({"recipe": "amp-fp17"}, "unknown recipe 'amp-fp17'"),
        ({"seed": -1}, "seed must be a whole number from 0 to 9223372036854775807, got -1"),
        ({"loss_weight": math.nan}, "loss_weight must be a positive finite number, got nan"),
        ({"probe_every": 0.5}, "probe_every must be a whole number from 0 up, got 0.5"),
    ],
)
def test_a_bad_description_creates_nothing(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        Run.create(tmp_path / "run", **{"task": "digits-cnn", "recipe": RECIPE, **change})
    assert not (tmp_path / "run").exists()


def test_resume_or_create_goes_on_only_with_the_same_run(tmp_path):
    what = {"task": "digits-cnn", "recipe": RECIPE, "seed": 3}
    list(Run.resume_or_create(tmp_path / "run", **what).train(until=2, device="cpu"))
    assert len(Run.resume_or_create(tmp_path / "run", **what).records()) == 2
    with pytest.raises(
        ValueError, match=r"holds a run with seed=3, not 4; choose another folder, or continue with seed=3"
    ):
        Run.resume_or_create(tmp_path / "run", **what | {"seed": 4})


def test_the_time_of_the_start_is_utc(tmp_path):
    started = time.strptime(new_run(tmp_path).info.started, "%Y-%m-%dT%H:%M:%SZ")
    assert abs(time.mktime(started) - time.mktime(time.gmtime())) < 60


def test_a_damaged_checkpoint_is_named(tmp_path):
    run = Run.create(tmp_path / "run", task="digits-mlp", recipe=Recipe())
    list(run.train(until=2))
    (run.path / "checkpoint.pt").write_bytes(b"garbage")
    with pytest.raises(ValueError, match=r"checkpoint.pt is damaged; delete it to train again from the first step"):
        run.trainer()
