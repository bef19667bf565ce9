"""The training loop: a task and a recipe go in, step records come out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mixlab import emulation
from mixlab.arguments import LARGEST_SEED, require_whole
from mixlab.batches import Batch, layout, placed, require_gradient, require_gradients
from mixlab.formats import FP32, Format
from mixlab.layers import scripted_part
from mixlab.machine import usable_device
from mixlab.probes.histograms import dense, stored_values
from mixlab.probes.tracking import underflow_by_layer, unwatched
from mixlab.process import RandomStream, contained, undisturbed
from mixlab.recipes import Recipe
from mixlab.training.evaluation import evaluating
from mixlab.training.step_records import StepRecord
from mixlab.training.tasks import Task, step_seed


class Trainer:
    """Trains a task under a recipe. The same task, recipe and seed give the same weights, bit for bit, on one machine.

    >>> from mixlab.training import load_task
    >>> trainer = Trainer(load_task("digits-mlp"), "amp-fp16", device="cpu")
    >>> records = list(trainer.steps(2))
    >>> [(record.step, record.scale) for record in records], trainer.step
    ([(0, 65536.0), (1, 65536.0)], 2)

    To stop, stop iterating:

    >>> for record in trainer.steps(300):
    ...     if record.step == 9:
    ...         break
    >>> trainer.step
    10

    Batches and random numbers depend only on (seed, step). So a trainer that loads another's state continues exactly as
    the other would:

    >>> resumed = Trainer(load_task("digits-mlp"), "amp-fp16", device="cpu")
    >>> resumed.load_state_dict(trainer.state_dict())
    >>> next(resumed.steps(1)).loss == next(trainer.steps(1)).loss
    True

    Args:
        task: What to train.
        recipe: How to train, as a recipe or its text.
        seed: Seed of the initial weights, the batches and the random numbers within steps; a whole number from 0 up.
        device: Where to train; None means CUDA if available, else the CPU.
        probe_every: Measures underflow in every n-th step, which costs an extra float32 pass; 0 for never. TorchScript
            models cannot be probed, because their parameters cannot be replaced for a pass.
        native: Whether a CPU uses its own arithmetic, with its own autocast lists and slow fp16. By default, a CPU
            emulates a GPU (`mixlab.emulation`). On CUDA this has no effect.

    Attributes:
        model, optimizer, scaler: The live objects; parameters, gradients and states are stored as the recipe says.
        step: The number of the next step, counted from 0.

    Raises:
        TypeError: If `task` is not a task, or `recipe` is not a recipe.
        ValueError: If a number is out of range, the recipe or the device does not exist, or no parameter is trained.
    """

    def __init__(
        self,
        task: Task,
        recipe: Recipe | str,
        *,
        seed: int = 0,
        device: torch.device | str | None = None,
        probe_every: int = 0,
        native: bool = False,
    ) -> None:
        if not isinstance(task, Task):
            raise TypeError(f"Trainer: task must be a Task, got {task!r}; load_task(name) makes one")
        recipe = Recipe.of(recipe)
        require_whole("Trainer: seed", seed, 0, LARGEST_SEED)
        require_whole("Trainer: probe_every", probe_every, 0)
        self.task = task
        self.recipe = recipe
        self.seed = seed
        self.device = usable_device(device)
        self.probe_every = probe_every
        self.native = native
        self.model = task.seeded_model(seed).to(self.device, recipe.weights.dtype)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if not trained:
            raise ValueError(f"Trainer: no parameter of the model of task {task.name} requires a gradient")
        if recipe.gradients != recipe.weights:
            for parameter in trained:
                parameter.grad_dtype = recipe.gradients.dtype
        self._generator = torch.Generator(self.device)
        self.optimizer = task.make_optimizer(self.model, recipe, generator=self._generator)
        self.scaler = recipe.make_scaler()
        self.step = 0
        self._layout = ""  # of the batches

    def steps(self, count: int) -> Iterator[StepRecord]:
        """Takes `count` more steps and yields a record of each; to stop, stop iterating.

        Divergence is not an error: the records then hold NaN.

        Args:
            count: How many steps to take at most, in addition to those already taken.

        Raises:
            ValueError: If `count` is not a whole number from 0 up.
        """
        require_whole("Trainer.steps: count", count, 0)
        for _ in range(count):
            yield self._train_step()

    def _train_step(self) -> StepRecord:
        batch = self.next_batch()
        probing = self.probe_every > 0 and self.step % self.probe_every == 0
        references = self.reference_gradients(batch) if probing else {}
        scale = self.scaler.get_scale()

        started_s = time.perf_counter()
        loss, metric = self.backward(batch)
        gradients = self.unscale()
        grad_norm = float(_norm(gradients.values()))
        found_inf = self.scaler.found_inf
        self.update()
        return StepRecord(
            step=self.step - 1,
            loss=float(loss),
            metric=None if metric is None else float(metric),
            scale=scale,
            found_inf=found_inf or not math.isfinite(grad_norm),
            skipped=found_inf and self.scaler.skips,
            grad_norm=grad_norm,
            seconds=time.perf_counter() - started_s,
            underflow=underflow_by_layer(gradients, references),
            metric_name="" if metric is None else self.task.metric_name,
        )

    @contained
    def backward(self, batch: Batch | None = None) -> tuple[Tensor, Tensor | None]:
        """Runs forward and backward in the recipe's arithmetic. Call `unscale` and `update` next.

        The gradients are left in the parameters' `.grad`, still scaled.

        Args:
            batch: The batch; None for the next step's.

        Returns:
            (loss, metric), both 0-dim; the loss is without loss weight or loss scale. The metric is None if the task
            has none.

        Raises:
            BatchError: If model, batch and loss do not fit together, or the loss depends on no trained parameter; it is
                a TypeError and a ValueError.
        """
        with undisturbed(), self._random_numbers("forward"), self._arithmetic(self.recipe.compute):
            with self._autocast():
                loss, metric = self.task.loss_and_metric(self.model, self.next_batch() if batch is None else batch)
            require_gradient(f"Trainer: task {self.task.name}", loss)
            weighted = loss if self.task.loss_weight == 1 else loss * self.task.loss_weight
            self.scaler.scale(weighted).backward()  # type: ignore[no-untyped-call]
        require_gradients(f"Trainer: task {self.task.name}", self.model.parameters())
        return loss.detach(), metric

    def unscale(self) -> dict[str, Tensor]:
        """Divides the gradients from `backward` by the loss scale, and returns them by parameter name."""
        # torch's scaler refuses fp16 gradients, but a reader may want to watch what pure fp16 does with a scaler.
        self.scaler.unscale_(self.optimizer, allow_fp16=True)
        return {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}

    def update(self) -> None:
        """Takes or skips the optimizer's step on the unscaled gradients, updates the loss scale, clears gradients."""
        self._generator.manual_seed(step_seed(self.seed, self.step, "update"))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.step += 1

    @contained
    def held_out(self) -> tuple[float, float | None]:
        """Returns (loss, metric) on the task's held-out batch, in evaluation mode and the recipe's arithmetic.

        The training is not affected: modes, buffers and random numbers are restored. The metric is None if the task has
        none.
        """
        with (
            torch.no_grad(),
            unwatched(),
            evaluating(self.model),
            undisturbed(),
            self._random_numbers("held_out"),
            self._arithmetic(self.recipe.compute),
            self._autocast(),
        ):
            loss, metric = self.task.loss_and_metric(self.model, self._placed(self.task.held_out))
        return float(loss), None if metric is None else float(metric)

    @contained
    def reference_gradients(self, batch: Batch | None = None) -> dict[str, Tensor]:
        """Returns the gradients that float32 arithmetic gives at the current weights, by parameter name.

        Frozen parameters, and those without a gradient, are left out. Sparse gradients are returned dense.

        Args:
            batch: The batch; None for the next step's. Floating tensors that the model is given become float32.

        Raises:
            TypeError: If part of the model is TorchScript.
            BatchError: As for `backward`.
        """
        if scripted := scripted_part(self.model):
            raise TypeError(
                f"reference_gradients: {scripted}, so its parameters cannot be replaced for a float32 pass; make "
                "the model without torch.jit, or do not probe it"
            )
        parameters = {
            name: p.detach().float().requires_grad_(p.requires_grad) for name, p in self.model.named_parameters()
        }
        buffers = {name: (b.float() if b.is_floating_point() else b).clone() for name, b in self.model.named_buffers()}
        exact = placed(self.next_batch() if batch is None else batch, self.device, torch.float32)

        def run(model: nn.Module) -> None:
            with undisturbed(), self._random_numbers("forward"), self._arithmetic(FP32):
                loss, _ = self.task.loss_and_metric(model, exact)
                require_gradient(f"Trainer: task {self.task.name}", loss)
                (loss * self.task.loss_weight).backward()  # type: ignore[no-untyped-call]

        replaced = {f"model.{name}": tensor for name, tensor in (*parameters.items(), *buffers.items())}
        with unwatched():
            functional_call(_Applied(self.model), replaced, (run,))
        return {name: dense(p.grad) for name, p in parameters.items() if p.grad is not None}

    def state_dict(self) -> dict[str, Any]:
        """Returns everything that determines later steps. Its tensors are the live ones, not copies."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Loads the state of a trainer with the same task and recipe, to continue from it.

        Args:
            state: From `state_dict`.
        """
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]

    def next_batch(self) -> Any:
        """Returns the next step's batch, on the trainer's device; what the model is given is in the weights' format.

        Raises:
            TypeError, ValueError: If the task draws no batch, or one with other parts than before.
        """
        batch = self.task.batch(self.seed, self.step)
        parts = layout(batch)
        self._layout = self._layout or parts
        if parts != self._layout:
            raise ValueError(
                f"Trainer: draw of task {self.task.name} must return batches with the same parts in every step; got "
                f"{parts} in step {self.step}, and {self._layout} before"
            )
        return self._placed(batch)

    def _placed(self, batch: Batch) -> Batch:
        return placed(batch, self.device, self.recipe.weights.dtype)

    def _autocast(self) -> AbstractContextManager[object]:
        compute = self.recipe.compute if self.recipe.autocast else FP32
        if self.native and self.recipe.autocast:
            return torch.autocast(self.device.type, dtype=compute.dtype)
        return emulation.autocast(self.device, compute)

    def _arithmetic(self, compute: Format) -> AbstractContextManager[object]:
        if self.native and self.device.type == "cpu":
            return nullcontext()
        return emulation.arithmetic(self.device, compute)

    def _random_numbers(self, purpose: str) -> RandomStream:
        """Returns a context with this step's random numbers for one purpose, such as "forward" for dropout."""
        devices = [self.device] if self.device.type == "cuda" else []
        return RandomStream(step_seed(self.seed, self.step, purpose), devices=devices)


class _Applied(nn.Module):
    """A module whose forward calls a function with the model, so that `functional_call` replaces parameters throughout.

    That includes the backward pass, where checkpoints run forward again.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[nn.Module], None]) -> None:
        function(self.model)


def _norm(gradients: Iterable[Tensor]) -> Tensor:
    """Returns the norm of all gradients together, computed in float32 whatever their dtype."""
    norms = torch._foreach_norm([stored_values(gradient) for gradient in gradients], 2, dtype=torch.float32)
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return total
