"""The callback for Lightning's Trainer, as `lightning` or as `pytorch_lightning`."""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import Any

from mixlab.integrations.watching import Watching

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")


class LightningCallback(Watching):
    """Watches every n-th step of a Lightning Trainer: what its gradients and updates lose, and its memory.

        watch = LightningCallback(every=50)
        trainer = lightning.Trainer(max_steps=1000, callbacks=[watch])
        trainer.fit(model, loader)
        print(watch.report())

    A watched step counts all its micro-batches and all its optimizers. The weights come out bit for bit as without the
    callback. On the steps between, it does nothing. Metrics begin with "mixlab/": every logger of the Trainer gets them
    at once, and `trainer.callback_metrics` holds the latest. An error in it is logged once, and the training goes on
    without it.

    Args:
        every: Watches every n-th batch that ends with an optimizer step, starting with the first.
        sample: How many elements of each tensor go into its histogram; None takes all.
        predicted: A `mixlab.memory.trace` or `estimate` of the training, whose peak the report shows.
        prints: Whether the report is printed when the training ends.

    Raises:
        TypeError, ValueError: If an argument is not allowed.
        ImportError: If neither lightning nor pytorch_lightning is installed.
    """

    _stepped: int | None = None  # the Trainer's count of optimizer steps before the batches at hand

    @classmethod
    def _bases(cls) -> tuple[type, ...]:
        names = [name for name in _PACKAGES if sys.modules.get(name) is not None] or _first_installed()
        if not names:
            raise ImportError("LightningCallback needs Lightning; install it with pip install lightning")
        return tuple(sys.modules[name].Callback for name in names)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_batch: Any, **_given: Any) -> None:
        """Begins to watch, unless the batches at hand have not ended with a step yet.

        Args:
            trainer: Lightning's Trainer.
            pl_module: The module in training.
        """
        self._contained(partial(self._begin, trainer, pl_module))

    def _begin(self, trainer: Any, pl_module: Any) -> None:
        if self._stepped is None:
            self._stepped = trainer.global_step
            self._begin_step(
                trainer.fit_loop.epoch_loop._batches_that_stepped,
                pl_module,
                trainer.optimizers,
                scaler=getattr(trainer.precision_plugin, "scaler", None),
                compiled=getattr(pl_module, "_compiler_ctx", None) is not None,
            )

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_batch: Any, **_given: Any) -> None:
        """Ends what `on_train_batch_start` began, if an optimizer stepped, and logs it.

        Args:
            trainer: Lightning's Trainer.
            pl_module: The module in training.
        """
        self._contained(partial(self._end, trainer, pl_module))

    def _end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.global_step == self._stepped:
            return  # gradients still accumulate
        self._stepped = None
        if (metrics := self._end_step()) is not None:
            pl_module.log_dict(metrics, logger=False, on_step=True, on_epoch=False, batch_size=1)
            for logger in trainer.loggers:  # at every watched step, whatever log_every_n_steps
                logger.log_metrics(metrics, step=trainer.fit_loop.epoch_loop._batches_that_stepped)

    def on_validation_start(self, *_given: Any) -> None:
        """Hides a validation between two micro-batches."""
        if self._watch is not None:
            self._watch.pause()

    def on_validation_end(self, *_given: Any) -> None:
        """Ends what `on_validation_start` began."""
        if self._watch is not None:
            self._watch.resume()

    def on_train_end(self, trainer: Any, _pl_module: Any) -> None:
        """Prints the report.

        Args:
            trainer: Lightning's Trainer.
        """
        self._stepped = None
        self._finish(prints=trainer.is_global_zero)

    def on_exception(self, *_given: Any) -> None:
        """Removes every hook."""
        self._stepped = None
        self._finish(prints=False)

    def teardown(self, *_given: Any, **_stage: Any) -> None:
        """Removes every hook."""
        self._stepped = None
        self._finish(prints=False)


def _first_installed() -> list[str]:
    """Imports the first of Lightning's packages that is installed, and returns its name; none if none is."""
    for name in _PACKAGES:
        with suppress(ImportError):
            import_module(name)
            return [name]
    return []
