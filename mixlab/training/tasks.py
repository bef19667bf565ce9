"""Small real tasks, seeded and offline: an MLP and a CNN on digits, and a character GPT on Python's manual."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import util
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from mixlab.batches import (
    Batch,
    BatchError,
    Loss,
    call_loss,
    call_model,
    loss_of,
    loss_part,
    require_batch,
    require_loss,
    require_real,
)
from mixlab.optimizers import MakeOptimizer, OptimizerName
from mixlab.process import RandomStream
from mixlab.recipes import Recipe
from mixlab.training.choices import require_positive, require_task
from mixlab.training.metrics import Metric, metric_of, name_of
from mixlab.training.models import TinyGPT
from mixlab.training.optimizers import make_optimizer

_Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Task:
    """A model, its data, its loss and its optimizer: everything about a training except the recipe.

    What a batch may be, how the model is called with it and what its loss is, `mixlab.batches` says for every tool.

    >>> def draw(generator):
    ...     x = torch.rand(16, 1, generator=generator)
    ...     return x, x.sin()
    >>> def largest_error(output, targets):
    ...     return (output - targets).abs().max()
    >>> sine = Task(
    ...     "sine",
    ...     lambda: nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1)),
    ...     draw,
    ...     draw(torch.Generator().manual_seed(1)),
    ...     loss=nn.MSELoss(),
    ...     metric=largest_error,
    ... )
    >>> sine.metric_name
    'largest error'

    Args:
        name: Its name on the command line and in a saved run.
        make_model: Returns a new float32 model on the CPU; it may draw torch's random numbers.
        draw: Returns one training batch, drawn with the given generator; every step's has the same parts.
        held_out: One batch that is never trained on.
        optimizer: "sgd" (momentum 0.9), "adam" or "adamw", which store what the recipe says. Or a function of
            (parameters, lr) that returns an optimizer of your own, which chooses its own storage; it works only with
            recipes that prescribe none: those with fp32 weights and states, or with update=per_op.
        lr: Learning rate at loss_weight 1.
        loss_weight: A constant factor of the loss, as in an auxiliary loss or a mean over very many terms. With "sgd"
            the learning rate is divided by it, so that in exact arithmetic nothing changes. Adam needs no correction.
        loss: Function of (output, targets), or of (output, batch) for batches without targets. None takes the output's
            own loss, or else cross-entropy.
        metric: Function like `loss` that returns a number to show beside the loss, or None where there is none. None
            takes the accuracy where the loss is cross-entropy with class numbers, and else no metric.

    Raises:
        TypeError: If `make_model`, `draw`, `loss` or `metric` is no function, or `held_out` no batch.
        ValueError: If the optimizer is unknown, a learning rate or loss weight is not positive and finite, or
            `held_out` is empty or has no values.
    """

    name: str
    make_model: Callable[[], nn.Module]
    draw: Callable[[torch.Generator], Batch]
    held_out: Batch
    optimizer: OptimizerName | MakeOptimizer = "adam"
    lr: float = 1e-3
    loss_weight: float = 1.0
    loss: Loss | None = None
    metric: Metric | None = None

    def __post_init__(self) -> None:
        if not callable(self.optimizer) and self.optimizer not in get_args(OptimizerName):
            allowed = f"one of {', '.join(get_args(OptimizerName))}, or a function of (parameters, lr)"
            raise ValueError(f"Task: optimizer must be {allowed}, got {self.optimizer!r}")
        for name, value in (("lr", self.lr), ("loss_weight", self.loss_weight)):
            require_positive(f"Task: {name}", value)
        for name, function in (("make_model", self.make_model), ("draw", self.draw)):
            if not callable(function) or isinstance(function, nn.Module):
                what = "module in float32" if name == "make_model" else "batch, given a torch.Generator"
                raise TypeError(f"Task: {name} must be a function that returns a new {what}; got {_kind(function)}")
        require_loss("Task", self.loss)
        require_loss("Task", self.metric, "metric")
        require_batch("Task", self.held_out, "held_out")
        require_real("Task", self.held_out, "held_out")

    @property
    def metric_name(self) -> str:
        """The metric's name for people, such as "accuracy"; "" if there is none."""
        metric = self.metric or metric_of(self.loss, self.held_out)
        return name_of(metric) if metric else ""

    def seeded_model(self, seed: int) -> nn.Module:
        """Returns a new model, as if made after `torch.manual_seed(seed)`; torch's own generator does not move.

        Args:
            seed: Seed of torch's random numbers. NumPy's and Python's are not seeded.

        Raises:
            TypeError: If `make_model` does not return a module with values and float32 parameters.
        """
        with RandomStream(seed):
            model = self.make_model()
        if not isinstance(model, nn.Module):
            raise TypeError(f"Task {self.name}: make_model must return a new torch.nn.Module, got {model!r}")
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            self._require_values(name, tensor)
        for name, parameter in model.named_parameters():
            self._require_float32(name, parameter)
        return model

    def batch(self, seed: int, step: int) -> Any:
        """Returns the training batch of one step.

        It depends on (seed, step) alone, so a resumed run sees the same batches.

        Args:
            seed: The training's seed.
            step: The step, counted from 0.

        Raises:
            TypeError, ValueError: If `draw` returns no batch, or an empty one.
        """
        batch = self.draw(torch.Generator().manual_seed(step_seed(seed, step)))
        require_batch(f"Task {self.name}", batch, "what draw returns")
        require_real(f"Task {self.name}", batch, "what draw returns")
        return batch

    def make_optimizer(
        self, model: nn.Module, recipe: Recipe | str, *, generator: torch.Generator | None = None
    ) -> Optimizer:
        """Returns this task's optimizer over the model's parameters; see `mixlab.training.make_optimizer`.

        Args:
            model: The model, with parameters already stored as the recipe says.
            recipe: How to store states and round updates, as a recipe or its text.
            generator: For stochastic rounding.

        Raises:
            TypeError, ValueError: As `make_optimizer` does.
        """
        lr = self.lr / self.loss_weight if self.optimizer == "sgd" else self.lr
        owner = f"Task {self.name}"
        return make_optimizer(model.parameters(), recipe, self.optimizer, lr, generator=generator, owner=owner)

    def loss_and_metric(self, model: Callable[..., Any], batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Returns the loss and the metric of one batch.

        Args:
            model: The model, or a function that is called like it.
            batch: The batch.

        Returns:
            (loss, without the loss weight; the metric, without a gradient, or None), both 0-dim.

        Raises:
            BatchError: If model, batch and loss do not fit together, or the metric is no number.
        """
        owner = f"Task {self.name}"
        output = call_model(model, batch, owner=owner)
        loss = loss_of(output, batch, self.loss, owner=owner)
        return loss, self._metric(output, batch, loss)

    @torch.no_grad()
    def _metric(self, output: Any, batch: Batch, loss: Tensor) -> Tensor | None:
        if self.metric is not None:
            owner = f"Task {self.name}"
            return self._one_number(call_loss(self.metric, output, batch, owner=owner, argument="metric"))
        metric = metric_of(self.loss, batch)
        value = None if metric is None else metric(output, loss_part(batch))
        if isinstance(value, Tensor) and value.isnan() and loss.isnan():
            raise ValueError(
                f"Task {self.name}: every target of a batch is ignored, and the mean over no targets is NaN; draw "
                "batches in which some target counts"
            )
        return value  # type: ignore[return-value]  # accuracy is a tensor

    def _one_number(self, value: object) -> Tensor | None:
        if value is None or (isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex()):
            return value.detach().reshape(()) if isinstance(value, Tensor) else None
        if isinstance(value, int | float | np.number):
            return torch.tensor(float(value), dtype=torch.float64)
        came = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise BatchError(f"Task {self.name}: metric must return one number, or None; got {came}")

    def _require_values(self, name: str, tensor: Tensor) -> None:
        why = ""
        if is_lazy(tensor):
            why = "because its lazy module was not called: call the model once on a batch before returning it"
        elif tensor.is_meta:
            why = "because it is on the meta device: make it on the CPU"
        if why:
            raise TypeError(f"Task {self.name}: make_model must return a module with values; {name} has none, {why}")

    def _require_float32(self, name: str, parameter: Tensor) -> None:
        if parameter.dtype is not torch.float32:
            raise TypeError(
                f"Task {self.name}: make_model must return a module in float32, which the recipe then stores in its "
                f"own format; got {parameter.dtype} in {name}"
            )


def _kind(value: object) -> str:
    return (
        f"a {type(value).__name__}, an object that is already made"
        if isinstance(value, nn.Module)
        else f"{value!r:.60}"
    )


def load_task(name: str, *, loss_weight: float = 1.0) -> Task:
    """Returns one of the shipped tasks.

    >>> task = load_task("digits-mlp")
    >>> task.optimizer, task.lr, tuple(task.held_out[0].shape)
    ('sgd', 0.1, (297, 64))

    Args:
        name: One of `TASKS`.
        loss_weight: A constant factor of the loss; see `Task`.

    Raises:
        ValueError: If the name is unknown, or the loss weight is not positive and finite.
    """
    require_task(name)
    return _LOADERS[name](loss_weight)


def step_seed(seed: int, step: int, purpose: str = "") -> int:
    """Returns a different seed for each (seed, step, purpose).

    Args:
        seed, step: Whole numbers from 0 up.
        purpose: What the random numbers are for; "" for the batch.
    """
    entropy = [seed, step, *purpose.encode()]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _digits_mlp(loss_weight: float) -> Task:
    def model() -> nn.Module:
        layers: dict[str, nn.Module] = {}
        for i in range(1, 8):
            layers[f"hidden{i}"] = nn.Linear(64, 64)
            layers[f"tanh{i}"] = nn.Tanh()
        return nn.Sequential(OrderedDict(layers, output=nn.Linear(64, 10)))

    train, held_out = _digits()
    return Task("digits-mlp", model, _rows(train, 64), held_out, optimizer="sgd", lr=0.1, loss_weight=loss_weight)


def _digits_cnn(loss_weight: float) -> Task:
    def model() -> nn.Module:
        return nn.Sequential(
            OrderedDict(
                image=nn.Unflatten(1, (1, 8, 8)),
                conv1=nn.Conv2d(1, 16, 3, padding=1),
                relu1=nn.ReLU(),
                conv2=nn.Conv2d(16, 32, 3, padding=1),
                relu2=nn.ReLU(),
                pool=nn.MaxPool2d(2),  # (B, 32, 4, 4)
                flat=nn.Flatten(),
                output=nn.Linear(512, 10),
            )
        )

    train, held_out = _digits()
    return Task("digits-cnn", model, _rows(train, 64), held_out, optimizer="adam", lr=1e-3, loss_weight=loss_weight)


def _chars_gpt(loss_weight: float) -> Task:
    draw, held_out = text_batches(batch=16, context=64)
    return Task("chars-gpt", TinyGPT, draw, held_out, optimizer="adamw", lr=1e-3, loss_weight=loss_weight)


def text_batches(*, batch: int, context: int) -> tuple[Callable[[torch.Generator], _Pair], _Pair]:
    """Returns a function that draws training batches from Python's manual, by character, and a held-out batch.

    Args:
        batch: How many rows per batch.
        context: Characters per row. Inputs and targets are (batch, context), ASCII codes below 128.
    """
    text = _manual()
    split = len(text) * 9 // 10

    def windows(characters: Tensor, starts: Tensor) -> _Pair:
        rows = characters[starts[:, None] + torch.arange(context + 1)].long()  # (B, T + 1)
        return rows[:, :-1], rows[:, 1:]

    def draw(generator: torch.Generator) -> _Pair:
        return windows(text[:split], torch.randint(split - context, (batch,), generator=generator))

    return draw, windows(text[split:], torch.linspace(0, len(text) - split - context - 1, batch).long())


_LOADERS: dict[str, Callable[[float], Task]] = {
    "digits-mlp": _digits_mlp,
    "digits-cnn": _digits_cnn,
    "chars-gpt": _chars_gpt,
}


_DIGITS_FILE = "datasets/data/digits.csv.gz"  # in scikit-learn's package


@lru_cache(maxsize=1)
def _digits() -> tuple[_Pair, _Pair]:
    """Returns scikit-learn's 1797 digits as 1500 training and 297 held-out rows of 64 pixels in [0, 1]."""
    table = torch.from_numpy(_digits_table())
    pixels, labels = table[:, :-1].float() / 16, table[:, -1].long()
    return (pixels[:1500], labels[:1500]), (pixels[1500:], labels[1500:])


def _digits_table() -> NDArray[np.float64]:
    """Returns the table that `sklearn.datasets.load_digits` reads: 64 pixels from 0 to 16 and the label, (1797, 65).

    It is read as a file: importing scikit-learn with scipy takes a second or two, and 80 MB in every lab.
    """
    found = util.find_spec("sklearn")
    if found is not None and found.origin is not None:
        file = Path(found.origin).parent / _DIGITS_FILE
        if file.is_file():
            return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits  # of a scikit-learn that keeps the table elsewhere, or of none

    data = load_digits()
    return np.column_stack([data.data, data.target])


def _rows(train: _Pair, size: int) -> Callable[[torch.Generator], _Pair]:
    def draw(generator: torch.Generator) -> _Pair:
        rows = torch.randint(len(train[1]), (size,), generator=generator)
        return train[0][rows], train[1][rows]

    return draw


@lru_cache(maxsize=1)
def _manual() -> Tensor:
    """Returns the text behind Python's `help()` as ASCII codes in uint8; it differs between Python versions."""
    from pydoc_data.topics import topics  # a text in every Python installation

    text = "\n".join(topics[name] for name in sorted(topics))
    return torch.frombuffer(bytearray(text.encode("ascii", errors="replace")), dtype=torch.uint8)
