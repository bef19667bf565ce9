"""One optimizer step of somebody's training, watched from its first forward pass to its end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import reduce

from torch import nn
from torch.optim import Optimizer

from mixlab.integrations.step_bytes import StepBytes, bytes_of, gradient_bytes
from mixlab.loss_scaling import ScaleWindow
from mixlab.loss_scaling.windows import NO_WINDOW
from mixlab.probes import Lost, TensorStats, scale_window, track, track_updates
from mixlab.probes.tracking import unwatched
from mixlab.wrappers import unwrapped


@dataclass(frozen=True)
class SampledStep:
    """What was seen of one optimizer step, over all its micro-batches.

    Attributes:
        step: Optimizer steps that the training had taken before it.
        stats: The activations and gradients of each layer, as `mixlab.track` saw them: gradients hold the loss scale.
        lost: What the optimizers' updates lost, for each parameter; nothing if no optimizer stepped.
        loss_scale: The loss scale of the step; 1 without a scaler.
        window: The loss scales at which fp16 can hold all gradients. In a step that already computes in 16 bits, what
            was lost before it could be seen is not counted, so the lower edge is too low.
        memory: The bytes of the step.
        left_out: What could not be watched and why, by layer or parameter.
    """

    step: int
    stats: tuple[TensorStats, ...]
    lost: tuple[Lost, ...]
    loss_scale: float
    window: ScaleWindow
    memory: StepBytes
    left_out: dict[str, str]

    @property
    def skipped(self) -> bool:
        """Whether no optimizer stepped, as when a scaler finds inf or NaN in the gradients."""
        return not self.lost

    @property
    def updates(self) -> Lost | None:
        """What all updates lost together; None for a skipped step."""
        return replace(reduce(Lost.__add__, self.lost), parameter="all") if self.lost else None

    def metrics(self) -> dict[str, float]:
        """Returns the step as numbers for a logger, under names that begin with "mixlab/"."""
        found = {"loss_scale": self.loss_scale, "skipped": float(self.skipped)}
        if self.window != NO_WINDOW:
            found |= {"fp16_scale_exponent_low": self.window.low, "fp16_scale_exponent_high": self.window.high}
        for kind in ("activation", "gradient", "weight_gradient"):
            seen = [stats for stats in self.stats if stats.kind == kind]
            if seen:
                numel = max(1, sum(stats.numel for stats in seen))
                scale = 1.0 if kind == "activation" else self.loss_scale
                found[f"{kind}_amax"] = max(stats.amax for stats in seen) / scale
                if kind != "activation":
                    found[f"{kind}_zeros"] = sum(stats.zeros for stats in seen) / numel
                found[f"{kind}_non_finite"] = float(sum(stats.infs + stats.nans for stats in seen))
        if self.updates is not None:
            stuck = self.updates.stuck_falling + self.updates.stuck_rising
            found["updates_swallowed"] = self.updates.swallowed.value
            if stuck.of:
                found["second_moments_stuck"] = stuck.value
        if self.memory.peak is not None:
            found["peak_bytes"] = float(self.memory.peak)
        return {f"mixlab/{name}": value for name, value in found.items()}


class StepWatch:
    """Watches the model and its optimizers from here to `end` or `abandon`, which remove every hook.

    Args:
        step: Optimizer steps taken so far.
        model: The model in training.
        optimizers: Its optimizers, wrapped or not.
        loss_scale: The loss scale of the step.
        compiled: Whether the model runs inside a compiled function, whose layers must not get hooks.
        sample: As for `mixlab.track`.
    """

    def __init__(
        self,
        step: int,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        *,
        loss_scale: float,
        compiled: bool,
        sample: int | None,
    ) -> None:
        self.step, self.model, self.loss_scale = step, model, loss_scale
        self.optimizers = [unwrapped(optimizer) for optimizer in optimizers]
        self._left_out: dict[str, str] = {}
        self._gradients = 0
        self._hooks, self._pause = ExitStack(), ExitStack()
        self._probe = track(model, sample=sample, strict=False)
        self._updates: list[track_updates] = []
        try:
            self._begin(compiled)
        except BaseException:
            self.abandon()
            raise

    def _begin(self, compiled: bool) -> None:
        if compiled:
            self._left_out[""] = "the model is compiled, so its layers call no hooks"
        else:
            self._hooks.enter_context(self._probe)
        for optimizer in self.optimizers:
            try:
                self._updates.append(self._hooks.enter_context(track_updates(self.model, optimizer)))
            except TypeError as error:
                self._left_out[type(optimizer).__name__] = str(error)
            else:
                self._hooks.callback(optimizer.register_step_post_hook(self._count_gradients).remove)

    def _count_gradients(self, *_: object) -> None:
        try:
            self._gradients = max(self._gradients, gradient_bytes(self.model))
        except Exception as error:  # within a step of the training, which goes on
            self._left_out[""] = f"its gradients were not counted: {error!r}"

    def pause(self) -> None:
        """Hides what the model computes until `resume`, such as a validation between two micro-batches."""
        self._pause.enter_context(unwatched())

    def resume(self) -> None:
        """Ends a pause, if there is one."""
        self._pause.close()

    def abandon(self) -> None:
        """Removes every hook."""
        self.resume()
        self._hooks.close()

    def end(self) -> SampledStep:
        """Removes every hook and returns what was seen."""
        self.abandon()
        stats = tuple(self._probe)
        lost = tuple(replace(one, step=self.step) for updates in self._updates for one in updates)
        left_out = self._left_out | self._probe.left_out
        for updates in self._updates:
            left_out |= updates.left_out
        memory = bytes_of(self.model, self.optimizers, self._gradients)
        return SampledStep(self.step, stats, lost, self.loss_scale, self._window(stats), memory, left_out)

    def _window(self, stats: Sequence[TensorStats]) -> ScaleWindow:
        try:
            window = scale_window(stats, "fp16")
        except ValueError:  # no gradient with a finite value but zero
            return NO_WINDOW
        shift = math.log2(self.loss_scale)
        return ScaleWindow(math.ceil(window.low + shift), math.floor(window.high + shift))
