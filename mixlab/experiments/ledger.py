"""The dtype ledger: every tensor that a training keeps, with its format and its bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mixlab.formats import dtype_name
from mixlab.layers import storage_address
from mixlab.optimizers import STATE_NAMES, state_tensors
from mixlab.probes.tracking import in_backward
from mixlab.recipes import Recipe
from mixlab.tables import html_table, text_table
from mixlab.training import Task, Trainer

_COLUMNS = ("what", "format", "elements", "bytes", "bytes/parameter")
_MOST_STEPS = 61  # a scaler may skip all but the last of them to find its scale
_PASSING = ("weights cast by autocast", "activations saved for backward")


@dataclass(frozen=True)
class Entry:
    """One kind of tensor in one format.

    Attributes:
        what: The kind, e.g. "gradients".
        format: The format's name.
        numel: How many elements there are.
        bytes: The bytes they take.
    """

    what: str
    format: str
    numel: int
    bytes: int


@dataclass(frozen=True)
class Ledger:
    """The tensors that a training keeps. Its repr and its HTML are a table.

    Attributes:
        recipe: The recipe's text.
        task: The task's name.
        numel: The number of the model's parameters.
        entries: Weights, gradients and optimizer states as the optimizer steps, then what backward keeps until it is
            used.
        stepped: Whether the optimizer took a step. If the scaler skipped all of the first 61, it has no states yet.
    """

    recipe: str
    task: str
    numel: int
    entries: tuple[Entry, ...]
    stepped: bool = True

    @property
    def states(self) -> tuple[Entry, ...]:
        """The entries of parameters, gradients and optimizer states."""
        return tuple(entry for entry in self.entries if entry.what not in _PASSING)

    @property
    def bytes_per_parameter(self) -> float:
        """Bytes of the states per parameter, without activations and casts."""
        return sum(entry.bytes for entry in self.states) / self.numel

    @property
    def bytes(self) -> int:
        """Bytes of all entries, as if all were alive at once."""
        return sum(entry.bytes for entry in self.entries)

    def format_of(self, what: str) -> str:
        """Returns the format or formats of one kind of tensor, or "" if there is no such tensor.

        Args:
            what: The kind, as in `Entry.what`.
        """
        return ", ".join(entry.format for entry in self.entries if entry.what == what)

    def bytes_of(self, what: str) -> int:
        """Returns the bytes of one kind of tensor, or 0 if there is no such tensor.

        Args:
            what: The kind, as in `Entry.what`.
        """
        return sum(entry.bytes for entry in self.entries if entry.what == what)

    def __repr__(self) -> str:
        return f"{self._title()}\n{text_table(_COLUMNS, self._rows())}"

    def _repr_html_(self) -> str:
        return html_table(_COLUMNS, self._rows(), caption=self._title())

    def _title(self) -> str:
        words = f"{self.recipe} on {self.task}: {self.numel:,} parameters, {self.bytes_per_parameter:.4g} bytes each"
        return words if self.stepped else f"{words}; all {_MOST_STEPS} steps were skipped: no optimizer states yet"

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (entry.what, entry.format, f"{entry.numel:,}", f"{entry.bytes:,}", f"{entry.bytes / self.numel:.3g}")
            for entry in self.entries
        ]


def dtype_ledger(
    task: Task,
    recipe: Recipe | str,
    *,
    seed: int = 0,
    device: torch.device | str | None = None,
    native: bool = False,
) -> Ledger:
    """Trains one step, runs another forward and backward, and lists every tensor kept, in the format it is stored in.

    Activations are the tensors that autograd saves for backward. Each storage counts once; tensors that a checkpoint
    recomputes in backward do not count. A GPU's libraries may save different tensors than a CPU's. Sparse gradients
    count as stored: values and indices. Tensors consumed at once, and library workspaces, are not counted.

    A scaler may skip some steps before the optimizer takes its first. If it skips 61, the ledger is that of an
    optimizer without states, and says so.

    >>> from mixlab import load_task
    >>> ledger = dtype_ledger(load_task("digits-mlp"), "lean-bf16")
    >>> ledger.format_of("gradients"), ledger.bytes_per_parameter
    ('bf16', 8.0)

    Args:
        task: What to train.
        recipe: The recipe to train under, or its text.
        seed, device, native: As for `Trainer`.
    """
    recipe = Recipe.of(recipe)
    trainer = Trainer(task, recipe, seed=seed, device=device, native=native)
    stepped = any(not record.skipped for record in trainer.steps(_MOST_STEPS))  # the first step creates the states
    parameters = list(trainer.model.parameters())
    saved = _Saved(parameters)
    with saved, torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor):
        trainer.backward()
    counts = [(what, _count((t.dtype, t.numel()) for t in kept)) for what, kept in _states(trainer).items()]
    entries = [_entry(what, dtype, n) for what, count in [*counts, *saved.counts()] for dtype, n in count.items()]
    return Ledger(str(recipe), task.name, sum(p.numel() for p in parameters), tuple(entries), stepped)


def _states(trainer: Trainer) -> dict[str, list[Tensor]]:
    """Returns weights, gradients and optimizer states, as the optimizer steps, by kind."""
    parameters = list(trainer.model.parameters())
    tensors: dict[str, list[Tensor]] = {"parameters": [*parameters], "master weights": [], "gradients": []}
    for gradient in (parameter.grad for parameter in parameters if parameter.grad is not None):
        values, *indices = _stored(gradient)
        tensors["gradients"].append(values)
        if indices:
            tensors.setdefault("indices of sparse gradients", []).extend(indices)
    for name, state in state_tensors(trainer.optimizer):
        tensors.setdefault(STATE_NAMES.get(name, name), []).append(state)
    return tensors


def _count(sizes: Iterable[tuple[torch.dtype, int]]) -> Counter[torch.dtype]:
    count: Counter[torch.dtype] = Counter()
    for dtype, numel in sizes:
        count[dtype] += numel
    return count


def _entry(what: str, dtype: torch.dtype, numel: int) -> Entry:
    name = "dynamic8" if dtype is torch.uint8 and what != "parameters" else dtype_name(dtype)
    return Entry(what, name, numel, numel * dtype.itemsize)


class _Saved(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Collects the tensors that autograd saves, and separates casts of parameters from activations.

    Keeps every tensor it sees alive, so that no address is reused.
    """

    def __init__(self, parameters: list[torch.nn.Parameter]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._parameters = {storage_address(parameter) for parameter in parameters}
        self._casts: dict[int, Tensor] = {}
        self._saved: dict[int, Tensor] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and self._is_parameter(args[0]):
            self._casts[storage_address(result)] = result
        return result

    def pack(self, tensor: Tensor) -> Tensor:
        recomputed = in_backward()  # by a checkpoint
        if not recomputed and tensor.is_floating_point() and not self._is_parameter(tensor):
            for stored in _stored(tensor):
                self._saved.setdefault(storage_address(stored), stored)
        return tensor

    def _is_parameter(self, tensor: Tensor) -> bool:
        return tensor.layout is torch.strided and storage_address(tensor) in self._parameters

    def counts(self) -> list[tuple[str, Counter[torch.dtype]]]:
        """Returns the elements of casts and of activations by dtype; a view counts its whole storage."""
        casts = [tensor for address, tensor in self._saved.items() if address in self._casts]
        activations = [tensor for address, tensor in self._saved.items() if address not in self._casts]
        sizes = [
            [(t.dtype, t.untyped_storage().nbytes() // t.dtype.itemsize) for t in kept] for kept in (casts, activations)
        ]
        return [(what, _count(kept)) for what, kept in zip(_PASSING, sizes, strict=True)]


def _stored(tensor: Tensor) -> tuple[Tensor, ...]:
    """Returns a dense tensor itself, or the values and indices that a sparse one stores."""
    if tensor.layout is torch.strided:
        return (tensor,)
    if tensor.layout is torch.sparse_coo:
        return (tensor._values(), tensor._indices())
    rows = tensor.layout in (torch.sparse_csr, torch.sparse_bsr)
    indices = (tensor.crow_indices(), tensor.col_indices()) if rows else (tensor.ccol_indices(), tensor.row_indices())
    return (tensor.values(), *indices)
