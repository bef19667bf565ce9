"""Loss scalers side by side, and a game's field, as data and in words."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from mixlab.loss_scaling import DeepSpeedPolicy, Game, Result, ScaleHistory, Score, TorchPolicy, all_policies, simulate
from mixlab.reports.loss_scaling import board, changes, ending, news, playfield, presets, result_table, verdict

GOLDEN = [digit == "1" for digit in "1100000101"]
AT = [step for step, overflow in enumerate(GOLDEN) if overflow]


@pytest.fixture
def histories() -> dict[str, ScaleHistory]:
    found = all_policies(1024.0, growth_interval=3)
    return {name: simulate(policy, GOLDEN) for name, policy in found.items()}


def lane(drawing: dict[str, Any], name: str) -> dict[str, Any]:
    return next(lane for lane in drawing["lanes"] if lane["name"] == name)


def test_a_lane_has_the_levels_and_what_changed_them(histories: dict[str, ScaleHistory]):
    drawing = board(histories, AT, 10)
    assert lane(drawing, "torch")["levels"] == [10, 9, 8, 8, 8, 9, 9, 9, 8, 8, 7]
    assert lane(drawing, "torch")["marks"] == [(0, "fell"), (1, "fell"), (4, "grew"), (7, "fell"), (9, "fell")]
    assert lane(drawing, "Megatron")["levels"] == [10, 10, 9, 9, 9, 10, 10, 10, 10, 10, 9]
    assert lane(drawing, "Megatron")["marks"] == [(0, "kept"), (1, "fell"), (4, "grew"), (7, "kept"), (9, "fell")]
    assert lane(drawing, "DeepSpeed")["marks"][2] == (5, "grew")
    assert (drawing["overflows"], drawing["steps"]) == (AT, 10)


def test_the_sentence_repeats_the_lanes(histories: dict[str, ScaleHistory]):
    assert board(histories, AT, 10)["sentence"] == (
        "4 of 10 steps overflow. torch ends at 2⁷ (fell 4×, grew 1×); apex ends at 2⁷ (fell 4×, grew 1×); Megatron "
        "ends at 2⁹ (fell 2×, grew 1×); DeepSpeed ends at 2⁹ (fell 2×, grew 1×)."
    )
    assert board(histories, [0], 10)["sentence"].startswith("1 of 10 steps overflows. ")
    assert board(histories, [], 10)["sentence"].startswith("None of 10 steps overflow. ")


def test_giving_up_ends_a_lane_and_says_so():
    history = simulate(DeepSpeedPolicy(4.0, hysteresis=1), [True] * 6)
    (only,) = board({"DeepSpeed": history}, list(range(6)), 6)["lanes"]
    assert only["levels"] == [2, 1, 0]
    assert only["marks"] == [(0, "fell"), (1, "fell"), (2, "end")]
    assert only["gaveUp"]
    assert ending(history) == "gives up at step 2, at its minimum 2⁰ (fell 2×, grew 0×)"


def test_all_lanes_share_an_axis_that_holds_every_level(histories: dict[str, ScaleHistory]):
    histories["other"] = simulate(TorchPolicy(1000.0), [True] * 20)
    low, high = board(histories, AT, 10)["domain"]
    assert (low, high) == (math.floor(math.log2(1000 / 2**20)), 10)
    ticks = [k for k, _ in board(histories, AT, 10)["ticks"]]
    assert 2 <= len(ticks) <= 3
    assert low <= min(ticks) <= max(ticks) <= high


def test_a_scale_that_never_moves_has_room_above_and_below():
    drawing = board({"torch": simulate(TorchPolicy(1024.0), [False] * 5)}, [], 5)
    assert drawing["domain"] == [8, 12]


def test_scales_that_have_no_logarithm_are_gaps():
    history = ScaleHistory((1.0, 0.0, math.inf), (True, False))
    drawing = board({"a": history}, [0], 2)
    assert drawing["lanes"][0]["levels"] == [0, None, None]
    json.dumps(drawing, allow_nan=False)


def test_presets_fit_any_number_of_steps():
    assert presets(40) == {
        "one overflow": [10],
        "a burst": [10, 11, 12, 13, 14],
        "every 7th step": [6, 13, 20, 27, 34],
        "clear": [],
    }
    for steps in range(5, 61):
        assert all(step in range(steps) for steps_of in presets(steps).values() for step in steps_of)


def test_the_field_keeps_the_steps_to_come_to_itself():
    def sent(windows: list[tuple[int, int]]) -> str:
        return json.dumps(playfield(Game(windows).play("halve")), allow_nan=False)

    assert sent([(8, 15), (8, 15), (8, 15)]) == sent([(8, 15), (-40, 3), (20, 90)])
    assert sent([(8, 15), (8, 15), (8, 15)]) != sent([(8, 14), (8, 15), (8, 15)])


def test_the_field_shows_what_was_played():
    field = playfield(Game([(8, 15), (8, 13), (8, 15)]).play("halve").play("halve"))
    assert [(turn["exponent"], turn["low"], turn["high"], turn["outcome"]) for turn in field["turns"]] == [
        (15, 8, 15, "good"),
        (14, 8, 13, "skipped"),
    ]
    assert field["choices"] == {"halve": "2¹³", "keep": "2¹⁴", "double": "2¹⁵"}
    assert field["score"] == "step 2 of 3: 1 skipped, 0 underflowed, 1 good"
    assert field["news"] == "The last step, at 2¹⁴: overflow, so the step is skipped; 2⁸ to 2¹³ was usable."
    assert field["table"] == []


@pytest.mark.parametrize("window", [(-900, 900), (-900, -890), (890, 900), (9.5, 12.25)])
def test_any_window_leaves_the_scale_on_the_field(window: tuple[float, float]):
    field = playfield(Game([window]).play("double"))
    bottom, top = field["domain"]
    assert bottom < 17 < top
    assert all(bottom <= turn["low"] <= turn["high"] for turn in field["turns"])
    assert len(field["ticks"]) <= 7


def test_the_end_compares():
    field = playfield(Game([(8, 15)] * 2).play("keep").play("halve"))
    assert field["choices"] == {}
    assert {row["player"]: row["cells"] for row in field["table"]} == {
        "you": [1, 1, 0, 1],
        "torch": [1, 1, 0, 1],
        "apex": [1, 1, 0, 1],
        "Megatron": [2, 2, 0, 0],
        "DeepSpeed": [2, 2, 0, 0],
    }
    assert field["news"].endswith("Fewest lost steps: you, torch and apex, with 1 of 2.")


def test_a_lost_game_says_how_far_behind():
    found = [Result("you", Score(good=5), 10), Result("torch", Score(good=8), 10)]
    assert verdict(found) == "Fewest lost steps: torch, with 2 of 10; you lost 5."
    assert [row["player"] for row in result_table(found)] == ["torch", "you"]
    assert [row["best"] for row in result_table(found)] == [True, False]


def test_the_first_words_tell_the_rules():
    assert "lose as few steps as you can. The scale is 2¹⁶; halve it" in news(Game([(8, 15)]))
    assert "small gradients underflowed; 2²⁰ to 2²² was usable." in news(Game([(20, 22)] * 2).play("keep"))


def test_changes_of_a_clean_run_are_growth_only():
    assert changes(simulate(TorchPolicy(1.0, growth_interval=2), [False] * 4)) == [(1, "grew"), (3, "grew")]
