"""Loss scalers as their systems write them: objects with counters that an update changes. Slow and obvious.

torch itself is asked in tests/loss_scaling/test_policies.py. `tests/benchmarks/scaler_peers.py` holds the others
against the sources of DeepSpeed and Megatron.
"""

from __future__ import annotations

import torch


class Apex:
    def __init__(self, init_scale, growth_interval, min_scale, max_scale):
        self.scale, self.window, self.low, self.high = init_scale, growth_interval, min_scale, max_scale
        self.unskipped = 0

    def update(self, overflow):
        if overflow:
            self.scale = self.scale / 2 if not self.low else max(self.low, self.scale / 2)
            self.unskipped = 0
        else:
            self.unskipped += 1
        if self.unskipped == self.window:
            self.scale = min(self.high, self.scale * 2)
            self.unskipped = 0


class Megatron:
    def __init__(self, init_scale, growth_factor, backoff_factor, growth_interval, min_scale, hysteresis):
        as_float32 = (torch.tensor([x], dtype=torch.float32) for x in (init_scale, growth_factor, backoff_factor))
        self._scale, self.growth, self.backoff = as_float32
        self.low = torch.tensor([min_scale], dtype=torch.float32)
        self.interval, self.hysteresis = growth_interval, hysteresis
        self.good, self.left = 0, hysteresis

    @property
    def scale(self):
        return self._scale.item()

    def update(self, overflow):
        if overflow:
            self.good = 0
            self.left -= 1
            if self.left <= 0:
                self._scale = torch.maximum(self._scale * self.backoff, self.low)
        else:
            self.good += 1
            if self.good == self.interval:
                self.good, self.left = 0, self.hysteresis
                self._scale = self._scale * self.growth


class DeepSpeed:
    def __init__(self, init_scale, growth_interval, min_scale, hysteresis, consecutive_hysteresis):
        self.scale, self.window, self.low = init_scale, growth_interval, min_scale
        self.shift, self.left, self.consecutive = hysteresis, hysteresis, consecutive_hysteresis
        self.iteration, self.last_overflow = 0, -1

    def update(self, overflow):
        if overflow:
            if self.shift == 1 or self.left == 1:
                if self.scale == self.low:
                    raise RuntimeError("at the minimum")
                self.scale = max(self.scale / 2, self.low)
            else:
                self.left -= 1
            self.last_overflow = self.iteration
        else:
            if self.consecutive:
                self.left = self.shift
            stable = self.iteration - self.last_overflow - 1
            if stable > 0 and stable % self.window == 0:
                if not self.consecutive:
                    self.left = self.shift
                self.scale = self.scale * 2
        self.iteration += 1
