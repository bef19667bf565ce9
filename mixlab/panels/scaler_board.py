"""The scaler board: four loss scalers side by side, on overflows that the reader clicks.

The browser only draws lanes and words; both are computed here.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any, ClassVar

import traitlets

from mixlab.loss_scaling import ScaleHistory, all_policies, simulate
from mixlab.loss_scaling.game import INIT_EXPONENTS
from mixlab.panels.drawn import Anything, DrawnPanel, NotAllowedError, require_allowed_whole
from mixlab.panels.scripts import script, stylesheet
from mixlab.panels.text_box import whole
from mixlab.reports.loss_scaling import board, presets

STEPS = range(5, 61)
MOST = 10**9  # clean steps, or overflows, that a knob counts


class ScalerBoard(DrawnPanel):
    """Shows how torch, apex, Megatron and DeepSpeed react to the same overflows.

        ScalerBoard([10, 11, 12], growth_interval=4)

    Everything the reader can change can also be read and set in Python; its `repr` is its status line.

    Args:
        overflows: The steps that overflow, counted from 0.
        steps: How many steps there are, from 5 to 60.
        init_exponent: k of the scale 2^k before the first step, from 0 to 24.
        growth_interval: Clean steps before the scale grows, from 1 to 10^9.
        hysteresis: The number of overflows, from 1 to 10^9, at which Megatron and DeepSpeed first lower their scale.

    Attributes:
        overflows, init_exponent, growth_interval, hysteresis: As above.
        consecutive_hysteresis: Whether every clean step restores DeepSpeed's hysteresis.
        histories: The history of each scaler, by name.
        last_error: The error of the latest change, or None if it succeeded. Refused values from the browser count too.
            It is shown in red.

    Raises:
        ValueError: If a value is not allowed; also when an attribute is set.

    >>> panel = ScalerBoard([0, 1], steps=10, init_exponent=10)
    >>> panel.histories["Megatron"].scales[:3]
    (1024.0, 1024.0, 512.0)
    """

    _esm = script("scaler_board.js")
    _css = stylesheet("scaler_board.css")
    typed_boxes: ClassVar = {
        "init_exponent": whole("Start", INIT_EXPONENTS[0], INIT_EXPONENTS[-1]),
        "growth_interval": whole("Growth interval", 1, MOST),
        "hysteresis": whole("Hysteresis", 1, MOST),
    }

    overflows = Anything(()).tag(sync=True)
    init_exponent = Anything(10).tag(sync=True)
    growth_interval = Anything(4).tag(sync=True)
    hysteresis = Anything(2).tag(sync=True)
    consecutive_hysteresis = Anything(False).tag(sync=True)
    _choices = traitlets.Dict().tag(sync=True)
    _drawing = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        overflows: Iterable[int] = (),
        steps: int = 40,
        init_exponent: int = 10,
        growth_interval: int = 4,
        hysteresis: int = 2,
    ) -> None:
        require_allowed_whole("ScalerBoard: steps", steps, STEPS[0], STEPS[-1])
        self.steps = steps
        super().__init__(
            overflows=overflows, init_exponent=init_exponent, growth_interval=growth_interval, hysteresis=hysteresis
        )
        self._choices = {
            "initExponents": [INIT_EXPONENTS[0], INIT_EXPONENTS[-1]],
            "presets": list(presets(steps).items()),
        }
        self._redraw()
        self.observe(
            self._guard(self._changed),
            ["overflows", "init_exponent", "growth_interval", "hysteresis", "consecutive_hysteresis"],
        )

    @property
    def histories(self) -> dict[str, ScaleHistory]:
        return self._histories

    @property
    def status(self) -> str:
        """What the chart shows, in words."""
        return str(self._drawing["sentence"])

    @traitlets.validate("overflows")
    def _check_overflows(self, proposal: traitlets.Bunch) -> list[int]:
        try:
            found = sorted({_whole(step) for step in proposal.value})
        except TypeError:
            found = [-1]
        if any(step not in range(self.steps) for step in found):
            raise NotAllowedError(
                f"ScalerBoard: overflows must be a list of steps from 0 to {self.steps - 1}, got {proposal.value!r}"
            )
        return found

    @traitlets.validate("init_exponent")
    def _check_init_exponent(self, proposal: traitlets.Bunch) -> int:
        require_allowed_whole("ScalerBoard: init_exponent", proposal.value, INIT_EXPONENTS[0], INIT_EXPONENTS[-1])
        return int(proposal.value)

    @traitlets.validate("growth_interval", "hysteresis")
    def _check_count(self, proposal: traitlets.Bunch) -> int:
        require_allowed_whole(f"ScalerBoard: {proposal.trait.name}", proposal.value, 1, MOST)
        return int(proposal.value)

    @traitlets.validate("consecutive_hysteresis")
    def _check_consecutive_hysteresis(self, proposal: traitlets.Bunch) -> bool:
        value = proposal.value
        if type(value) is not bool:
            raise NotAllowedError(f"ScalerBoard: consecutive_hysteresis must be True or False, got {value!r}")
        return value

    def _redraw(self) -> None:
        knobs = {
            "growth_interval": self.growth_interval,
            "hysteresis": self.hysteresis,
            "consecutive_hysteresis": self.consecutive_hysteresis,
        }
        overflowing = [step in self.overflows for step in range(self.steps)]
        found = all_policies(2.0**self.init_exponent, **knobs)
        self._histories = {name: simulate(policy, overflowing) for name, policy in found.items()}
        self._drawing = board(self._histories, self.overflows, self.steps)

    def _changed(self, _change: object) -> None:
        self._redraw()


def _whole(step: Any) -> int:
    """Returns a whole number, numpy's included, as int; raises TypeError for anything else."""
    if isinstance(step, bool):
        raise TypeError("True and False are not steps")
    return operator.index(step)
