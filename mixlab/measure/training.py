"""Measures training on this machine: tokens a second, memory, use of the peak, and the loss, recipe by recipe."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from mixlab.formats._compile import vector_options
from mixlab.machine import usable_device
from mixlab.measure.record import Record, Series, now, this_machine
from mixlab.memory.gpus import named_by_driver
from mixlab.recipes import Recipe
from mixlab.training import Task, TinyGPT, Trainer
from mixlab.training.tasks import text_batches

RECIPES = ("fp32", "tf32", "amp-fp16", "amp-bf16", "fp16", "bf16")
_WARM_UP = 3  # steps that are not counted


@dataclass(frozen=True)
class GPTShape:
    """A GPT's shape. The default is that of GPT-2 small, with the vocabulary rounded up to a multiple of 128.

    Attributes:
        width, layers, heads, vocabulary: Of the model; heads must divide width.
        context, batch: Tokens a row, and rows a step.
    """

    width: int = 768
    layers: int = 12
    heads: int = 12
    vocabulary: int = 50304
    context: int = 1024
    batch: int = 8

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if type(value) is not int or value < 1:
                raise ValueError(f"GPTShape: {name} must be a whole number from 1 up, got {value!r}")
        if self.width % self.heads:
            raise ValueError(f"GPTShape: heads must divide width, got {self.heads} heads and a width of {self.width}")
        if self.vocabulary < 128:
            raise ValueError(f"GPTShape: vocabulary must hold the 128 ASCII codes, got {self.vocabulary}")

    @property
    def tokens(self) -> int:
        """Of one step."""
        return self.batch * self.context

    @property
    def parameters(self) -> int:
        """Of the model, whose head shares the token embedding's weights."""
        block = 12 * self.width**2 + 13 * self.width
        return (self.vocabulary + self.context + 2) * self.width + self.layers * block

    @property
    def flops_per_token(self) -> float:
        """Of forward and backward: 6 a parameter, and 12 * layers * width * context for attention.

        Chowdhery et al., PaLM: Scaling Language Modeling with Pathways, 2022, appendix B. The position embedding is not
        multiplied with anything and counts all the same: under 1 %.
        """
        return 6.0 * self.parameters + 12.0 * self.layers * self.width * self.context

    def task(self) -> Task:
        """Returns the training: next characters of Python's manual, AdamW."""

        def model() -> nn.Module:
            gpt = TinyGPT(
                vocabulary=self.vocabulary,
                context=self.context,
                width=self.width,
                heads=self.heads,
                layers=self.layers,
            )
            nn.init.normal_(gpt.token.weight, std=0.02)
            gpt.head.weight = gpt.token.weight
            return gpt

        draw, held_out = text_batches(batch=self.batch, context=self.context)
        return Task(f"gpt-{self.parameters / 1e6:.0f}M", model, draw, held_out, optimizer="adamw", lr=3e-4)


SMALL = GPTShape(width=256, layers=4, heads=4, vocabulary=4096, context=128, batch=8)  # minutes on two CPU cores


@dataclass
class _Case:
    """One recipe, eager or compiled, while it is measured."""

    name: str
    tokens_per_s: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    note: str = ""


def measure_train(
    device: torch.device | str = "cpu",
    *,
    shape: GPTShape | None = None,
    recipes: Sequence[str] | None = None,
    modes: Sequence[str] = ("eager", "compiled"),
    steps: int = 20,
    seed: int = 0,
    command: str = "measure_train",
    progress: Callable[[float], None] = lambda _part: None,
) -> Record:
    """Trains a GPT under each recipe, one after the other, and records every step.

    Arithmetic is the machine's own (`Trainer(..., native=True)`): on a CPU nothing is emulated. A case that runs out of
    memory, does not compile here, or diverges, is named in the record's parameters; the others go on.

    Args:
        device: Where.
        shape: Of model and batch; None takes GPT-2 small on CUDA, and a small one elsewhere.
        recipes: As text; None takes `RECIPES`, without fp16 on a CPU, which multiplies fp16 some hundred times slower.
        modes: "eager" and "compiled", or one of them.
        steps: Counted ones; three more come before them.
        seed: Of weights and batches.
        command: What the record shall say was typed.
        progress: Called with the part done, from 0 to 1.

    Raises:
        ValueError: An unknown recipe, mode or device, or a number out of range.
    """
    device = usable_device(device)
    on_cuda = device.type == "cuda"
    shape = shape or (GPTShape() if on_cuda else SMALL)
    if recipes is None:
        recipes = RECIPES if on_cuda else tuple(name for name in RECIPES if "fp16" not in name and name != "tf32")
    parsed = {name: Recipe.parse(name) for name in recipes}
    unknown = [mode for mode in modes if mode not in ("eager", "compiled")]
    if unknown or not modes or not parsed:
        raise ValueError(f"measure_train: modes must be eager, compiled or both, and recipes not empty; got {modes!r}")
    if type(steps) is not int or steps < 1:
        raise ValueError(f"measure_train: steps must be a whole number from 1 up, got {steps!r}")
    date, task = now(), shape.task()
    plan = [(name, mode) for mode in modes for name in parsed]
    cases = []
    for number, (name, mode) in enumerate(plan):
        case = _Case(f"{name} {mode}")
        cases.append(case)
        for part in _run(case, task, parsed[name], mode, device, shape, steps, seed):
            progress((number + part) / len(plan))
    notes = {case.name: case.note for case in cases if case.note}
    return Record(
        kind="train",
        machine=this_machine(),
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
            **notes,
        },
        series=tuple(series for case in cases for series in _series(case, parsed, shape, device)),
    )


def _run(
    case: _Case, task: Task, recipe: Recipe, mode: str, device: torch.device, shape: GPTShape, steps: int, seed: int
) -> Iterator[float]:
    """Measures one case into `case`, and yields the part done after each step."""
    try:
        with _freed(device):
            trainer = Trainer(task, recipe, seed=seed, device=device, native=True)
            if mode == "compiled":
                trainer.model.compile(options=vector_options())
            for step in range(_WARM_UP + steps):
                started_s = _clock(device)
                record = next(trainer.steps(1))
                seconds = _clock(device) - started_s
                if step >= _WARM_UP:
                    case.tokens_per_s.append(shape.tokens / seconds)
                case.losses.append(record.loss)
                yield (step + 1) / (_WARM_UP + steps)
            case.peak_bytes = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    except torch.cuda.OutOfMemoryError:
        case.note = "out of memory"
    except torch._dynamo.exc.BackendCompilerFailed:
        case.note = "torch.compile does not work here"
    diverged = next((step for step, loss in enumerate(case.losses) if not math.isfinite(loss)), None)
    if diverged is not None:
        case.note = f"diverged: the loss is not finite from step {diverged} on"
        del case.losses[diverged:]


def _series(case: _Case, recipes: dict[str, Recipe], shape: GPTShape, device: torch.device) -> Iterator[Series]:
    if case.tokens_per_s:
        yield Series(f"{case.name}, tokens/s", "tokens/s", tuple(case.tokens_per_s))
        peak = peak_flops(device, recipes[case.name.rpartition(" ")[0]].compute.name)
        if peak:
            used = tuple(rate * shape.flops_per_token / peak for rate in case.tokens_per_s)
            yield Series(f"{case.name}, MFU", "1", used)
    if case.peak_bytes:
        yield Series(f"{case.name}, peak memory", "bytes", (float(case.peak_bytes),))
    if case.losses:
        yield Series(f"{case.name}, loss", "nats", tuple(case.losses))


def peak_flops(device: torch.device, fmt: str) -> float | None:
    """Returns the device's peak in FLOP/s for products in a format, as in `mixlab.memory.GPUS`; None if unknown."""
    if device.type != "cuda":
        return None
    known = named_by_driver(torch.cuda.get_device_name(device))
    return known[0].peak_flops.get(fmt) if known else None


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@contextmanager
def _freed(device: torch.device) -> Iterator[None]:
    """Begins and ends with nothing allocated on the device and nothing compiled, nor taken from another recipe's cache.

    The key of AOTAutograd's cache lacks autocast's dtype up to torch 2.11 at least: after amp-fp16, amp-bf16 would
    compute in fp16, and without a loss scale.
    """
    _free(device)
    try:
        with torch._functorch.config.patch(enable_autograd_cache=False):
            yield
    finally:
        _free(device)


def _free(device: torch.device) -> None:
    torch._dynamo.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
