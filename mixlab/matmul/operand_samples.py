"""Operands of long dot products: random ones, and real weights, activations and gradients of a small GPT.

A forward product sums over a layer's width, so its K is fixed by the model. The weight gradient of a linear layer,
dW = dY^T X, sums over all tokens of a batch, so its K grows with the batch: that is the long dot product of training.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mixlab.arguments import LARGEST_SEED, did_you_mean, require_whole
from mixlab.training import Trainer, load_task

OPERAND_SAMPLES: tuple[str, ...] = ("normal", "positive", "activations", "weight-gradient")

_LAYER = "blocks.1.contract"  # 512 features in, 128 out


@dataclass(frozen=True, eq=False)
class OperandSample:
    """Operands of several dot products of the same length.

    Attributes:
        name: One of `OPERAND_SAMPLES`.
        what: What they are, in words.
        x: The left operands, (rows, K) float32.
        y: The right operands, (rows, K) float32.
    """

    name: str
    what: str
    x: Tensor
    y: Tensor


def operand_sample(name: str, *, length: int = 4096, rows: int = 64, seed: int = 0, steps: int = 0) -> OperandSample:
    """Returns operands of dot products, random or out of a real training.

    Args:
        name: "normal": both standard normal. "positive": both uniform in (0, 1], so that sums only grow. "activations":
            a forward product of the task chars-gpt, activations times weights, both of a layer that is 512 wide.
            "weight-gradient": the gradient of that layer's weights, activations times gradients of the outputs, over
            `length` tokens of text. The gradients have the size that they have in the task's batches of 1,024 tokens.
        length: K, from 1 up. At most 512 for "activations". For "weight-gradient" a forward and a backward pass is run
            for every 1,024 tokens.
        rows: How many dot products, from 1 up; a random choice, with replacement, of all that the product has.
        seed: Seed of the random numbers, of the model and of its batches, from 0 up.
        steps: How many steps the model is first trained in fp32, from 0 up; 0 leaves it as initialised.

    Raises:
        ValueError: If the name is unknown, or a number is not such a whole number.

    >>> sample = operand_sample("positive", length=100, rows=2)
    >>> tuple(sample.x.shape), bool((sample.x > 0).all())
    ((2, 100), True)
    """
    if not isinstance(name, str) or name not in OPERAND_SAMPLES:
        near = did_you_mean(name, OPERAND_SAMPLES)
        raise ValueError(f"unknown operands {name!r:.60}: {near}use one of {', '.join(OPERAND_SAMPLES)}")
    require_whole("operand_sample: length", length, 1, 512 if name == "activations" else None)
    require_whole("operand_sample: rows", rows, 1)
    require_whole("operand_sample: seed", seed, 0, LARGEST_SEED)
    require_whole("operand_sample: steps", steps, 0)
    generator = torch.Generator().manual_seed(seed)
    if name == "normal":
        return OperandSample(name, "standard normal", *torch.randn(2, rows, length, generator=generator))
    if name == "positive":
        return OperandSample(name, "uniform in (0, 1]", *(1 - torch.rand(2, rows, length, generator=generator)))
    trainer = Trainer(load_task("chars-gpt"), "fp32", seed=seed, device="cpu")
    for _ in trainer.steps(steps):
        pass
    trained = "trained for one step" if steps == 1 else f"trained for {steps} steps"
    state = f"chars-gpt, {_LAYER}, {trained if steps else 'as initialised'}"
    if name == "activations":
        inputs, _ = _tokens(trainer, steps, 1)
        weight = trainer.model.get_submodule(_LAYER).get_parameter("weight").detach()  # (128, 512)
        x = inputs[_choice(len(inputs), rows, generator), :length]
        y = weight[_choice(len(weight), rows, generator), :length]
        return OperandSample(name, f"activations and weights of {state}", x, y)
    inputs, gradients = _tokens(trainer, steps, length)
    x = inputs[:length, _choice(inputs.shape[1], rows, generator)].T.contiguous()
    y = gradients[:length, _choice(gradients.shape[1], rows, generator)].T.contiguous()
    return OperandSample(name, f"activations and output gradients of {state}, over {length:,} tokens", x, y)


def _choice(count: int, rows: int, generator: torch.Generator) -> Tensor:
    return torch.randint(count, (rows,), generator=generator)


def _tokens(trainer: Trainer, first_step: int, least: int) -> tuple[Tensor, Tensor]:
    """Returns the layer's inputs (T, 512) and its outputs' gradients (T, 128); T is `least` or more."""
    layer = trainer.model.get_submodule(_LAYER)
    seen: list[tuple[Tensor, Tensor]] = []

    def keep(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append((inputs[0], output))

    pieces: list[tuple[Tensor, Tensor]] = []
    handle = layer.register_forward_hook(keep)
    try:
        while sum(len(piece) for piece, _ in pieces) < least:
            batch = trainer.task.batch(trainer.seed, first_step + len(pieces))
            loss, _ = trainer.task.loss_and_metric(trainer.model, batch)
            inputs, output = seen.pop()
            (gradient,) = torch.autograd.grad(loss, output)
            pieces.append((inputs.detach().flatten(0, -2), gradient.flatten(0, -2)))
    finally:
        handle.remove()
    return torch.cat([inputs for inputs, _ in pieces]), torch.cat([gradients for _, gradients in pieces])
