"""How an optimizer stores things: the formats of its states, and the rounding of new weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import get_args

import torch

from mixlab.arguments import require_whole
from mixlab.optimizers.choices import StateRounding
from mixlab.optimizers.state_formats import STATE_DTYPES, StateDtype, StateFormat, state_format
from mixlab.optimizers.step import WeightUpdate


@dataclass(frozen=True)
class Storage:
    """How an optimizer stores weights and states between steps. It always computes in float32.

    Values too large for a 16-bit dtype become infinite. The 8-bit dtypes use a scale per block that brings the block
    into their range; a block with an inf or NaN becomes all NaN.

    >>> Storage(torch.bfloat16, "dynamic8").exp_avg_sq.bytes(1024)  # 1 per number, and 4 per block of 256
    1040

    Attributes:
        exp_avg_dtype: Dtype of Adam's first moment and of SGD's momentum: float32, float16 or bfloat16; or one of 8
            bits with a float32 scale per block: float8_e4m3fn, float8_e5m2 or "dynamic8".
        exp_avg_sq_dtype: Dtype of Adam's second moment, with the same choices; here "dynamic8" has no sign.
        master_weights: Whether to keep a float32 copy of 16-bit parameters, update the copy, and round it to the
            parameters (Micikevicius et al., Mixed Precision Training, 2018, section 3.1).
        update: How a new weight is rounded to a 16-bit parameter without master weights. "nearest_even": to nearest,
            ties to even. "stochastic": up or down at random, more often to the nearer neighbour, so that it is correct
            on average (Gupta et al., Deep Learning with Limited Numerical Precision, 2015, section 3). "kahan": to
            nearest, with the rounding error kept in a second number of the parameter's dtype (Zamirai et al.,
            Revisiting BFloat16 Training, 2020).
        state_rounding: How both moments are rounded to their dtypes: "nearest_even" or "stochastic".
        block_size: Number of neighbours in memory that share a scale in the 8-bit dtypes (Dettmers et al., 8-bit
            Optimizers via Block-wise Quantization, 2022, section 2.1).

    Raises:
        ValueError: If a value is not allowed, or `update` has no effect because of master weights.
    """

    exp_avg_dtype: StateDtype = torch.float32
    exp_avg_sq_dtype: StateDtype = torch.float32
    master_weights: bool = False
    update: WeightUpdate = "nearest_even"
    state_rounding: StateRounding = "nearest_even"
    block_size: int = 256

    def __post_init__(self) -> None:
        for name, allowed in _ALLOWED.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"Storage: {name} must be one of {', '.join(map(str, allowed))}, got {value!r}")
        require_whole("Storage: block_size", self.block_size, 1)
        if type(self.master_weights) is not bool:
            raise ValueError(f"Storage: master_weights must be True or False, got {self.master_weights!r}")
        if self.master_weights and self.update != "nearest_even":
            raise ValueError(
                f"Storage: update={self.update} has no effect with master weights; use update='nearest_even'"
            )

    @cached_property
    def exp_avg(self) -> StateFormat:
        """The format of Adam's first moment and of SGD's momentum."""
        return self._format(self.exp_avg_dtype, signed=True)

    @cached_property
    def exp_avg_sq(self) -> StateFormat:
        """The format of Adam's second moment."""
        return self._format(self.exp_avg_sq_dtype, signed=False)

    def _format(self, dtype: StateDtype, *, signed: bool) -> StateFormat:
        return state_format(dtype, signed=signed, rounding=self.state_rounding, block_size=self.block_size)


_ALLOWED: dict[str, tuple[object, ...]] = {
    "exp_avg_dtype": STATE_DTYPES,
    "exp_avg_sq_dtype": STATE_DTYPES,
    "update": get_args(WeightUpdate),
    "state_rounding": get_args(StateRounding),
}
