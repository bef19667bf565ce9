"""A training under the state controls, without a browser."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise

import pytest

from mixlab import PRESETS, load_task
from mixlab.formats import BF16, FP16
from mixlab.panels import StateControls, StateTraining, live
from mixlab.panels.curves import line_style

TASK = replace(load_task("digits-cnn"), lr=1e-4)


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., StateTraining]]:
    monkeypatch.setattr(live, "PAINT_INTERVAL_S", 0.01)
    made: list[StateTraining] = []

    def make_one(recipe: str = "fp32", **arguments: object) -> StateTraining:
        made.append(StateTraining(TASK, StateControls(recipe), **{"steps": 12, **arguments}))
        return made[-1]

    yield make_one
    for training in made:
        training.stop()
        if training.job is not None:
            training.wait()
        assert training.last_error is None


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_trains(make, preset):
    training = make(preset)
    assert repr(training) == "StateTraining: ready"
    training.start()
    steps = training.wait()
    assert [step.record.step for step in steps] == list(range(12))
    assert training.status.startswith(f"done: {preset}, lr 0.0001: ")
    (run,) = training.charts.finished
    assert training.charts.live == {}
    assert json.dumps(training.charts.get_state(["charts", "finished", "live"]), allow_nan=False)
    for chart in training.charts.charts:
        assert len(run[chart["column"]]) == len(run[chart.get("x", "step")])


def test_it_says_what_was_lost(make):
    training = make("bf16-master,gradients=bf16,master_weights=false")
    training.start()
    training.wait()
    (run,) = training.charts.finished
    assert max(share for share in run["swallowed"] if share is not None) > 0.5
    assert "swallowed" in training.status


def test_the_controls_decide_and_the_latest_runs_stay_in_their_colours(make):
    training = make(steps=3)
    controls = training._controls
    colours = []
    for exp_avg, lr, spike in (
        (BF16, 1e-4, False),
        (FP16, 1e-4, False),
        ("dynamic8", 1e-4, False),
        ("dynamic8", 1e-3, True),
        ("dynamic8", 1e-3, False),
    ):
        controls.recipe_controls.controls["exp_avg"].value = exp_avg
        controls._lr.value, controls._spike.value = lr, spike
        training.start()
        training.wait()
        colours.append({run["label"]: run["color"] for run in training.charts.finished})
    for before, after in pairwise(colours):
        assert all(after[label] == colour for label, colour in before.items() if label in after)
    labels = [run["label"] for run in training.charts.finished]
    assert labels == [
        "fp32,exp_avg=fp16, lr 0.0001",
        "fp32,exp_avg=dynamic8, lr 0.0001",
        "fp32,exp_avg=dynamic8, lr 0.001, spike",
        "fp32,exp_avg=dynamic8, lr 0.001",
    ]
    assert list(training.runs) == labels
    assert training.runs[labels[2]][1].record.grad_norm > 100 * training.runs[labels[3]][1].record.grad_norm


@pytest.mark.parametrize(("ended", "says"), [(True, "ready"), (False, "ready; the earlier training still ends")])
def test_the_panel_of_an_earlier_run_of_the_cell_hands_over_and_goes(make, monkeypatch, ended: bool, says: str):
    class Earlier(StateTraining):
        def __init__(self) -> None:
            self.runs, self._places = {"mine": []}, {"mine": 3}

        def end(self) -> bool:
            return ended

    earlier = [Earlier()]
    gone = weakref.ref(earlier[0])
    monkeypatch.setattr(live, "earlier_of_this_cell", lambda _panel: [earlier.pop()])
    training = make()
    assert (list(training.runs), training.status) == (["mine"], says)
    assert training.charts.finished[0]["color"] == line_style(3)["color"], "it keeps its colour"
    gc.collect()
    assert gone() is None


def test_ending_says_whether_the_training_has_ended(make, monkeypatch):
    training = make(steps=600)
    assert training.end()
    with training.lock:  # the painter needs it to keep the records
        training.start()
        monkeypatch.setattr(live, "_EXIT_S", 0.01)
        assert not training.end()
    monkeypatch.setattr(live, "_EXIT_S", 30)
    assert training.end()


def test_it_paints_while_it_trains(make):
    painted: list[str] = []
    training = make(steps=40)
    training.charts.observe(lambda change: painted.append(change["new"].get("label", "")), "live")
    training.start()
    training.wait()
    assert "fp32, lr 0.0001 (running)" in painted
    assert painted[-1] == ""


def test_a_running_training_is_named_and_changes_count_for_the_next(make):
    training = make(steps=600)
    with training.lock:
        training.start()
        words = training.progress(training.job)
        assert words.startswith("fp32, lr 0.0001: step ")
        assert "next run" not in words
        training._controls._lr.value = 1e-3
        assert training.progress(training.job).endswith("; changes count for the next run")
    training.stop()


def test_steps_must_be_some():
    with pytest.raises(ValueError, match="steps must be a whole number from 1 up, got 0"):
        StateTraining(TASK, StateControls(), steps=0)


def test_nothing_is_trained_past_a_refused_text(make):
    training = make("bf16-sr")
    training._controls.recipe_controls.share.value = "nonsense"
    with pytest.raises(ValueError, match="Share holds 'nonsense', which was refused"):
        training.start()
    assert training.status == "not started"
    training._controls.recipe_controls.share.value = "bf16"
    training.start()
    assert training.wait()
