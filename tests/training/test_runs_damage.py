"""One writer at a time, and damage that is named with file and line."""

from __future__ import annotations

import json
import multiprocessing
import threading
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from mixlab import Recipe, Run, StepRecord
from mixlab.cli.commands import app
from mixlab.training.step_records import decode, encode

WHAT = {"task": "digits-mlp", "recipe": Recipe.parse("amp-fp16"), "seed": 3}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run.create(tmp_path / "run", **WHAT)
    list(run.train(until=4, device="cpu"))
    return run


def train_on(path: Path, told: Connection) -> None:
    for _ in Run(path).train(until=10**6, device="cpu"):
        told.send("training")


def test_a_run_has_one_writer_among_processes(run):
    context = multiprocessing.get_context("spawn")
    heard, told = context.Pipe(duplex=False)
    process = context.Process(target=train_on, args=(run.path, told))
    process.start()
    assert heard.recv() == "training"
    with pytest.raises(BlockingIOError, match=r"run is being trained by another process or thread; wait until it ends"):
        list(run.train(until=9, device="cpu"))
    refused = CliRunner().invoke(app, ["train", "--run", str(run.path), "--steps", "9", "--seed", "3"])
    assert refused.exit_code == 2
    assert "is being trained by another process" in refused.stderr
    assert len(run.records()) >= 5  # reading goes on
    process.kill()
    process.join()
    done = len(list(run.train(until=4 + len(run.records()), device="cpu")))
    assert done >= 4
    assert [record.step for record in run.records()] == list(range(len(run.records())))


def test_a_run_has_one_writer_among_threads_and_iterators(run):
    first = run.train(until=9, device="cpu")
    next(first)
    errors: list[BaseException] = []

    def other() -> None:
        try:
            list(Run(run.path).train(until=9, device="cpu"))
        except BlockingIOError as error:
            errors.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert len(errors) == 1
    first.close()
    list(run.train(until=9, device="cpu"))
    assert [record.step for record in run.records()] == list(range(9))


def test_two_creations_make_one_run(tmp_path):
    for _ in range(3):
        barrier, errors = threading.Barrier(3), []

        def create(barrier=barrier, errors=errors) -> None:
            barrier.wait()
            try:
                Run.create(tmp_path / "same", **WHAT)
            except (FileExistsError, BlockingIOError) as error:
                errors.append(error)

        threads = [threading.Thread(target=create) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert Run(tmp_path / "same").info.seed == 3
        assert len(errors) in (2, 3)


GOOD = encode(StepRecord(2, 0.5, 0.5, 1.0, False, False, 1.0, 0.01))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"garbage\n", "no JSON"),
        (b"\n", "no JSON"),
        (b"\xff\xfe\x00\n", "no JSON"),
        (b"[1]\n", "it must be an object with step, loss"),
        (b'{"step": 2}\n', "it must be an object with step, loss"),
        (GOOD.replace(b"0.01", b"NaN"), "NaN is not strict JSON"),
        (GOOD.replace(b'"step": 2', b'"step": 1'), "it is the record of step 1, but step 2 was expected"),
        (GOOD.replace(b'"step": 2', b'"step": 3'), "it is the record of step 3, but step 2 was expected"),
        (GOOD.replace(b'"step": 2', b'"step": "2"'), "step must be a whole number from 0 up, got '2'"),
        (GOOD.replace(b'"loss": 0.5', b'"loss": "high"'), "loss must be a number or one of nan, inf, -inf, got 'high'"),
        (GOOD.replace(b'"loss": 0.5', b'"loss": true'), "loss must be a number"),
        (GOOD.replace(b'"skipped": false', b'"skipped": 0'), "skipped must be true or false, got 0"),
        (GOOD.replace(b'"underflow": {}', b'"underflow": []'), "underflow must be an object"),
        (GOOD.replace(b'"underflow": {}', b'"x": {}'), "it must be an object with"),
    ],
)
def test_a_damaged_line_is_named(run, line, words):
    path = run.path / "steps.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], line, *lines[3:]]))
    for use in (run.records, lambda: list(run.train(until=6, device="cpu"))):
        with pytest.raises(ValueError, match=r"steps.jsonl, line 3, is damaged: .*; delete checkpoint.pt") as caught:
            use()
        assert words in str(caught.value)
    (run.path / "checkpoint.pt").unlink()
    list(run.train(until=6, device="cpu"))  # as the words advise
    assert [record.step for record in run.records()] == list(range(6))


@pytest.mark.parametrize("tail", [b'{"step": 4, "lo', b"\x00" * 100, b"half\nwhole\n\n", GOOD, GOOD + GOOD[:9]])
def test_what_stands_after_the_checkpoint_is_made_again(run, tail):
    with (run.path / "steps.jsonl").open("ab") as file:
        file.write(tail)
    list(run.train(until=6, device="cpu"))
    assert [record.step for record in run.records()] == list(range(6))


def test_a_line_that_is_written_in_parts_is_whole(run, monkeypatch):
    import io

    write = io.FileIO.write

    class Full(io.FileIO):
        def write(self, content):
            return write(self, content[:7])

    opened = Path.open

    def open_(path, mode="r", *args, **options):
        return Full(path, "a+") if mode == "a+b" else opened(path, mode, *args, **options)

    monkeypatch.setattr(Path, "open", open_)
    list(run.train(until=6, device="cpu"))
    assert len(run.records()) == 6


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_a_record_or_refused(line):
    with pytest.raises(ValueError, match=r"no JSON|must be"):
        decode(line)


@given(
    st.builds(
        StepRecord,
        step=st.integers(0, 10**9),
        loss=st.floats(),
        metric=st.none() | st.floats(),
        scale=st.floats(),
        found_inf=st.booleans(),
        skipped=st.booleans(),
        grad_norm=st.floats(),
        seconds=st.floats(0, 1e6),
        underflow=st.dictionaries(st.text(max_size=5), st.floats(0, 1), max_size=3),
        metric_name=st.text(max_size=5),
    )
)
def test_records_survive_their_text(record):
    assert repr(decode(encode(record))) == repr(record)


def test_records_of_older_runs_hold_the_accuracy_under_its_name():
    line = encode(StepRecord(2, 0.5, 0.75, 1.0, False, False, 1.0, 0.01))
    values = json.loads(line)
    older = {"accuracy" if name == "metric" else name: value for name, value in values.items() if name != "metric_name"}
    assert decode(json.dumps(older).encode()) == decode(line)
    with pytest.raises(ValueError, match="must be an object with"):
        decode(json.dumps({**older, "metric": 0.5}).encode())


FOREIGN = {
    "a list": [1, 2],
    "another object": {"state_dict": {}},
    "a bare model": {"0.weight": torch.zeros(2)},
    "of another shape": {"step": 1, "model": {"x": torch.zeros(1)}, "optimizer": {}, "scaler": {}},
    "of wrong kinds": {"step": 1, "model": 3, "optimizer": None, "scaler": 4},
    "at no step": {"step": -1, "model": {}, "optimizer": {}, "scaler": {}},
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_checkpoint_is_named(run, content):
    torch.save(content, run.path / "checkpoint.pt")
    with pytest.raises(
        ValueError, match=r"checkpoint.pt is not a checkpoint of this run; delete it to train again from the first step"
    ):
        run.trainer(device="cpu")
    (run.path / "checkpoint.pt").unlink()
    list(run.train(until=5, device="cpu"))


def test_the_checkpoint_of_another_run_is_refused(run, tmp_path):
    other = Run.create(tmp_path / "other", **{**WHAT, "seed": 4})
    list(other.train(until=2, device="cpu"))
    (run.path / "checkpoint.pt").write_bytes((other.path / "checkpoint.pt").read_bytes())
    with pytest.raises(ValueError, match=r"not a checkpoint of this run.*'seed': 4"):
        list(run.train(until=5, device="cpu"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[]", "it must hold an object, got \\[\\]"),
        (b"\xff", "codec can't decode"),
        (b"{", "Expecting property name"),
        (b'{"task": "digits-mlp"}', "missing 1 required positional argument"),
        (json.dumps({"task": "digits-mlp", "recipe": "fp32", "seed": "3"}).encode(), "seed must be int, got '3'"),
        (json.dumps({"task": 1, "recipe": "fp32"}).encode(), "task must be str, got 1"),
        (b"[" * 100_000, "recursion"),
    ],
)
def test_a_damaged_description_is_named(run, content, words):
    (run.path / "run.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"run.json does not describe a run: .*{words}"):
        Run(run.path)


def test_a_description_of_what_does_not_exist_names_its_file(run):
    text = (run.path / "run.json").read_text()
    (run.path / "run.json").write_text(text.replace("digits-mlp", "mnist"))
    with pytest.raises(ValueError, match=r"run.json: .*unknown task 'mnist'"):
        Run(run.path).trainer()


def test_resume_or_create_names_what_it_does_not_take(run):
    with pytest.raises(TypeError, match="unexpected keyword argument 'sead'"):
        Run.resume_or_create(run.path, task=run.info.task, recipe=run.info.recipe, sead=3)


def test_skipped_steps_are_counted_once_after_a_kill(tmp_path, monkeypatch):
    """The recipe overflows at first; what is recorded after the checkpoint is trained again."""
    arguments = ["train", "--run", str(tmp_path / "run"), "--recipe", "amp-fp16,scale=2^24", "--device", "cpu"]
    monkeypatch.setattr(Run, "_save", lambda *_arguments: None)  # as if killed before the first checkpoint
    CliRunner().invoke(app, [*arguments, "--steps", "12"])
    monkeypatch.undo()
    there = sum(record.skipped for record in Run(tmp_path / "run").records())
    assert there > 2
    shown = []
    monkeypatch.setattr("rich.progress.Progress.update", lambda self, bar, state, **_: shown.append(state))
    CliRunner().invoke(app, [*arguments, "--steps", "12"])
    assert shown[-1].endswith(f"skipped {there}")
