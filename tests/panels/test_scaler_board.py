"""The scaler board without a browser: what it sends, takes and refuses."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from mixlab.panels import ScalerBoard

GOLDEN = [step for step, digit in enumerate("1100000101") if digit == "1"]


@pytest.fixture
def panel() -> ScalerBoard:
    return ScalerBoard(GOLDEN, steps=10, growth_interval=3)


def ends(panel: ScalerBoard) -> dict[str, float]:
    return {name: history.scales[-1] for name, history in panel.histories.items()}


def test_the_same_overflows_end_at_different_scales(panel: ScalerBoard):
    assert ends(panel) == {"torch": 128, "apex": 128, "Megatron": 512, "DeepSpeed": 512}
    panel.consecutive_hysteresis = True
    assert ends(panel) == {"torch": 128, "apex": 128, "Megatron": 512, "DeepSpeed": 1024}
    panel.hysteresis = 1
    assert ends(panel) == {"torch": 128, "apex": 128, "Megatron": 128, "DeepSpeed": 128}


def test_the_status_repeats_the_chart(panel: ScalerBoard):
    assert repr(panel) == panel.status == panel._drawing["sentence"]
    assert panel.status.startswith("4 of 10 steps overflow. torch ends at 2⁷ (fell 4×, grew 1×); apex")
    assert panel._repr_mimebundle_()[0]["text/plain"] == panel.status
    for lane in panel._drawing["lanes"]:
        assert f"{lane['name']} {lane['ending']}" in panel.status


def test_it_opens_on_forty_clean_steps():
    panel = ScalerBoard()
    assert (panel.overflows, panel.steps, panel.init_exponent) == ([], 40, 10)
    assert (panel.growth_interval, panel.hysteresis, panel.consecutive_hysteresis) == (4, 2, False)
    assert ends(panel) == {"torch": 2**20, "apex": 2**20, "Megatron": 2**20, "DeepSpeed": 2**19}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("overflows", [1]),
        ("init_exponent", 3),
        ("growth_interval", 1),
        ("hysteresis", 3),
        ("consecutive_hysteresis", True),
    ],
)
def test_every_knob_changes_the_drawing(panel: ScalerBoard, name: str, value: Any):
    before = panel._drawing["lanes"]
    panel.set_state({name: value})
    assert panel._drawing["lanes"] != before
    assert panel.last_error is None


def test_steps_may_come_in_any_order_and_kind(panel: ScalerBoard):
    for steps in ((3, 1, 3), {1, 3}, np.array([3, 1]), iter([3, 1])):
        panel.overflows = []
        panel.overflows = steps
        assert panel.overflows == [1, 3]
        assert [type(step) for step in panel.overflows] == [int, int]
        assert panel._drawing["overflows"] == [1, 3]
    panel.overflows = range(2)
    assert panel.histories["torch"].overflows == (True, True) + (False,) * 8


def test_deepspeed_gives_up_in_words():
    panel = ScalerBoard(range(6), steps=10, init_exponent=2, hysteresis=1)
    assert "DeepSpeed gives up at step 2, at its minimum 2⁰ (fell 2×, grew 0×)." in panel.status
    assert panel._drawing["lanes"][-1]["marks"][-1] == (2, "end")
    assert panel.histories["DeepSpeed"].error.startswith("the loss scale is at its minimum")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("overflows", [3, 10], r"overflows must be a list of steps from 0 to 9, got \[3, 10\]"),
        ("overflows", [-1], r"overflows must be a list of steps from 0 to 9, got \[-1\]"),
        ("overflows", [1.0], "overflows must be a list of steps from 0 to 9"),
        ("overflows", [True], "overflows must be a list of steps from 0 to 9"),
        ("overflows", None, "overflows must be a list of steps from 0 to 9, got None"),
        ("overflows", 3, "overflows must be a list of steps from 0 to 9, got 3"),
        ("overflows", "1100", "overflows must be a list of steps from 0 to 9, got '1100'"),
        ("init_exponent", 25, "init_exponent must be a whole number from 0 to 24, got 25"),
        ("init_exponent", -1, "init_exponent must be a whole number from 0 to 24, got -1"),
        ("init_exponent", 9.0, "init_exponent must be a whole number from 0 to 24, got 9.0"),
        ("growth_interval", 0, "growth_interval must be a whole number from 1 to 1000000000, got 0"),
        ("growth_interval", None, "growth_interval must be a whole number from 1 to 1000000000, got None"),
        ("hysteresis", 0, "hysteresis must be a whole number from 1 to 1000000000, got 0"),
        ("hysteresis", True, "hysteresis must be a whole number from 1 to 1000000000, got True"),
        ("consecutive_hysteresis", 1, "consecutive_hysteresis must be True or False, got 1"),
    ],
)
def test_a_wrong_value_is_refused_and_leaves_all_as_it_was(panel: ScalerBoard, name: str, value: Any, says: str):
    before = panel.get_state()
    with pytest.raises(ValueError, match=f"ScalerBoard: {says}"):
        setattr(panel, name, value)
    assert panel.get_state() == before
    panel.set_state({name: value})
    assert isinstance(panel.last_error, ValueError)
    assert panel._error.startswith("NotAllowedError: ScalerBoard: ")
    assert {**panel.get_state(), "_error": ""} == before
    panel.set_state({"overflows": [5]})
    assert (panel.last_error, panel._error, panel.overflows) == (None, "", [5])


def type_into(panel: ScalerBoard, name: str, text: str) -> None:
    panel._handle_custom_msg({"typed": name, "text": text}, [])


@pytest.mark.parametrize("typed", ["0", "-1", "1.5", "1,5", "1e999", "100000000000000000000", "abc", "", "9" * 400])
def test_a_typed_text_that_is_refused_stays_with_its_reason(panel: ScalerBoard, typed: str):
    before = panel.growth_interval, panel._drawing
    type_into(panel, "growth_interval", typed)
    text, why = panel._refused["growth_interval"]
    assert text == typed
    assert why.startswith("Growth interval must be a whole number from 1 to 1000000000, got ")
    assert why.endswith(f"Still in use: {panel.growth_interval}")
    assert isinstance(panel.last_error, ValueError)
    assert (panel.growth_interval, panel._drawing, panel._error) == (*before, "")
    panel.overflows = [1]
    assert panel._refused["growth_interval"][0] == typed
    type_into(panel, "growth_interval", " 1e1 ")
    assert (panel.growth_interval, panel._refused, panel.last_error) == (10, {}, None)


def test_arrow_keys_count_and_a_value_set_elsewhere_clears_a_refusal(panel: ScalerBoard):
    panel.init_exponent = 24
    panel._handle_custom_msg({"typed": "init_exponent", "by": 1}, [])
    assert panel._refused["init_exponent"][0] == "25"
    panel.init_exponent = 3
    assert panel._refused == {}
    taken = panel._taken
    panel._handle_custom_msg({"typed": "init_exponent", "by": -1}, [])
    assert (panel.init_exponent, panel._taken) == (2, taken + 1)


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"steps": 4}, "steps must be a whole number from 5 to 60, got 4"),
        ({"steps": 61}, "steps must be a whole number from 5 to 60, got 61"),
        ({"steps": "40"}, "steps must be a whole number from 5 to 60, got '40'"),
        ({"overflows": [40]}, "overflows must be a list of steps from 0 to 39"),
        ({"init_exponent": 99}, "init_exponent must be"),
        ({"growth_interval": 0}, "growth_interval must be"),
        ({"hysteresis": 0}, "hysteresis must be"),
    ],
)
def test_a_wrong_start_is_refused(knobs: dict[str, Any], says: str):
    with pytest.raises(ValueError, match=says):
        ScalerBoard(**knobs)


def test_an_error_while_drawing_is_kept_and_goes_again(panel: ScalerBoard, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as broken:
        broken.setattr("mixlab.panels.scaler_board.board", lambda *_: 1 / 0)
        panel.set_state({"overflows": [2]})
        assert isinstance(panel.last_error, ZeroDivisionError)
        assert panel._error == "ZeroDivisionError: division by zero"
    panel.overflows = [3]
    assert (panel.last_error, panel._error) == (None, "")


@pytest.mark.parametrize("steps", [5, 60])
@pytest.mark.parametrize("exponent", [0, 24])
def test_all_that_is_sent_is_json_and_small(steps: int, exponent: int):
    panel = ScalerBoard(range(steps), steps=steps, init_exponent=exponent, growth_interval=1)
    for name, overflows in panel._choices["presets"]:
        panel.overflows = overflows
        assert len(json.dumps(panel._drawing, allow_nan=False)) < 10_000, name
        assert panel.last_error is None
