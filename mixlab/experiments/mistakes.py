"""Common mistakes in mixed-precision training: each is made once and avoided once, and the difference is measured.

Every function takes at most a few seconds on a CPU, which emulates a GPU, and returns a `Mistake`: the result with the
mistake, and the result with its remedy.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from html import escape

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixlab import emulation
from mixlab.batches import Batch, loss_on
from mixlab.loss_scaling import DynamicScaler, TorchPolicy
from mixlab.process import RandomStream
from mixlab.training import Trainer, load_task


@dataclass(frozen=True)
class Mistake:
    """One mistake and its remedy, measured. Its repr and its HTML are a small table.

    Attributes:
        question: The situation in which it is made.
        measure: What the two numbers measure, and their unit.
        mistake, remedy: What was done, in words.
        mistaken, remedied: The resulting numbers.
        why: What goes wrong, in one sentence.
    """

    question: str
    measure: str
    mistake: str
    mistaken: float
    remedy: str
    remedied: float
    why: str

    def __repr__(self) -> str:
        rows = [(f"with the mistake, {self.mistake}", self.mistaken), (f"fixed, {self.remedy}", self.remedied)]
        width = max(len(words) for words, _ in rows)
        lines = (f"  {words.ljust(width)}  {_number(value)}" for words, value in rows)
        return "\n".join([f"{self.question} ({self.measure})", *lines, f"  {self.why}"])

    def _repr_html_(self) -> str:
        rows = [("✗ mistake", self.mistake, self.mistaken), ("✓ remedy", self.remedy, self.remedied)]
        body = "".join(
            f"<tr><th>{mark}</th><td style='text-align: left'>{escape(words)}</td><td>{_number(value)}</td></tr>"
            for mark, words, value in rows
        )
        caption = f'<caption style="text-align: left"><b>{escape(self.question)}</b></caption>'
        columns = ("", "what is done", self.measure)
        head = "".join(f"<th style='text-align: left'>{escape(name)}</th>" if name else "<td></td>" for name in columns)
        table = f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return f"{table}<p>{escape(self.why)}</p>"


def clip_before_unscale(*, seed: int = 0) -> Mistake:
    """Clips gradients while the loss scale is still in them.

    The limit of 1 then applies to the scaled gradients; once they are divided by 65536, almost nothing is left
    (pytorch/examples#1196). Call `scaler.unscale_(optimizer)` before clipping.

    Args:
        seed: Seed of weights and batches.
    """

    def loss_after(clip_first: bool) -> float:
        trainer = _digits("amp-fp16", seed)
        losses = []
        for _ in range(60):
            loss, _ = trainer.backward()
            if clip_first:
                nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
            trainer.unscale()
            if not clip_first:
                nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
            trainer.update()
            losses.append(float(loss))
        return sum(losses[-10:]) / 10

    return Mistake(
        "Clipping the gradient norm at 1",
        "training loss after 60 steps",
        "clip, then unscale",
        loss_after(clip_first=True),
        "unscale, then clip",
        loss_after(clip_first=False),
        "The limit of 1 met gradients that still held the scale of 65536; divided by it, they move next to nothing.",
    )


def loss_in_16_bits(*, seed: int = 0) -> Mistake:
    """Computes a loss over many terms in fp16.

    The sum over a batch of tokens exceeds 65504, the largest fp16 number. No loss scale helps, because the loss is inf
    before it is scaled. That is why autocast computes losses in float32. If you cast logits by hand, cast them up.

    Args:
        seed: Seed of logits and targets.
    """
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2**15, 10, generator=generator) * 0.1  # like an untrained model's
    targets = torch.randint(10, (2**15,), generator=generator)
    return Mistake(
        "The cross-entropy of 32,768 tokens, summed",
        "loss, nats",
        "on fp16 logits, in fp16",
        float(F.cross_entropy(logits.half(), targets, reduction="sum")),
        "on fp16 logits, in fp32",
        float(F.cross_entropy(logits.half().float(), targets, reduction="sum")),
        "The sum passes 65504, fp16's largest number. No loss scale helps: the loss is inf before it is scaled.",
    )


def schedule_after_skip(*, seed: int = 0) -> Mistake:
    """Steps the learning-rate schedule even when the scaler skips the optimizer's step.

    While the scaler hunts for its scale, it skips the first steps. A schedule that steps anyway has decayed, or warmed
    up, before the first update (pytorch/pytorch#44511). Step the schedule only if the optimizer stepped.

    Args:
        seed: Seed of weights and batches.
    """

    def first_rate(heed_skips: bool) -> float:
        trainer = _digits("amp-fp16,scale=2^24", seed)
        schedule = torch.optim.lr_scheduler.ExponentialLR(trainer.optimizer, 0.5)
        trainer.optimizer.step()  # changes nothing without gradients; keeps torch from warning of this mistake
        for record in trainer.steps(40):
            if not record.skipped:
                return float(trainer.optimizer.param_groups[0]["lr"])
            if not heed_skips:
                schedule.step()
        raise RuntimeError("schedule_after_skip: every step was skipped")

    return Mistake(
        "A learning rate of 0.1 that halves with every step, and a scale that starts too high",
        "learning rate of the first step that is taken",
        "schedule.step() after every scaler.step()",
        first_rate(heed_skips=False),
        "schedule.step() only if the step was not skipped",
        first_rate(heed_skips=True),
        "The scaler skips steps until its scale fits; a schedule that counts them moves on before the first update.",
    )


def batch_norm_after_skip(*, seed: int = 0) -> Mistake:
    """Leaves NaN in BatchNorm's running statistics after a skipped step.

    Overflowing activations make mean and variance NaN in forward, long before the scaler looks at a gradient. The
    step is skipped, but the buffers stay NaN, and the model fails in evaluation (pytorch/pytorch#88474). Keep a copy of
    the buffers and restore it if the step was skipped.

    Args:
        seed: Seed of weights and batches.
    """

    def accuracy(restore: bool) -> float:
        with RandomStream(seed):
            model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))
        task = load_task("digits-mlp")
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        scaler = DynamicScaler()
        for step in range(60):
            inputs, targets = task.batch(seed, step)
            if step == 40:
                inputs = inputs * 1e7  # one broken batch
            buffers = [buffer.clone() for buffer in model.buffers()]
            _amp_backward(model, (inputs, targets), scaler)
            scaler.unscale_(optimizer)
            if scaler.found_inf and restore:
                for buffer, before in zip(model.buffers(), buffers, strict=True):
                    buffer.copy_(before)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        model.eval()
        with torch.no_grad():
            return float(task.loss_and_metric(model, task.held_out)[1] or 0)

    return Mistake(
        "One batch of 60 overflows in forward; its step is skipped",
        "held-out accuracy in evaluation mode",
        "BatchNorm's buffers are left as the batch made them",
        accuracy(restore=False),
        "the buffers from before the batch are put back",
        accuracy(restore=True),
        "Forward writes NaN into the running mean and variance before any gradient is checked; a skipped step leaves "
        "it there.",
    )


def adam_eps_in_fp16(*, seed: int = 0) -> Mistake:
    """Uses Adam's default eps of 1e-8, which is zero in fp16.

    With parameters in pure fp16, the squares of small gradients underflow and so does eps, and the first step divides
    by zero: inf, or NaN where the gradient is zero too (pytorch/pytorch#147437). torch's fused Adam computes in float32
    and is spared. Keep master weights and states in float32, or choose an eps of at least
    2^-14, a normal number in fp16.

    Args:
        seed: Seed of weights and batch.
    """

    def lost(eps: float) -> float:
        task = load_task("digits-cnn")
        model = task.seeded_model(seed).half()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=eps)
        inputs, targets = task.batch(seed, 0)
        with emulation.arithmetic("cpu"):
            F.cross_entropy(model(inputs.half()).float(), targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
        return float((~weights.isfinite()).float().mean())

    return Mistake(
        "One Adam step on fp16 parameters",
        "share of the weights that are NaN or inf",
        "eps = 1e-8, the default",
        lost(1e-8),
        "eps = 2⁻¹⁴",
        lost(2.0**-14),
        "fp16 rounds 1e-8 to zero. Where the squared gradient underflows too, the step divides by zero.",
    )


def resume_without_scaler_state(*, seed: int = 0) -> Mistake:
    """Resumes a training with a new scaler.

    The scale found so far is lost, and finding it again skips one step for each halving. Save and load
    `scaler.state_dict()` with the rest.

    Args:
        seed: Seed of weights and batches.
    """
    saved = _digits("amp-fp16", seed, loss_weight=2.0**12)
    for _ in saved.steps(40):
        pass

    def skipped(with_scaler: bool) -> float:
        state = copy.deepcopy(saved.state_dict())
        resumed = _digits("amp-fp16", seed, loss_weight=2.0**12)
        if not with_scaler:
            state["scaler"] = resumed.scaler.state_dict()
        resumed.load_state_dict(state)
        return float(sum(record.skipped for record in resumed.steps(20)))

    return Mistake(
        "A training resumes after 40 steps",
        "steps skipped of the next 20",
        "model and optimizer are loaded, the scaler is new",
        skipped(with_scaler=False),
        "the scaler's state is loaded too",
        skipped(with_scaler=True),
        "A new scaler starts at its first scale and has to come down again; each halving costs a step.",
    )


def accumulate_with_update(*, seed: int = 0) -> Mistake:
    """Unscales gradients after every micro-batch of an accumulation.

    The gradients of earlier micro-batches are then divided again with each later one, until all but the last vanish.
    Accumulate scaled gradients at one scale; unscale, step and update once, after the last micro-batch.

    Args:
        seed: Seed of weights and batches.
    """
    task = load_task("digits-mlp")
    batches = [task.batch(seed, step) for step in range(4)]

    def gradient(unscale_each: bool) -> Tensor:
        model = task.seeded_model(seed)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = DynamicScaler(TorchPolicy(2.0**12))
        for batch in batches:
            _amp_backward(model, batch, scaler, parts=len(batches))
            if unscale_each:
                scaler.unscale_(optimizer)
                scaler.update()
        if not unscale_each:
            scaler.unscale_(optimizer)
        return _flat_gradient(model)

    model = task.seeded_model(seed)
    inputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    F.cross_entropy(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
    exact = _flat_gradient(model)

    def error(unscale_each: bool) -> float:
        return float((gradient(unscale_each) - exact).norm() / exact.norm())

    return Mistake(
        "A gradient accumulated over 4 micro-batches, against float32 on all of them",
        "relative error of the gradient",
        "unscale_ and update after every micro-batch",
        error(unscale_each=True),
        "unscale_ and update once, after the last",
        error(unscale_each=False),
        "Each unscaling divides the gradients of the earlier micro-batches once more; next to nothing of them is left.",
    )


MISTAKES: dict[str, Callable[..., Mistake]] = {
    function.__name__: function
    for function in (
        clip_before_unscale,
        loss_in_16_bits,
        schedule_after_skip,
        batch_norm_after_skip,
        adam_eps_in_fp16,
        resume_without_scaler_state,
        accumulate_with_update,
    )
}


def _digits(recipe: str, seed: int, *, loss_weight: float = 1.0) -> Trainer:
    task = load_task("digits-mlp", loss_weight=loss_weight)
    return Trainer(task, recipe, seed=seed, device="cpu")


def _amp_backward(model: nn.Module, batch: Batch, scaler: DynamicScaler, *, parts: int = 1) -> None:
    """Runs forward and backward in fp16 as a GPU would, on one of `parts` micro-batches."""
    with emulation.arithmetic("cpu"):
        with emulation.autocast("cpu", "fp16"):
            loss = loss_on(model, batch, owner="mistakes") / parts
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]


def _flat_gradient(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"
