"""Measures training on this machine, recipe by recipe: tokens per second, memory, share of the peak, and the loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from mixlab.formats._compile import vector_options
from mixlab.machine import usable_device
from mixlab.measure.devices import clock_s, free
from mixlab.measure.gpt_shapes import SMALL, GPTShape
from mixlab.measure.record import Record, Series, now, record_here
from mixlab.measure.requests import check_train
from mixlab.memory.gpus import named_by_driver
from mixlab.recipes import Recipe
from mixlab.training import Task, Trainer

TRAINING_RECIPES = ("fp32", "tf32", "amp-fp16", "amp-bf16", "fp16", "bf16")
_WARM_UP = 3  # steps before the measured ones


@dataclass
class _Training:
    """One recipe, eager or compiled: what to train, and what was measured."""

    recipe: Recipe
    name: str
    compiled: bool
    tokens_per_s: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    note: str = ""


def measure_train(
    device: torch.device | str | None = None,
    *,
    shape: GPTShape | None = None,
    recipes: Sequence[Recipe | str] | None = None,
    modes: Sequence[str] = ("eager", "compiled"),
    steps: int = 20,
    seed: int = 0,
    command: str = "measure_train",
    progress: Callable[[float], None] = lambda _part: None,
) -> Record:
    """Trains a GPT under each recipe in turn, and records every step.

    The arithmetic is the machine's own (`Trainer(..., native=True)`): on a CPU nothing is emulated. If a training runs
    out of memory, diverges or does not compile on this machine, the record's parameters name it, and the next one
    begins.

    Args:
        device: Device to measure; None takes CUDA if available, else the CPU.
        shape: Sizes of model and batch; None takes GPT-2 small on CUDA, and a small model on a CPU.
        recipes: Recipes, or their texts; None takes `TRAINING_RECIPES`, on a CPU without tf32, and without fp16, which
            a CPU multiplies some hundred times slower.
        modes: "eager", "compiled" or both.
        steps: Measured steps of each training; three more come before them.
        seed: Seed of weights and batches.
        command: Command line to store in the record.
        progress: Called with the completed fraction, from 0 to 1.

    Raises:
        ValueError: If a recipe, mode or device is unknown, or a number is out of range.
    """
    check_train(recipes=recipes, modes=modes, steps=steps, seed=seed)
    device = usable_device(device)
    shape = shape or (GPTShape() if device.type == "cuda" else SMALL)
    texts = _default_recipes(device) if recipes is None else recipes
    parsed = {str(recipe): Recipe.of(recipe) for recipe in texts}
    date, task = now(), shape.task()
    plan = [_Training(parsed[text], f"{text} {mode}", mode == "compiled") for mode in modes for text in parsed]
    for number, training in enumerate(plan):
        for part in _run(training, task, device, shape, steps, seed):
            progress((number + part) / len(plan))
    return record_here(
        "train",
        (series for training in plan for series in _series(training, shape, device)),
        date=date,
        seed=seed,
        command=command,
        parameters={
            "device": str(device),
            **vars(shape),
            "parameters": shape.parameters,
            "steps": steps,
            "warm-up steps": _WARM_UP,
            "threads": torch.get_num_threads(),
            **{training.name: training.note for training in plan if training.note},
        },
    )


def _default_recipes(device: torch.device) -> Sequence[str]:
    if device.type == "cuda":
        return TRAINING_RECIPES
    return [text for text in TRAINING_RECIPES if "fp16" not in text and text != "tf32"]


def _run(
    training: _Training, task: Task, device: torch.device, shape: GPTShape, steps: int, seed: int
) -> Iterator[float]:
    """Takes and measures the steps of one training, and yields the completed fraction after each."""
    try:
        with _freed(device):
            trainer = Trainer(task, training.recipe, seed=seed, device=device, native=True)
            if training.compiled:
                trainer.model.compile(options=vector_options())
            for step in range(_WARM_UP + steps):
                started_s = clock_s(device)
                record = next(trainer.steps(1))
                seconds = clock_s(device) - started_s
                if step >= _WARM_UP:
                    training.tokens_per_s.append(shape.tokens / seconds)
                training.losses.append(record.loss)
                yield (step + 1) / (_WARM_UP + steps)
            training.peak_bytes = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    except torch.cuda.OutOfMemoryError:
        training.note = "out of memory"
    except torch._dynamo.exc.BackendCompilerFailed:
        training.note = "torch.compile does not work here"
    diverged = next((step for step, loss in enumerate(training.losses) if not math.isfinite(loss)), None)
    if diverged is not None:
        training.note = f"diverged: the loss is not finite from step {diverged} on"
        del training.losses[diverged:]


def _series(training: _Training, shape: GPTShape, device: torch.device) -> Iterator[Series]:
    if training.tokens_per_s:
        yield Series(f"{training.name}, tokens/s", "tokens/s", tuple(training.tokens_per_s))
        peak = peak_flops(device, training.recipe.compute.name)
        if peak:
            used = tuple(rate * shape.flops_per_token / peak for rate in training.tokens_per_s)
            yield Series(f"{training.name}, MFU", "1", used)
    if training.peak_bytes:
        yield Series(f"{training.name}, peak memory", "bytes", (float(training.peak_bytes),))
    if training.losses:
        yield Series(f"{training.name}, loss", "nats", tuple(training.losses))


def peak_flops(device: torch.device, fmt: str) -> float | None:
    """Returns the device's peak in FLOP/s for products in a format, from `mixlab.memory.GPUS`.

    Args:
        device: A device of this machine.
        fmt: Name of the format, such as "bf16".

    Returns:
        None for a CPU, a GPU that `GPUS` does not have, or a format that it does not multiply.
    """
    if device.type != "cuda":
        return None
    known = named_by_driver(torch.cuda.get_device_name(device))
    return known[0].peak_flops.get(fmt) if known else None


@contextmanager
def _freed(device: torch.device) -> Iterator[None]:
    """Begins and ends with nothing allocated on the device and nothing compiled, and disables AOTAutograd's cache.

    Up to torch 2.11 at least, the key of that cache lacks autocast's dtype: after amp-fp16, amp-bf16 would compute in
    fp16, and without a loss scale.
    """
    _forget(device)
    try:
        with torch._functorch.config.patch(enable_autograd_cache=False):
            yield
    finally:
        _forget(device)


def _forget(device: torch.device) -> None:
    torch._dynamo.reset()
    free(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
