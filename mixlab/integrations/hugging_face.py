"""The callback for the Trainer of Hugging Face's transformers."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

from mixlab.integrations.watching import Watching


class HFCallback(Watching):
    """Watches every n-th step of a Hugging Face Trainer: what its gradients and updates lose, and its memory.

        watch = HFCallback(every=50)
        trainer = transformers.Trainer(model, args, train_dataset=data, callbacks=[watch])
        trainer.train()
        print(watch.report())

    A watched step counts all its micro-batches. The weights come out bit for bit as without the callback. On the steps
    between, it does nothing. Metrics begin with "mixlab/": they stand in `trainer.state.log_history`, and reach the
    reporters that come after the callback; `attach` puts it before all. An error in it is logged once, and the training
    goes on without it.

    Args:
        every: Watches every n-th optimizer step, starting with the first.
        sample: How many elements of each tensor go into its histogram; None takes all.
        predicted: A `mixlab.memory.trace` or `estimate` of the training, whose peak the report shows.
        prints: Whether the report is printed when the training ends.

    Raises:
        TypeError, ValueError: If an argument is not allowed.
        ImportError: If transformers is not installed.
    """

    _logged: dict[str, float] | None = None

    @classmethod
    def _bases(cls) -> tuple[type, ...]:
        try:
            return (import_module("transformers").TrainerCallback,)
        except ImportError as error:
            raise ImportError("HFCallback needs transformers; install it with pip install transformers") from error

    def attach(self, trainer: Any) -> Any:
        """Puts the callback before all others of a Trainer, so that TensorBoard and others report its metrics too.

        Args:
            trainer: A `transformers.Trainer`, with or without this callback.

        Returns:
            The Trainer.
        """
        callbacks = trainer.callback_handler.callbacks
        callbacks[:] = [self, *(callback for callback in callbacks if callback is not self)]
        return trainer

    def on_step_begin(self, args: Any, state: Any, _control: Any, **given: Any) -> None:
        """Begins to watch.

        Args:
            args: The `TrainingArguments`.
            state: The `TrainerState`.
            **given: Among others the model and its optimizer.
        """
        self._contained(partial(self._begin, args, state, given))

    def _begin(self, args: Any, state: Any, given: dict[str, Any]) -> None:
        self._begin_step(
            state.global_step,
            given["model"],
            [given["optimizer"]],
            scaler=getattr(given["optimizer"], "scaler", None),
            compiled=bool(getattr(args, "torch_compile", False)),
        )

    def on_step_end(self, _args: Any, _state: Any, _control: Any, **_given: Any) -> None:
        """Ends what `on_step_begin` began."""
        self._logged = self._contained(self._end_step) or self._logged

    def on_log(
        self, _args: Any, state: Any, _control: Any, logs: dict[str, float] | None = None, **_given: Any
    ) -> None:
        """Adds the metrics of the latest watched step to the training's next log.

        Args:
            state: The `TrainerState`, whose history has the log already.
            logs: The log.
        """
        if logs is not None and "loss" in logs and self._logged:
            logs |= self._logged
            if state.log_history:
                state.log_history[-1] |= self._logged
            self._logged = None

    def on_train_end(self, _args: Any, state: Any, _control: Any, **_given: Any) -> None:
        """Prints the report.

        Args:
            state: The `TrainerState`.
        """
        self._finish(prints=bool(getattr(state, "is_world_process_zero", True)))
