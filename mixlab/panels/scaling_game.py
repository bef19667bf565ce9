"""The scaling game: the reader is the loss scaler, on the usable scales of a real training.

The browser draws the steps so far; the steps to come are never sent there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import traitlets

from mixlab.loss_scaling import Game, Result, ScaleWindow, Score
from mixlab.loss_scaling.game import results
from mixlab.panels.drawn import DrawnPanel
from mixlab.panels.scripts import script, stylesheet
from mixlab.reports.loss_scaling import news, playfield


class ScalingGame(DrawnPanel):
    """Lets the reader halve, keep or double the scale before each step, to lose as few steps as possible.

        ScalingGame([usable_window(stats, "fp16") for stats in probes], init_exponent=16)

    After the last step, the results of four loss scalers on the same steps are shown. Every move can also be made in
    Python; its `repr` is its status line.

    Args:
        windows: The usable scales of each step, as a `ScaleWindow` or as a pair of exponents (low, high): above 2^high
            the step overflows, below 2^low its small gradients underflow.
        init_exponent: k of the scale 2^k before the first move, from 0 to 24.

    Attributes:
        game: The moves so far, and the rules.
        last_error: The error of the latest move from the browser, or None if it succeeded. It is shown in red too.

    Raises:
        ValueError: If a window contains no scale, or the exponent is not allowed.

    >>> game = ScalingGame([(8, 15), (8, 15)], init_exponent=16)
    >>> game.play("halve")
    >>> game.play("double")
    >>> game.score
    Score(good=1, skipped=1, underflowed=0)
    """

    _esm = script("scaling_game.js")
    _css = stylesheet("scaling_game.css")

    _drawing = traitlets.Dict().tag(sync=True)

    def __init__(self, windows: Sequence[ScaleWindow | tuple[float, float]], *, init_exponent: int = 16) -> None:
        self.game = Game(windows, init_exponent)  # type: ignore[arg-type]  # Game makes a tuple of them
        super().__init__(_drawing=playfield(self.game))
        self.on_msg(self._guard(self._heard))

    @property
    def score(self) -> Score:
        return self.game.score

    @property
    def over(self) -> bool:
        return self.game.over

    @property
    def results(self) -> tuple[Result, ...]:
        """The results of the reader and of the four scalers, once the game is over.

        Raises:
            ValueError: If the game is not over.
        """
        if not self.over:
            raise ValueError(f"ScalingGame: the results come after the last step; this is {self.game}")
        return results(self.game)

    @property
    def status(self) -> str:
        """Where the game stands, in words."""
        return f"{self.game}. {news(self.game)}"

    def play(self, move: str) -> None:
        """Changes the scale by a move, and plays one step.

        Args:
            move: "halve", "keep" or "double".

        Raises:
            ValueError: If there is no such move, or the game is over.
        """
        self._go_on_with(self.game.play(move))

    def restart(self) -> None:
        """Starts the same game again."""
        self._go_on_with(Game(self.game.windows, self.game.init_exponent))

    def _go_on_with(self, game: Game) -> None:
        self.game = game
        self._drawing = playfield(game)
        self._show_error(None)

    def _heard(self, _widget: object, content: dict[str, Any], _buffers: object) -> None:
        """Takes a move from the browser."""
        if "restart" in content:
            self.restart()
        else:
            self.play(content.get("move", ""))
