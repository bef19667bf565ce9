"""The rules of the scaling game, without widgets."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from mixlab.loss_scaling import Game, Result, ScaleWindow, Score, TorchPolicy, hunt
from mixlab.loss_scaling.game import GROWTH_INTERVAL, all_policies, fewest_lost, judge, results


def played(game: Game, moves: str) -> Game:
    """Plays moves written as - = +."""
    for move in moves:
        game = game.play({"-": "halve", "=": "keep", "+": "double"}[move])
    return game


def by_player(game: Game) -> dict[str, Result]:
    return {result.player: result for result in results(game)}


def test_a_move_comes_before_its_step():
    game = played(Game([(8, 15)] * 4, init_exponent=16), "-+=-")
    assert game.exponents == (15, 16, 16, 15)
    assert game.outcomes == ("good", "skipped", "skipped", "good")
    assert game.score == Score(good=2, skipped=2, underflowed=0)
    assert str(game) == "step 4 of 4: 2 skipped, 0 underflowed, 2 good"
    assert game.over


def test_a_game_is_a_record_that_play_leaves_as_it_is():
    game = Game([(8, 15), (8, 15)])
    assert game.play("keep") is not game
    assert (game.exponents, game.exponent, game.over, game.score) == ((), 16, False, Score())


@pytest.mark.parametrize(
    ("scale", "outcome"),
    [
        (2.0**12, "good"),
        (2.0**12 + 1, "skipped"),
        (2.0**8, "good"),
        (2.0**8 - 1, "underflowed"),
        (0.0, "underflowed"),
        (math.inf, "skipped"),
    ],
)
def test_both_edges_of_a_window_are_usable(scale: float, outcome: str):
    assert judge(scale, ScaleWindow(8, 12)) == outcome


def test_a_small_scale_is_seen_to_underflow():
    assert played(Game([(16, 20), (15, 20)], init_exponent=16), "-=").outcomes == ("underflowed", "good")


@pytest.mark.parametrize(
    ("move", "says"),
    [
        ("triple", "a move must be one of halve, keep, double, got 'triple'"),
        (None, "a move must be one of halve, keep, double, got None"),
        ("keep", "all 1 steps are played; start a new game"),
    ],
)
def test_a_wrong_move_is_refused(move: Any, says: str):
    game = Game([(0, 1)]).play("keep")
    with pytest.raises(ValueError, match=says):
        game.play(move)


@pytest.mark.parametrize(
    "window", [(9, 8), (8,), (1, 2, 3), None, 8, "89", (8, math.nan), (8, math.inf), (True, 2), ("8", "9"), (-1001, 0)]
)
def test_a_wrong_window_is_named(window: Any):
    with pytest.raises(ValueError, match=r"window 1 must be a pair \(low, high\) of exponents.* got "):
        Game([(8, 9), window])


@pytest.mark.parametrize("windows", [[], None, 8, "windows"])
def test_no_windows_are_refused(windows: Any):
    with pytest.raises(ValueError, match="windows"):
        Game(windows)


@pytest.mark.parametrize("exponent", [-1, 25, 1.0, True, None, "16"])
def test_a_start_that_no_policy_takes_is_refused(exponent: Any):
    with pytest.raises(ValueError, match="init_exponent must be a whole number from 0 to 24, got "):
        Game([(8, 9)], exponent)


@pytest.mark.parametrize("exponent", [0, 24])
def test_every_start_that_is_allowed_can_be_played_to_the_end(exponent: int):
    assert len(results(played(Game([(-5, 30)], exponent), "="))) == 5


def test_windows_of_numpy_are_taken():
    assert Game(np.array([[8, 15], [8, 13]])).windows == (ScaleWindow(8, 15), ScaleWindow(8, 13))


def test_windows_are_taken_as_such_if_they_hold_a_scale():
    windows = (ScaleWindow(8, 15), ScaleWindow(8, 13))
    assert Game(windows).windows == windows
    with pytest.raises(ValueError, match=r"window 1 must be a pair .* got ScaleWindow\(low=9"):
        Game([ScaleWindow(8, 15), ScaleWindow(9, 8)])


def test_all_play_the_same_windows():
    game = played(Game([(12, 14)] * 20, init_exponent=16), "--" + "=" * 18)
    found = by_player(game)
    assert list(found) == ["you", "torch", "apex", "Megatron", "DeepSpeed"]
    assert {result.steps for result in found.values()} == {20}
    assert found["you"].score == Score(good=19, skipped=1)
    # torch by hand: 16 and 15 overflow, eight steps at 14 grow it to 15, which overflows; again after eight more
    assert found["torch"].score == found["apex"].score == Score(good=16, skipped=4)
    # Megatron forgives the first overflow; growth restores that
    assert found["Megatron"].score == Score(good=15, skipped=5)
    assert fewest_lost(results(game)) == ("you",)


def test_a_policy_underflows_where_its_scale_is_too_small():
    history = hunt(TorchPolicy(2.0**4, growth_interval=GROWTH_INTERVAL), [2.0**9] * 12)
    expected = sum(scale < 2.0**6 for scale in history.scales[:12])
    found = by_player(Game([(6, 9)] * 12, init_exponent=4))
    assert found["torch"].score.underflowed == expected == 12
    assert found["torch"].note == ""


def test_steps_after_a_policy_gave_up_are_lost():
    game = Game([(-9, -3)] * 10, init_exponent=1)
    found = by_player(game)
    # DeepSpeed: the first overflow is forgiven, the second halves 2 to 1, the third ends it
    assert found["DeepSpeed"].score == Score(skipped=3)
    assert found["DeepSpeed"].note == "gave up at step 3"
    assert found["DeepSpeed"].lost == 10
    assert found["torch"].lost == 4
    assert found["you"].lost == 10


def test_those_who_lost_as_few_share_the_first_place():
    found = [Result(name, Score(good=good), 10) for name, good in (("a", 8), ("b", 9), ("c", 9))]
    assert fewest_lost(found) == ("b", "c")


def test_policies_share_their_knobs():
    found = all_policies(2.0**5, growth_interval=3, hysteresis=4, consecutive_hysteresis=True)
    assert {policy.init_scale for policy in found.values()} == {32.0}
    assert {policy.growth_interval for policy in found.values()} == {3}
    assert [vars(policy).get("hysteresis") for policy in found.values()] == [None, None, 4, 4]
    assert vars(found["DeepSpeed"])["consecutive_hysteresis"] is True
