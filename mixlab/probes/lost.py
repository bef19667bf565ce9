"""What an optimizer's steps lost, as records that add up."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Share:
    """How many elements lost something, of those that could have. Shares add up.

    >>> (Share(1, 2) + Share(0, 2)).value
    0.25

    Attributes:
        lost: How many lost something.
        of: How many could have.
    """

    lost: int = 0
    of: int = 0

    @property
    def value(self) -> float:
        """The fraction that lost something, from 0 to 1; 0 if none could have."""
        return self.lost / self.of if self.of else 0.0

    def __add__(self, other: Share) -> Share:
        return Share(self.lost + other.lost, self.of + other.of)

    def __str__(self) -> str:
        return f"{self.value:.1%}"


@dataclass(frozen=True)
class Lost:
    """What one step lost on one parameter. Losses add up over steps and over parameters.

    "Weight" here means the value that the optimizer holds: the master copy if there is one, or the weight plus its
    Kahan compensation. So `swallowed` counts updates that are gone for good. Stochastic rounding of weights or moments
    is an exception: a value that seldom changes moves a whole gap when it does, and is correct on average.

    Attributes:
        step: Counted from 0 over the steps that the optimizer took; -1 for a sum over several.
        parameter: Its name in the model; "all" for a sum over several.
        swallowed: Weights that did not change, of those with a non-zero gradient or moment.
        stuck_falling: Second moments that did not fall, of those with g^2 < v, which should.
        stuck_rising: Second moments that did not rise, of those with g^2 > v, which should.
        vanished: Second moments stored as zero, of those with a non-zero gradient. torch.optim's for-loop and foreach
            Adam then divide by eps alone, in 16 bits; mixlab's and torch's fused Adam divide by this step's v, before
            it is stored.
        eps_lost: Denominators that eps does not change in the dtype that the optimizer computes in, of those that it
            changes in float32. (torch.optim's for-loop and foreach optimizers compute in the parameters' dtype, where
            1e-8 may be zero; its fused ones in float32.)
        decay_lost: Weights that decoupled weight decay alone does not change, of the non-zero weights. With stochastic
            rounding this is 0, because the decay survives on average.
    """

    step: int
    parameter: str
    swallowed: Share = Share()
    stuck_falling: Share = Share()
    stuck_rising: Share = Share()
    vanished: Share = Share()
    eps_lost: Share = Share()
    decay_lost: Share = Share()

    def __add__(self, other: Lost) -> Lost:
        sums = {name: getattr(self, name) + getattr(other, name) for name in SHARES}
        step = self.step if self.step == other.step else -1
        return Lost(step, self.parameter if self.parameter == other.parameter else "all", **sums)

    def __str__(self) -> str:
        return ", ".join(f"{name} {share}" for name in SHARES if (share := getattr(self, name)).of)


SHARES: tuple[str, ...] = tuple(field.name for field in fields(Lost) if field.name not in ("step", "parameter"))
