"""The cockpit without a browser: its buttons, its one painting thread, and what it says of a training."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mixlab import PRESETS, Run
from mixlab.machine import Gpu, describe
from mixlab.panels import Cockpit
from mixlab.panels import live as module
from tests.panels.trainings import Gate, eventually, record

LABEL = "amp-fp16 on digits-mlp, seed 0"


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Cockpit]]:
    """Yields a function that makes cockpits; afterwards their trainings are stopped, and none may have an error."""
    made: list[Cockpit] = []

    def make_one(**arguments: object) -> Cockpit:
        made.append(Cockpit(**{"runs_dir": tmp_path, "steps": 5, **arguments}))
        return made[-1]

    yield make_one
    for cockpit in made:
        cockpit.stop()
        if cockpit.job is not None:
            cockpit.wait()
        assert cockpit.last_error is None


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """A training that takes a step when told to, and a painter in a hurry."""
    gate = Gate()
    monkeypatch.setattr(Run, "train", lambda run, until, device: gate.train(run, until))
    monkeypatch.setattr(module, "PAINT_INTERVAL_S", 0.01)
    yield gate
    gate.let(10_000)


def enabled(cockpit: Cockpit) -> tuple[bool, bool, bool]:
    return tuple(not button.disabled for button in (cockpit._start, cockpit._pause, cockpit._stop))


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_trains_headless(make, tmp_path: Path, preset: str):
    cockpit = make(recipe=preset)
    assert repr(cockpit) == "Cockpit: ready"
    cockpit.start()
    records = cockpit.wait()
    assert [r.step for r in records] == [0, 1, 2, 3, 4]
    assert records[0].underflow
    label = f"{preset} on digits-mlp, seed 0"
    assert cockpit.runs == {label: records}
    assert repr(Run(tmp_path / "001").records()) == repr(records)  # NaN too
    assert repr(cockpit).startswith(f"Cockpit: done: {label}: loss ")
    assert enabled(cockpit) == (True, False, False)


def test_each_run_has_a_folder_and_a_label(make, tmp_path: Path):
    cockpit = make(steps=2)
    for _ in range(2):
        cockpit.start()
        cockpit.wait()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["001", "002"]
    assert list(cockpit.runs) == ["amp-fp16 on digits-mlp, seed 0", "amp-fp16 on digits-mlp, seed 0 (2)"]


def test_the_controls_decide_what_is_trained(make, tmp_path: Path):
    cockpit = make()
    cockpit.recipe_controls.share.value = "amp-bf16"
    cockpit._task.value, cockpit._loss_weight.value, cockpit._steps.value, cockpit._seed.value = (
        "digits-cnn",
        1e-4,
        "2",
        "7",
    )
    cockpit.start()
    assert len(cockpit.wait()) == 2
    info = Run(tmp_path / "001").info
    assert (info.recipe, info.task, info.loss_weight, info.seed) == ("amp-bf16", "digits-cnn", 1e-4, 7)


def test_start_returns_at_once_and_a_second_one_is_refused(make, gate: Gate):
    cockpit = make()
    cockpit._start.click()
    assert cockpit.running
    assert enabled(cockpit) == (False, True, True)
    with pytest.raises(RuntimeError, match="a training is running; stop it or wait for its end first"):
        cockpit.start()
    cockpit._start.click()  # a double click
    assert cockpit.last_error is None
    assert cockpit.runs == {}


def test_stop_stops_after_the_step_at_hand(make, gate: Gate):
    cockpit = make(steps=1000)
    cockpit.start()
    gate.let(3)
    eventually(lambda: cockpit.status.startswith(f"{LABEL}: step 3 of 1000"))
    cockpit._stop.click()
    gate.let(1)
    assert len(cockpit.wait()) == 4
    assert cockpit.status.startswith("stopped: amp-fp16 on digits-mlp, seed 0: loss ")
    assert enabled(cockpit) == (True, False, False)
    assert gate.taken == 4


def test_pause_holds_and_says_so_until_resumed(make, gate: Gate):
    cockpit = make(steps=10)
    cockpit.start()
    gate.let(3)
    eventually(lambda: cockpit.status.startswith(f"{LABEL}: step 3 of 10"))
    cockpit._pause.click()
    assert (cockpit._pause.description, enabled(cockpit)) == ("Resume", (False, True, True))
    gate.let(7)
    eventually(lambda: cockpit.status.startswith(f"paused: {LABEL}: step 4 of 10"))
    time.sleep(0.1)
    assert (gate.taken, cockpit.running) == (4, True)
    assert cockpit.status.startswith(f"paused: {LABEL}: step 4 of 10")
    cockpit._pause.click()
    assert cockpit._pause.description == "Pause"
    assert len(cockpit.wait()) == 10


def test_a_paused_training_can_be_stopped(make, gate: Gate):
    cockpit = make(steps=10)
    cockpit.start()
    gate.let(2)
    cockpit._pause.click()
    eventually(lambda: gate.taken)
    cockpit._stop.click()
    assert 1 <= len(cockpit.wait()) <= 2


def test_the_controls_leave_a_running_training_alone(make, gate: Gate, tmp_path: Path):
    cockpit = make()
    cockpit.start()
    gate.let(1)
    eventually(lambda: cockpit.status.startswith(f"{LABEL}: step 1 of 5"))
    assert "changes count" not in cockpit.status
    cockpit.recipe_controls.controls["mode"].value = "fp16"
    assert cockpit.status.endswith("; changes count for the next run")  # at once: a paused training takes no step
    cockpit._task.value, cockpit._steps.value, cockpit._seed.value = "digits-cnn", "2", "3"
    gate.let(1)
    eventually(lambda: cockpit.status.startswith(f"{LABEL}: step 2 of 5"))
    assert cockpit.status.endswith("; changes count for the next run")
    gate.let(3)
    assert len(cockpit.wait()) == 5
    assert list(cockpit.runs) == ["amp-fp16 on digits-mlp, seed 0"]


def test_ticks_change_what_is_drawn_and_a_paused_run_stays(make, gate: Gate):
    gate.let(5)
    cockpit = make()
    cockpit.start()
    cockpit.wait()
    cockpit.start()
    gate.let(2)
    eventually(lambda: cockpit.curves.live.get("step") == [0, 1])
    cockpit.pause_or_resume()
    (tick,) = (entry.tick for entry in cockpit._list._entries.values())
    tick.value = False
    assert cockpit.curves.finished == []
    assert cockpit.curves.live["step"] == [0, 1]
    tick.value = True
    assert len(cockpit.curves.finished) == 1
    assert cockpit.curves.live["label"].endswith("(running)")


def test_a_running_training_is_drawn_up_to_the_step_at_hand(make, gate: Gate):
    cockpit = make(steps=50)
    cockpit.start()
    gate.let(2)
    eventually(lambda: cockpit.curves.live.get("step") == [0, 1])
    cockpit.stop()
    gate.let(1)
    cockpit.wait()
    assert cockpit.curves.live == {}
    assert [run["step"] for run in cockpit.curves.finished] == [[0, 1, 2]]


def test_painting_keeps_to_its_rate(make, monkeypatch: pytest.MonkeyPatch):
    interval_s = 0.05
    paints: list[float] = []

    def train(run: Run, until: int, device: str):
        for step in range(until):
            time.sleep(0.001)
            yield record(step)

    cockpit = make(steps=400)
    paint = cockpit.curves.paint
    monkeypatch.setattr(Run, "train", train)
    monkeypatch.setattr(module, "PAINT_INTERVAL_S", interval_s)
    monkeypatch.setattr(cockpit.curves, "paint", lambda *a, **k: (paints.append(time.perf_counter()), paint(*a, **k)))
    began_s = time.perf_counter()
    cockpit.start()
    cockpit.wait()
    assert 1 <= len(paints) <= (time.perf_counter() - began_s) / (0.9 * interval_s)


def test_a_training_that_raises_says_so_in_red_and_to_whoever_waits(make, monkeypatch: pytest.MonkeyPatch):
    def train(run: Run, until: int, device: str):
        yield record(0)
        raise MemoryError("no room for <layer 2>")

    cockpit = make()
    with monkeypatch.context() as patched:
        patched.setattr(Run, "train", train)
        cockpit.start()
        with pytest.raises(MemoryError, match="no room"):
            cockpit.wait()
    assert isinstance(cockpit.last_error, MemoryError)
    assert "MemoryError</b>: no room for &lt;layer 2&gt;" in cockpit.errors.value
    assert cockpit.status == "failed: amp-fp16 on digits-mlp, seed 0: loss 1, accuracy 50.0% after 1 step"
    assert len(cockpit.runs["amp-fp16 on digits-mlp, seed 0"]) == 1
    assert enabled(cockpit) == (True, False, False)
    cockpit._start.click()
    assert cockpit.last_error is None
    assert len(cockpit.wait()) == 5


def test_a_training_without_a_step_leaves_no_folder(make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def train(run: Run, until: int, device: str):
        raise MemoryError("no room")
        yield

    monkeypatch.setattr(Run, "train", train)
    cockpit = make()
    cockpit.start()
    with pytest.raises(MemoryError, match="no room"):
        cockpit.wait()
    assert (cockpit.runs, list(tmp_path.iterdir())) == ({}, [])
    assert isinstance(cockpit.last_error, MemoryError)
    cockpit.errors.show(None)
    cockpit.job = None


def test_an_error_while_painting_shows_and_the_training_goes_on(make, gate: Gate, monkeypatch: pytest.MonkeyPatch):
    cockpit = make()

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no ink")

    with monkeypatch.context() as patched:
        patched.setattr(cockpit.curves, "paint", fail)
        cockpit.start()
        gate.let(1)
        eventually(lambda: cockpit.last_error)
    assert "no ink" in cockpit.errors.value
    gate.let(4)
    assert len(cockpit.wait()) == 5
    assert enabled(cockpit) == (True, False, False)
    cockpit.errors.show(None)


def test_a_button_shows_what_went_wrong(make, monkeypatch: pytest.MonkeyPatch):
    cockpit = make()
    monkeypatch.setattr(Run, "create", lambda *a, **k: (_ for _ in ()).throw(OSError("disk full")))
    cockpit._start.click()
    assert isinstance(cockpit.last_error, OSError)
    assert "disk full" in cockpit.errors.value
    assert (cockpit.status, enabled(cockpit)) == ("not started", (True, False, False))
    cockpit.errors.show(None)


def test_red_words_stay_while_a_training_paints(make, gate: Gate):
    cockpit = make()
    cockpit.start()
    share = cockpit.recipe_controls.share
    share.value = "amp-fp17"
    gate.let(5)
    cockpit.wait()
    assert (share.value, share.error[:25]) == ("amp-fp17", "unknown recipe 'amp-fp17'")


BOXES = {
    "Share": ("nonsense", "amp-bf16", lambda cockpit: cockpit.recipe_controls.share),
    "Steps": ("1.5", "3", lambda cockpit: cockpit._steps),
    "Seed": ("-1", "3", lambda cockpit: cockpit._seed),
    "Growth interval": ("1e999", "3", lambda cockpit: cockpit.recipe_controls.controls["growth_interval"]),
}


@pytest.mark.parametrize("label", BOXES)
def test_nothing_is_trained_past_a_refused_text(make, tmp_path: Path, label: str):
    cockpit = make()
    wrong, right, box_of = BOXES[label]
    box = box_of(cockpit)
    box.value = wrong
    cockpit._start.click()
    assert (cockpit.status, list(tmp_path.iterdir())) == ("not started", [])
    assert f"{label} holds {wrong!r}, which was refused" in str(cockpit.last_error)
    assert (box.value, bool(box.error)) == (wrong, True)
    box.value = right
    assert (cockpit.last_error, box.error) == (None, "")
    cockpit._start.click()
    assert cockpit.wait()


def test_a_gpu_without_tf32_is_refused_at_the_device(make, monkeypatch: pytest.MonkeyPatch):
    machine = replace(describe(), gpus=(Gpu("Tesla T4", 2**34, (7, 5)),))
    monkeypatch.setattr("mixlab.panels.cockpit.describe", lambda: machine)
    cockpit = make()
    assert (cockpit._device.options, cockpit._device.value) == ((("Tesla T4", "cuda:0"), ("CPU", "cpu")), "cuda:0")
    cockpit.recipe_controls.controls["mode"].value = "tf32"
    assert "Tesla T4 has no tf32 units and would train in fp32" in cockpit._device_errors.value
    with pytest.raises(ValueError, match="choose fp32, or the CPU, which emulates tf32"):
        cockpit.start()
    cockpit._device.value = "cpu"
    assert cockpit._device_errors.value == ""
    cockpit.start()
    cockpit.wait()


def test_beside_the_controls_stands_what_the_recipe_costs(make):
    cockpit = make(recipe="fp16", task="digits-cnn")
    cockpit.outlook.wait()
    before = repr(cockpit.outlook)
    assert "Bytes per parameter: 8: weights 2 (fp16)" in before
    assert "predicted for this model and batch on a CPU" in before
    assert "There is no scaler: the scale is 1, in the usable window" in before
    cockpit.recipe_controls.controls["mode"].value = "fp32"
    assert "Bytes per parameter: 16" in repr(cockpit.outlook)  # at once
    cockpit._task.value = "digits-mlp"
    assert "momentum 4 (fp32)" in repr(cockpit.outlook)
    assert cockpit.recipe_controls.controls["exp_avg_sq"].disabled


def test_divergence_is_no_error(make):
    cockpit = make(recipe="fp16", task="digits-cnn", steps=4)
    cockpit.start()
    assert len(cockpit.wait()) == 4
    assert cockpit.status == "done: fp16 on digits-cnn, seed 0: diverged: the loss is nan from step 1 on"
    (run,) = cockpit.curves.finished
    assert run["note"] == "NaN from step 1 on"
    assert run["loss"][1:] == [None, None, None]


def test_runs_on_disk_are_found_and_damaged_ones_left_alone(make, tmp_path: Path):
    cockpit = make(steps=2)
    cockpit.start()
    records = cockpit.wait()
    for name, text in (("002", "{"), ("003", "[1]"), ("004", "{}")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(text)
    (tmp_path / "notes").mkdir()
    again = make(steps=2)
    assert again.runs == {"amp-fp16 on digits-mlp, seed 0": records}
    assert again.curves.summary.startswith("amp-fp16 on digits-mlp, seed 0: loss ")
    again.start()
    again.wait()
    assert [r.loss for r in Run(tmp_path / "005").records()] == [r.loss for r in records]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"recipe": "amp-fp17"}, "unknown recipe 'amp-fp17'"),
        (
            {"task": "cats"},
            "unknown task 'cats': did you mean chars-gpt\\? use one of digits-mlp",
        ),
        ({"steps": 0}, "steps must be a whole number from 1 to 100000, got 0"),
        ({"steps": 2.0}, "steps must be a whole number from 1 to 100000, got 2.0"),
        ({"steps": 100_001}, "got 100001"),
        ({"seed": -1}, "seed must be a whole number from 0 to 2147483647, got -1"),
        ({"probe_every": None}, "probe_every must be a whole number from 0 to 100000, got None"),
        ({"loss_weight": 0.0}, "loss_weight must be a positive finite number, got 0.0"),
        ({"loss_weight": float("nan")}, "loss_weight must be a positive finite number, got nan"),
        ({"loss_weight": "1"}, "loss_weight must be a positive finite number, got '1'"),
    ],
)
def test_bad_arguments_are_refused(tmp_path: Path, arguments: dict[str, object], says: str):
    with pytest.raises(ValueError, match=says):
        Cockpit(runs_dir=tmp_path, **arguments)


def test_waiting_needs_a_start(tmp_path: Path):
    with pytest.raises(RuntimeError, match=r"nothing was started; call start\(\) first"):
        Cockpit(runs_dir=tmp_path).wait()


def test_a_headless_notebook_trains_and_another_does_not(make, monkeypatch: pytest.MonkeyPatch):
    cockpit = make(steps=2)
    monkeypatch.delenv("MIXLAB_HEADLESS", raising=False)
    cockpit.run_when_headless()
    assert cockpit.runs == {}
    monkeypatch.setenv("MIXLAB_HEADLESS", "1")
    cockpit.run_when_headless()
    assert len(cockpit.runs) == 1


def test_a_kernel_that_ends_while_training_leaves_a_whole_run(tmp_path: Path):
    """One cockpit keeps its run in a folder, the other one has a scratch folder."""
    script = (
        "import sys, time; from mixlab.panels import Cockpit\n"
        "kept, scratch = (Cockpit(steps=100_000, runs_dir=folder) for folder in (sys.argv[1], None))\n"
        "for cockpit in (kept, scratch):\n"
        "    cockpit.start()\n"
        "    while not cockpit.job.training.history: time.sleep(0.01)\n"
        "print(scratch._runs_dir, scratch._runs_dir.exists())\n"
    )
    command = [sys.executable, "-W", "error", "-c", script, str(tmp_path / "runs")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
    run = Run(tmp_path / "runs" / "001")
    assert run.trainer(device="cpu").step == len(run.records()) > 0
    scratch, existed = ended.stdout.split()
    assert (existed, Path(scratch).exists()) == ("True", False)
