"""What the callbacks share: which steps they watch, what they keep of them, and that they never stop a training."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeVar

from torch import nn
from torch.optim import Optimizer

from mixlab.arguments import require_whole
from mixlab.integrations.sampled_step import SampledStep, StepWatch
from mixlab.integrations.step_bytes import PredictedPeak
from mixlab.loss_scaling import ScaleWindow
from mixlab.loss_scaling.windows import NO_WINDOW
from mixlab.probes import Lost
from mixlab.probes.histograms import require_sample
from mixlab.probes.left_out import left_out_lines

Made = TypeVar("Made")

_LOG = logging.getLogger("mixlab.integrations")


class Watching:
    """Watches every n-th optimizer step of a training; `HFCallback` and `LightningCallback` say when steps begin.

    Args:
        every: Watches every n-th step, starting with the first.
        sample: How many elements of each tensor go into its histogram; None takes all.
        predicted: A `mixlab.memory.trace` or `estimate` of the training, whose peak the report shows.
        prints: Whether the report is printed when the training ends.

    Raises:
        TypeError, ValueError: If an argument is not allowed.
        ImportError: If the framework is not installed.
    """

    def __new__(cls, *_args: Any, **_settings: Any) -> Any:
        made: Any = cls
        return object.__new__(_derived(made, *cls._bases()))

    def __reduce_ex__(self, _protocol: Any) -> Any:
        """Copies and pickles: the class with the framework's base is made anew; a step that is watched is not kept."""
        made = next(made for made in type(self).__mro__ if not getattr(made, "_is_derived", False))
        return _made_anew, (made,), {**self.__dict__, "_watch": None}

    def __init__(
        self,
        *,
        every: int = 50,
        sample: int | None = 1024,
        predicted: PredictedPeak | None = None,
        prints: bool = True,
    ) -> None:
        owner = type(self).__name__
        require_whole(f"{owner}: every", every, 1)
        require_sample(sample)
        if predicted is not None and not isinstance(getattr(predicted, "peak_bytes", None), int):
            raise TypeError(
                f"{owner}: predicted must be what mixlab.memory.trace or estimate returns, got "
                f"{type(predicted).__name__}"
            )
        if not isinstance(prints, bool):
            raise TypeError(f"{owner}: prints must be True or False, got {prints!r}")
        self._every, self._sample, self._predicted, self._prints = every, sample, predicted, prints
        self._watch: StepWatch | None = None
        self._last: SampledStep | None = None
        self._rows: list[dict[str, float]] = []
        self._updates: Lost | None = None
        self._window: ScaleWindow | None = None
        self._skipped = 0
        self._failed = ""

    @classmethod
    def _bases(cls) -> tuple[type, ...]:
        """Returns the framework's class of callbacks."""
        raise NotImplementedError

    @property
    def last(self) -> SampledStep | None:
        """The latest step that was watched, layer by layer; None before the first."""
        return self._last

    @property
    def updates(self) -> Lost | None:
        """What the updates of all watched steps lost together; None before the first."""
        return self._updates

    @property
    def window(self) -> ScaleWindow:
        """The loss scales at which fp16 can hold the gradients of every watched step."""
        return NO_WINDOW if self._window is None else self._window

    @property
    def metrics(self) -> list[dict[str, float]]:
        """The numbers of every watched step, as they were logged, with its number under "step"."""
        return [dict(row) for row in self._rows]

    @property
    def failed(self) -> str:
        """Why the callback stopped watching; "" if it did not."""
        return self._failed

    def to_frame(self) -> Any:
        """Returns `metrics` as a pandas DataFrame, with one row for each watched step.

        Raises:
            ImportError: If pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            name = type(self).__name__
            raise ImportError(f"{name}.to_frame needs pandas; install it with pip install pandas") from error
        return pandas.DataFrame(
            self._rows, columns=list(dict.fromkeys(("step", *(key for row in self._rows for key in row))))
        )

    def report(self) -> str:
        """Returns in some lines what the watched steps lost, which loss scales fit, and what memory they took."""
        lines = [f"mixlab: {len(self._rows)} steps watched, one in {self._every}; {self._skipped} of them skipped"]
        if self._failed:
            lines.append(f"watching stopped: {self._failed}")
        if self._updates is not None:
            lines.append(f"updates: {self._updates}")
        if self._window is not None:
            lines.append(f"loss scales that fit fp16: {self._window}")
        if self._last is not None:
            lines.append(f"loss scale of the last: {self._last.loss_scale:g}")
            lines.append(self._last.memory.report(self._predicted))
            lines += left_out_lines(self._last.left_out)
        return "\n".join(lines)

    def detach(self) -> None:
        """Removes every hook, for a training that an error ended within a watched step."""
        self._finish(prints=False)

    def _begin_step(
        self,
        step: int,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        *,
        scaler: Any = None,
        compiled: bool = False,
    ) -> None:
        """Begins to watch a step, if it is one of every n."""
        self._abandon()  # a step that never ended
        if step % self._every == 0:
            scale = 1.0 if scaler is None else float(scaler.get_scale())
            self._watch = StepWatch(step, model, optimizers, loss_scale=scale, compiled=compiled, sample=self._sample)

    def _end_step(self) -> dict[str, float] | None:
        """Ends the step that is watched, if one is, and returns its metrics."""
        if self._watch is None:
            return None
        watch, self._watch = self._watch, None
        self._last = last = watch.end()
        metrics = last.metrics()
        self._rows.append({"step": last.step, **metrics})
        self._skipped += last.skipped
        if last.updates is not None:
            self._updates = last.updates if self._updates is None else self._updates + last.updates
        if last.window != NO_WINDOW:
            self._window = last.window if self._window is None else self._window & last.window
        return metrics

    def _finish(self, *, prints: bool) -> None:
        """Ends watching with the training, after an error too."""
        self._abandon()
        if prints and self._prints and (self._rows or self._failed):
            sys.stdout.write(f"{self.report()}\n")

    def _abandon(self) -> None:
        if self._watch is not None:
            watch, self._watch = self._watch, None
            watch.abandon()

    def _contained(self, act: Callable[[], Made]) -> Made | None:
        """Acts; if that fails, says so once and watches no more. The training goes on."""
        if self._failed:
            return None
        try:
            return act()
        except Exception as error:
            self._failed = f"{type(error).__name__}: {error}"
            _LOG.warning("%s watches no more, and the training goes on: %s", type(self).__name__, self._failed)
            self._abandon()
            return None


def _made_anew(cls: type[Watching]) -> Watching:
    return cls.__new__(cls)  # type: ignore[no-any-return]


@cache
def _derived(cls: Any, *bases: Any) -> Any:
    """Returns the class with the framework's bases, which are known only once it is imported."""
    if all(issubclass(cls, base) for base in bases):
        return cls
    named = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    return type(cls.__name__, (cls, *bases), {**named, "_is_derived": True})
