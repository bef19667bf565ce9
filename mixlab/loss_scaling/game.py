"""A game: the reader acts as the loss scaler, step by step, against the policies, on a training's usable scales.

Before each step the reader halves, keeps or doubles the scale. The step is taken at this scale, and only then does the
reader see which scales were usable. A step is lost if its scale was too large (skipped) or too small (underflowed).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Literal

from mixlab.arguments import require_whole
from mixlab.loss_scaling.policies import (
    ApexPolicy,
    DeepSpeedPolicy,
    MegatronPolicy,
    ScalePolicy,
    TorchPolicy,
)
from mixlab.loss_scaling.simulation import ScaleHistory, hunt
from mixlab.loss_scaling.windows import ScaleWindow

Move = Literal["halve", "keep", "double"]
StepOutcome = Literal["good", "skipped", "underflowed"]

MOVES: dict[str, int] = {"halve": -1, "keep": 0, "double": 1}
INIT_EXPONENTS = range(25)  # what all four policies allow: DeepSpeed stops below 2^0, apex above 2^24
GROWTH_INTERVAL = 8  # of the policies; their defaults, 1000 or more, are too long to grow in so short a game
READER = "you"


@dataclass(frozen=True)
class Score:
    """How the steps went.

    Attributes:
        good: Steps at a usable scale.
        skipped: Steps that overflowed.
        underflowed: Steps that lost small gradients.
    """

    good: int = 0
    skipped: int = 0
    underflowed: int = 0

    @property
    def lost(self) -> int:
        return self.skipped + self.underflowed

    @property
    def played(self) -> int:
        return self.good + self.lost

    def __str__(self) -> str:
        return f"{self.skipped} skipped, {self.underflowed} underflowed, {self.good} good"


@dataclass(frozen=True)
class Game:
    """The state of a game between two moves; `play` returns the next state.

        game = Game([(8, 15), (8, 13)], init_exponent=14)
        game.play("halve").play("keep").score

    Args:
        windows: The usable scales of each step, as a `ScaleWindow` or as a pair of exponents (low, high).
        init_exponent: k of the scale 2^k before the first move, in `INIT_EXPONENTS`.
        exponents: k of the scale at each step played so far.

    Raises:
        ValueError: If there is no window, one holds no scale, or an exponent is not allowed.
    """

    windows: tuple[ScaleWindow, ...]
    init_exponent: int = 16
    exponents: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "windows", _checked(self.windows))
        require_whole("Game: init_exponent", self.init_exponent, INIT_EXPONENTS[0], INIT_EXPONENTS[-1])

    @property
    def exponent(self) -> int:
        """k of the current scale, 2^k."""
        return self.exponents[-1] if self.exponents else self.init_exponent

    @property
    def over(self) -> bool:
        return len(self.exponents) == len(self.windows)

    @property
    def outcomes(self) -> tuple[StepOutcome, ...]:
        """How each step went so far."""
        pairs = zip(self.exponents, self.windows, strict=False)  # later windows stay hidden
        return tuple(judge(2.0**exponent, window) for exponent, window in pairs)

    @property
    def score(self) -> Score:
        return score_of(self.outcomes)

    def play(self, move: str) -> Game:
        """Returns the game after a move and the step that follows it.

        Args:
            move: "halve", "keep" or "double" the scale.

        Raises:
            ValueError: If there is no such move, or the game is over.
        """
        if not isinstance(move, str) or move not in MOVES:
            raise ValueError(f"Game: a move must be one of {', '.join(MOVES)}, got {move!r}")
        if self.over:
            raise ValueError(f"Game: all {len(self.windows)} steps are played; start a new game")
        return replace(self, exponents=(*self.exponents, self.exponent + MOVES[move]))

    def __str__(self) -> str:
        return f"step {len(self.exponents)} of {len(self.windows)}: {self.score}"


@dataclass(frozen=True)
class Result:
    """A player's result in a game.

    Attributes:
        player: The player's name: a policy, or "you".
        score: How the player's steps went.
        steps: How many steps the game had.
        history: The policy's scales; None for the reader.
    """

    player: str
    score: Score
    steps: int
    history: ScaleHistory | None = None

    @property
    def lost(self) -> int:
        """How many steps were not good, including all after a policy gave up."""
        return self.steps - self.score.good

    @property
    def note(self) -> str:
        """Where the player gave up, or ""."""
        gave_up = self.history is not None and self.history.error
        return f"gave up at step {self.score.played}" if gave_up else ""


def all_policies(
    init_scale: float, *, growth_interval: int, hysteresis: int = 2, consecutive_hysteresis: bool = False
) -> dict[str, ScalePolicy]:
    """Returns the four policies by name, each with the knobs it supports.

    Args:
        init_scale: The initial scale.
        growth_interval: Clean steps in a row before the scale grows.
        hysteresis: Which overflow is the first to lower the scale; for Megatron and DeepSpeed.
        consecutive_hysteresis: Whether every clean step restores the hysteresis; for DeepSpeed.
    """
    return {
        "torch": TorchPolicy(init_scale, growth_interval=growth_interval),
        "apex": ApexPolicy(init_scale, growth_interval=growth_interval),
        "Megatron": MegatronPolicy(init_scale, growth_interval=growth_interval, hysteresis=hysteresis),
        "DeepSpeed": DeepSpeedPolicy(
            init_scale,
            growth_interval=growth_interval,
            hysteresis=hysteresis,
            consecutive_hysteresis=consecutive_hysteresis,
        ),
    }


def judge(scale: float, window: ScaleWindow) -> StepOutcome:
    """Returns the outcome of a step at a scale.

    >>> window = ScaleWindow(8, 10)
    >>> judge(1024.0, window), judge(1025.0, window), judge(128.0, window)
    ('good', 'skipped', 'underflowed')
    """
    if scale > 2.0**window.high:
        return "skipped"
    return "underflowed" if scale < 2.0**window.low else "good"


def score_of(outcomes: Iterable[StepOutcome]) -> Score:
    """Returns how many steps had each outcome."""
    counts = Counter(outcomes)
    return Score(counts["good"], counts["skipped"], counts["underflowed"])


def results(game: Game) -> tuple[Result, ...]:
    """Returns the results of the reader and of each policy, on the same windows and from the same scale.

    A policy takes the first step at that scale; the reader may move once before it.
    """
    limits = [2.0**window.high for window in game.windows]
    found = [Result(READER, game.score, len(game.windows))]
    for name, policy in all_policies(2.0**game.init_exponent, growth_interval=GROWTH_INTERVAL).items():
        history = hunt(policy, limits)
        taken = zip(history.scales[: len(history.overflows)], game.windows, strict=False)
        score = score_of(judge(scale, window) for scale, window in taken)
        found.append(Result(name, score, len(game.windows), history))
    return tuple(found)


def fewest_lost(found: Sequence[Result]) -> tuple[str, ...]:
    """Returns the players with the fewest lost steps."""
    fewest = min(result.lost for result in found)
    return tuple(result.player for result in found if result.lost == fewest)


def _checked(windows: Iterable[object]) -> tuple[ScaleWindow, ...]:
    if not isinstance(windows, Iterable) or isinstance(windows, str):
        raise ValueError(f"Game: windows must be a list of windows or of pairs (low, high), got {windows!r}")
    checked = tuple(_checked_window(step, window) for step, window in enumerate(windows))
    if not checked:
        raise ValueError("Game: windows is empty; give one pair (low, high) of exponents per step")
    return checked


def _checked_window(step: int, window: object) -> ScaleWindow:
    edges = (window.low, window.high) if isinstance(window, ScaleWindow) else window
    pair = tuple(edges) if isinstance(edges, Iterable) and not isinstance(edges, str) else ()
    numbers = [float(x) for x in pair if isinstance(x, Real) and not isinstance(x, bool)]
    if len(pair) != 2 or len(numbers) != 2 or not -1000 <= numbers[0] <= numbers[1] <= 1000:
        raise ValueError(
            f"Game: window {step} must be a pair (low, high) of exponents, or a ScaleWindow, from -1000 to 1000, low "
            f"not above high, got {window!r}"
        )
    return ScaleWindow(*numbers)
