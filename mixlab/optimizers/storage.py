"""What an optimizer stores, and how: the formats of its states, and how a new weight is rounded."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import get_args

import torch

from mixlab.optimizers.state_formats import STATE_DTYPES, StateDtype, StateFormat, StateRounding, state_format
from mixlab.optimizers.step import WeightUpdate


@dataclass(frozen=True)
class Storage:
    """How an optimizer stores what it keeps from step to step.

    Attributes:
        exp_avg_dtype: Of Adam's first moment, or of SGD's momentum: float32, float16, bfloat16; or, in 8 bits with a
            float32 scale for each block, float8_e4m3fn, float8_e5m2 or "dynamic8".
        exp_avg_sq_dtype: Of Adam's second moment; "dynamic8" is without sign there.
        master_weights: Keep a float32 copy of 16-bit parameters, update it, and round it to the parameters.
        update: How a new weight is rounded to a 16-bit parameter without master weights. "nearest_even": to nearest,
            ties to even. "stochastic": up or down at random, in proportion to the distances, so that it is right on
            average (Gupta et al., Deep Learning with Limited Numerical Precision, 2015, section 3). "kahan": to
            nearest, with what was lost kept in a second number of the parameter's dtype (Zamirai et al., Revisiting
            BFloat16 Training, 2020, section 3.2).
        state_rounding: How both moments are rounded to their dtypes: "nearest_even" or "stochastic".
        block_size: How many neighbours in memory share a scale, in the 8-bit dtypes (Dettmers et al., 8-bit Optimizers
            via Block-wise Quantization, 2022, section 2.1).

    Raises:
        ValueError: A value that is not allowed.
    """

    exp_avg_dtype: StateDtype = torch.float32
    exp_avg_sq_dtype: StateDtype = torch.float32
    master_weights: bool = False
    update: WeightUpdate = "nearest_even"
    state_rounding: StateRounding = "nearest_even"
    block_size: int = 256

    def __post_init__(self) -> None:
        for name in ("exp_avg_dtype", "exp_avg_sq_dtype"):
            if getattr(self, name) not in STATE_DTYPES:
                allowed = ", ".join(map(str, STATE_DTYPES))
                raise ValueError(f"Storage: {name} must be one of {allowed}, got {getattr(self, name)!r}")
        if self.state_rounding not in get_args(StateRounding):
            raise ValueError(
                f"Storage: state_rounding must be one of nearest_even, stochastic, got {self.state_rounding!r}"
            )
        if type(self.block_size) is not int or self.block_size < 1:
            raise ValueError(f"Storage: block_size must be a whole number from 1 up, got {self.block_size!r}")
        if type(self.master_weights) is not bool:
            raise ValueError(f"Storage: master_weights must be True or False, got {self.master_weights!r}")
        if self.update not in get_args(WeightUpdate):
            raise ValueError(f"Storage: update must be one of nearest_even, stochastic, kahan, got {self.update!r}")
        if self.master_weights and self.update != "nearest_even":
            raise ValueError(
                f"Storage: update={self.update} has no effect with master weights; use update='nearest_even'"
            )

    @cached_property
    def exp_avg(self) -> StateFormat:
        return state_format(self.exp_avg_dtype, signed=True, rounding=self.state_rounding, block_size=self.block_size)

    @cached_property
    def exp_avg_sq(self) -> StateFormat:
        return state_format(
            self.exp_avg_sq_dtype, signed=False, rounding=self.state_rounding, block_size=self.block_size
        )
