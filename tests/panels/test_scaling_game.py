"""The scaling game's panel without a browser: what it sends, takes and refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mixlab.loss_scaling import Score
from mixlab.panels import ScalingGame

WINDOWS = [(8, 15), (8, 13), (14, 16), (8, 15)]


@pytest.fixture
def game() -> ScalingGame:
    return ScalingGame(WINDOWS, init_exponent=16)


def test_it_is_played_from_python(game: ScalingGame):
    for move in ("halve", "keep", "halve"):
        game.play(move)
    assert game.score == Score(good=2, skipped=1, underflowed=0)
    assert not game.over
    game.play("keep")
    assert (game.score, game.over) == (Score(good=3, skipped=1), True)


def test_the_status_says_the_score_and_what_was_seen(game: ScalingGame):
    assert game.status.startswith("step 0 of 4: 0 skipped, 0 underflowed, 0 good. You are the loss scaler")
    game.play("halve")
    assert repr(game) == game.status == f"{game._drawing['score']}. {game._drawing['news']}"
    assert game.status == (
        "step 1 of 4: 0 skipped, 0 underflowed, 1 good. The last step, at 2¹⁵: good; 2⁸ to 2¹⁵ was usable."
    )
    assert game._repr_mimebundle_()[0]["text/plain"] == game.status


def test_what_the_browser_holds_has_nothing_of_the_steps_to_come():
    def sent(windows: list[tuple[int, int]]) -> str:
        game = ScalingGame(windows)
        game._handle_custom_msg({"move": "halve"}, [])
        state = game.get_state()
        return json.dumps({name: value for name, value in state.items() if name not in ("layout", "_esm", "_css")})

    assert sent([(8, 15), (8, 13), (14, 16)]) == sent([(8, 15), (-3, 30), (0, 1)])


def test_moves_from_the_browser_are_played(game: ScalingGame):
    for move in ("halve", "double", "keep", "keep"):
        game._handle_custom_msg({"move": move}, [])
    assert [turn["exponent"] for turn in game._drawing["turns"]] == [15, 16, 16, 16]
    assert (game.over, game.last_error) == (True, None)
    assert game._drawing["choices"] == {}
    assert {row["player"] for row in game._drawing["table"]} == {"you", "torch", "apex", "Megatron", "DeepSpeed"}
    game._handle_custom_msg({"move": "keep"}, [])
    assert game._error == "ValueError: Game: all 4 steps are played; start a new game"
    game._handle_custom_msg({"restart": True}, [])
    assert (game.over, game.score, game.last_error, game._error) == (False, Score(), None, "")
    assert game._drawing == ScalingGame(WINDOWS)._drawing


@pytest.mark.parametrize("content", [{"move": "triple"}, {"move": None}, {}])
def test_a_wrong_move_from_the_browser_shows_in_red_and_changes_nothing(game: ScalingGame, content: dict[str, Any]):
    before = game.status
    game._handle_custom_msg(content, [])
    assert isinstance(game.last_error, ValueError)
    assert "a move must be one of halve, keep, double, got" in game._error
    assert game.status == before
    game._handle_custom_msg({"move": "keep"}, [])
    assert (game.last_error, game._error) == (None, "")


def test_a_wrong_move_from_python_raises(game: ScalingGame):
    with pytest.raises(ValueError, match="a move must be one of halve, keep, double, got 2"):
        game.play(2)  # type: ignore[arg-type]


def test_results_come_with_the_end(game: ScalingGame):
    with pytest.raises(ValueError, match="the results come after the last step; this is step 0 of 4: 0 skipped"):
        _ = game.results
    for _ in WINDOWS:
        game.play("halve")
    assert [result.player for result in game.results] == ["you", "torch", "apex", "Megatron", "DeepSpeed"]
    assert game.results[0].score == game.score == Score(good=2, skipped=1, underflowed=1)
    assert "Fewest lost steps: " in game.status


@pytest.mark.parametrize(
    ("windows", "exponent", "says"),
    [
        ([], 16, "windows is empty"),
        ([(15, 8)], 16, r"window 0 must be a pair \(low, high\) .*low not above high, got \(15, 8\)"),
        ([None], 16, "window 0 must be a pair"),
        (WINDOWS, 25, "init_exponent must be a whole number from 0 to 24, got 25"),
    ],
)
def test_a_wrong_start_is_refused(windows: Any, exponent: int, says: str):
    with pytest.raises(ValueError, match=says):
        ScalingGame(windows, init_exponent=exponent)
