"""The dtype ledger: what a training really keeps, in which format, and how many bytes that is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mixlab.formats import dtype_name
from mixlab.optimizers import STATE_NAMES, state_tensors
from mixlab.recipes import Recipe
from mixlab.tables import html_table, text_table
from mixlab.training import Task, Trainer

_COLUMNS = ("what", "format", "elements", "bytes", "bytes/parameter")
_MOST_SKIPPED = 60  # steps that a scaler may need to find a scale, before there are states to look at
_PASSING = ("weights cast by autocast", "activations saved for backward")


@dataclass(frozen=True)
class Entry:
    """One kind of tensor in one format: how many elements, and their bytes."""

    what: str
    format: str
    numel: int
    bytes: int


@dataclass(frozen=True)
class Ledger:
    """What a training keeps. Its repr and its HTML are a table.

    Attributes:
        recipe: As text.
        task: Its name.
        numel: Parameters of the model.
        entries: The model's states first, which live from step to step; then what lives until backward has used it.
    """

    recipe: str
    task: str
    numel: int
    entries: tuple[Entry, ...]

    @property
    def states(self) -> tuple[Entry, ...]:
        """Parameters, gradients and what the optimizer keeps."""
        return tuple(entry for entry in self.entries if entry.what not in _PASSING)

    @property
    def bytes_per_parameter(self) -> float:
        """Of the states, without activations and casts."""
        return sum(entry.bytes for entry in self.states) / self.numel

    @property
    def bytes(self) -> int:
        """Of everything, as if all of it lived at once."""
        return sum(entry.bytes for entry in self.entries)

    def format_of(self, what: str) -> str:
        """Returns the format or formats of one kind of tensor, "" if there is none."""
        return ", ".join(entry.format for entry in self.entries if entry.what == what)

    def bytes_of(self, what: str) -> int:
        return sum(entry.bytes for entry in self.entries if entry.what == what)

    def __repr__(self) -> str:
        return f"{self._title()}\n{text_table(_COLUMNS, self._rows())}"

    def _repr_html_(self) -> str:
        return html_table(_COLUMNS, self._rows(), caption=self._title())

    def _title(self) -> str:
        return f"{self.recipe} on {self.task}: {self.numel:,} parameters, {self.bytes_per_parameter:.4g} bytes each"

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (entry.what, entry.format, f"{entry.numel:,}", f"{entry.bytes:,}", f"{entry.bytes / self.numel:.3g}")
            for entry in self.entries
        ]


def dtype_ledger(
    task: Task, recipe: Recipe, *, seed: int = 0, device: torch.device | str | None = None, native: bool = False
) -> Ledger:
    """Trains one step, runs one more forward and backward, and lists every tensor that is kept, as it is.

    Activations are what autograd saves for backward, each storage once, without what checkpoints compute again then; a
    GPU's libraries may save other tensors than a CPU's. Sparse gradients count as they are stored, values and indices.
    What is passed on at once, and the libraries' workspaces, are not in it.

    Args:
        task, recipe, seed, device, native: As for `Trainer`.

    Raises:
        RuntimeError: The scaler skipped every step, so that the optimizer has no states.
    """
    trainer = Trainer(task, recipe, seed=seed, device=device, native=native)
    if all(record.skipped for record in trainer.steps(1)) and all(r.skipped for r in trainer.steps(_MOST_SKIPPED)):
        raise RuntimeError(f"dtype_ledger: {recipe} skipped its first {_MOST_SKIPPED + 1} steps; lower its loss scale")
    parameters = list(trainer.model.parameters())
    saved = _Saved(parameters)
    with saved, torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor):
        trainer.backward()
    tensors: dict[str, list[Tensor]] = {
        "parameters": [*parameters],
        "master weights": [],
        "gradients": [],
    }
    for gradient in (parameter.grad for parameter in parameters if parameter.grad is not None):
        values, *indices = _stored(gradient)
        tensors["gradients"].append(values)
        if indices:
            tensors.setdefault("indices of sparse gradients", []).extend(indices)
    for name, state in state_tensors(trainer.optimizer):
        tensors.setdefault(STATE_NAMES.get(name, name), []).append(state)
    counts = [(what, _count((t.dtype, t.numel()) for t in kept)) for what, kept in tensors.items()]
    entries = [_entry(what, dtype, n) for what, count in [*counts, *saved.counts()] for dtype, n in count.items()]
    return Ledger(str(recipe), task.name, sum(p.numel() for p in parameters), tuple(entries))


def _count(sizes: Iterable[tuple[torch.dtype, int]]) -> Counter[torch.dtype]:
    count: Counter[torch.dtype] = Counter()
    for dtype, numel in sizes:
        count[dtype] += numel
    return count


def _entry(what: str, dtype: torch.dtype, numel: int) -> Entry:
    name = "dynamic8" if dtype is torch.uint8 and what != "parameters" else dtype_name(dtype)
    return Entry(what, name, numel, numel * dtype.itemsize)


class _Saved(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Collects what autograd saves, and tells copies that were cast from a parameter apart from activations.

    Every tensor that is looked at is held, so that no address comes twice.
    """

    def __init__(self, parameters: list[torch.nn.Parameter]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._parameters = {_address(parameter) for parameter in parameters}
        self._casts: dict[int, Tensor] = {}
        self._saved: dict[int, Tensor] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and self._is_parameter(args[0]):
            self._casts[_address(result)] = result
        return result

    def pack(self, tensor: Tensor) -> Tensor:
        in_backward = torch._C._current_graph_task_id() != -1  # a checkpoint computes again
        if not in_backward and tensor.is_floating_point() and not self._is_parameter(tensor):
            for stored in _stored(tensor):
                self._saved.setdefault(_address(stored), stored)
        return tensor

    def _is_parameter(self, tensor: Tensor) -> bool:
        return tensor.layout is torch.strided and _address(tensor) in self._parameters

    def counts(self) -> list[tuple[str, Counter[torch.dtype]]]:
        """Returns the elements of casts and of activations by dtype; a storage counts whole, whatever was viewed."""
        casts = [tensor for address, tensor in self._saved.items() if address in self._casts]
        activations = [tensor for address, tensor in self._saved.items() if address not in self._casts]
        sizes = [
            [(t.dtype, t.untyped_storage().nbytes() // t.dtype.itemsize) for t in kept] for kept in (casts, activations)
        ]
        return [(what, _count(kept)) for what, kept in zip(_PASSING, sizes, strict=True)]


def _stored(tensor: Tensor) -> tuple[Tensor, ...]:
    """Returns a tensor itself, or the values and indices that a sparse one is made of, as they are."""
    if tensor.layout is torch.strided:
        return (tensor,)
    if tensor.layout is torch.sparse_coo:
        return (tensor._values(), tensor._indices())
    rows = tensor.layout in (torch.sparse_csr, torch.sparse_bsr)
    indices = (tensor.crow_indices(), tensor.col_indices()) if rows else (tensor.ccol_indices(), tensor.row_indices())
    return (tensor.values(), *indices)


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
