"""The memory panel: what fills a GPU in one training step, what fits where, and what to change first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, get_args

import ipywidgets as widgets

from mixlab.memory import (
    GPUS,
    AttentionKind,
    Checkpointing,
    Estimate,
    GpuSpec,
    Implementation,
    StepKind,
    Suggestion,
    Zero,
    estimate,
    gpu_spec,
    suggestions,
)
from mixlab.panels.base import MODES, Binding, Panel, button, in_a_row, labelled, mode_of, status_html
from mixlab.panels.groups import group
from mixlab.panels.text_box import TextBox, whole
from mixlab.recipes import PRESETS, Recipe
from mixlab.reports import change_line, count_words, fits_line, fits_row, memory_line, phase_picture, phase_table
from mixlab.shapes import SHAPES, ModelShape

_MOST_ROWS, _MOST_TOKENS, _MOST_GPUS = 2**16, 2**20, 2**16
_CHANGES = 5  # suggestions that are shown
_WORTH = 0.01  # share of the memory needed; suggestions that save less are not shown
_labelled = partial(labelled, labels="9em")


class MemoryPanel(Panel):
    """Estimates the memory of a training step as its controls change, and suggests changes that need less.

    Args:
        model: A shape, a name of `mixlab.shapes.SHAPES`, or the path of a config.json.
        recipe: A recipe, or its text.
        batch: Rows of one forward pass on one GPU.
        seq: Tokens per row; None means the model's context, at most 2048.
        gpu: A GPU, or a name of `mixlab.memory.GPUS`.
        implementation: Whose module of the shape, as for `estimate`.

    Attributes:
        estimate: The estimate shown; may be set.
        gpu: The GPU to compare with.
        changes: The suggestions in the list, best first.
        last_error: The error of the latest change, or None if it succeeded. It is shown in red too.

    Raises:
        ValueError: If the model, the recipe, a number or the GPU is not allowed.
    """

    def __init__(
        self,
        *,
        model: ModelShape | str | Path = "gpt2",
        recipe: Recipe | str = "amp-bf16",
        batch: int = 8,
        seq: int | None = None,
        gpu: GpuSpec | str = "rtx-4090",
        implementation: Implementation | None = None,
    ) -> None:
        self._estimate = estimate(
            str(model) if isinstance(model, Path) else model,
            recipe,
            batch=batch,
            seq=seq,
            implementation=implementation,
        )
        self._gpu = gpu_spec(gpu)
        self._before: list[Estimate] = []
        super().__init__()
        self._binding = Binding(self.errors, self._show_controls)
        self._words, self._bars, self._table, self._row, self._head = (widgets.HTML() for _ in range(5))
        self._make_controls()
        self._apply = [button("", f"Makes change {n + 1} of the list", width="max-content") for n in range(_CHANGES)]
        self._lines = [widgets.HTML() for _ in range(_CHANGES)]
        self._undo = button("Undo", "Undoes the last change", width="max-content")
        for n, apply in enumerate(self._apply):
            apply.on_click(self.errors.guard(lambda _button, n=n: self.apply(n)))
        self._undo.on_click(self.errors.guard(lambda _button: self.undo()))
        self._rows = [widgets.VBox(pair) for pair in zip(self._apply, self._lines, strict=True)]
        advice = group(
            f"Changes, from {self._estimate.shape.name}", [self._head, *self._rows, self._undo], visible=False
        )
        advice.layout.flex = "1 1 30em"
        below = in_a_row(self._table, advice)
        controls = group("Model, recipe and GPU", [self._columns(), self._share], visible=False)
        self.children = [controls, self._words, self.errors, self._bars, below, self._row]
        self._show()

    @property
    def estimate(self) -> Estimate:
        return self._estimate

    @estimate.setter
    def estimate(self, estimate: Estimate) -> None:
        self._estimate = estimate
        self._show()

    @property
    def gpu(self) -> GpuSpec:
        return self._gpu

    @property
    def changes(self) -> list[Suggestion]:
        return self._changes

    @property
    def status(self) -> str:
        """What is shown, in words."""
        notes = "".join(f" {note[:1].upper()}{note[1:]}." for note in self._estimate.notes)
        return f"{memory_line(self._estimate, self._gpu)} {fits_line(self._estimate)}{notes}"

    def apply(self, number: int) -> None:
        """Makes one of the suggested changes.

        Args:
            number: The change's place in the list, from 0.

        Raises:
            IndexError: If the list has no such change.
        """
        if not 0 <= number < len(self._changes):
            raise IndexError(f"MemoryPanel: there are {len(self._changes)} changes to apply, got number {number}")
        self._before.append(self._estimate)
        self.estimate = self._changes[number].estimate

    def undo(self) -> None:
        """Undoes the last applied change, if there is one."""
        if self._before:
            self.estimate = self._before.pop()

    def _make_controls(self) -> None:
        now = self._estimate
        self._shapes = dict(SHAPES)
        gpus = {**GPUS, self._gpu.name: self._gpu}
        self._model = _dropdown("Model", self._models())
        self._gpu_choice = _dropdown("GPU", [(f"{g} ({g.memory_bytes / 2**30:.0f} GiB)", g) for g in gpus.values()])
        self._module = _dropdown("Implementation", get_args(Implementation))
        self._mode = _dropdown("Recipe", MODES)
        self._share = self._text("Share", now.recipe, Recipe.parse, "recipe", width="100%")
        self._batch = self._number("Rows of a batch", now.batch, _MOST_ROWS, "batch", most_power=10)
        self._seq = self._number("Tokens per row", now.seq, _MOST_TOKENS, "seq", most_power=17)
        self._passes = self._number("Passes per step", now.accumulation, _MOST_ROWS, "accumulation")
        self._attention = _dropdown("Attention", get_args(AttentionKind))
        self._checkpointing = _dropdown("Checkpointing", get_args(Checkpointing))
        self._step = _dropdown("Optimizer's step", get_args(StepKind))
        self._data = self._number("Data parallel", now.parallel.data, _MOST_GPUS, "data", parallel=True)
        self._zero = _dropdown("ZeRO stage", [(_ZERO[stage], stage) for stage in get_args(Zero)])
        self._tensor = _dropdown("Tensor parallel", [1])
        self._sequence = _labelled(widgets.Checkbox, "sequence parallel")
        self._boxes = {"batch": self._batch, "seq": self._seq, "accumulation": self._passes}
        self._plain = {"attention": self._attention, "checkpointing": self._checkpointing, "step": self._step}
        self._parallel = {"zero": self._zero, "tensor": self._tensor, "sequence": self._sequence}
        self._show_controls()
        on = partial(self._binding.on_change_set, self, "estimate")
        self._answering = [
            on(self._model, self._with_model),
            on(self._module, self._with_module),
            self._binding.on_change(self._gpu_choice, self._choose_gpu),
            on(self._mode, lambda name: self._with("recipe", PRESETS[name]) if name else self._estimate),
            *(on(control, partial(self._with, name)) for name, control in self._plain.items()),
            *(on(control, partial(self._with_parallel, name)) for name, control in self._parallel.items()),
        ]

    def _models(self) -> list[tuple[str, ModelShape]]:
        """Returns the models to choose from, that of the estimate among them."""
        self._shapes[self._estimate.shape.name] = self._estimate.shape
        return [(f"{shape.name} ({count_words(shape.parameters)})", shape) for shape in self._shapes.values()]

    def _columns(self) -> widgets.Widget:
        model, module, gpu, mode, attention, checkpointing, step, zero, tensor, sequence = self._answering
        columns = (
            [model, module, gpu, mode, self._batch, self._seq, self._passes],
            [attention, checkpointing, step, self._data, zero, tensor, sequence],
        )
        return in_a_row(*map(widgets.VBox, columns))

    def _text(
        self, label: str, value: Any, read: Any, field: str, *, parallel: bool = False, **options: Any
    ) -> TextBox:
        """Returns a line of text for a field of the estimate."""
        changed = self._with_parallel if parallel else self._with

        def take(value: Any) -> None:
            self.estimate = changed(field, value)

        return TextBox(
            label, value, read=read, take=take, told=self._binding.told, **{"labels": "9em", "width": "23em", **options}
        )

    def _number(
        self, label: str, value: int, most: int, field: str, *, most_power: int | None = None, parallel: bool = False
    ) -> TextBox:
        """Returns a box for a whole number; with `most_power`, keys and a slider go by powers of two."""
        if most_power is None:
            return self._text(label, value, whole(label, 1, most), field, parallel=parallel, places=(int, int))
        places = (lambda value: value.bit_length() - 1, partial(self._power, field))
        return self._text(label, value, whole(label, 1, most), field, places=places, slider=(0, most_power))

    def _with(self, name: str, value: Any) -> Estimate:
        return replace(self._estimate, **{name: value})

    def _with_parallel(self, name: str, value: Any) -> Estimate:
        return self._with("parallel", replace(self._estimate.parallel, **{name: value}))

    def _power(self, field: str, power: int) -> int:
        """Returns a power of two, cut to the positions that the model has."""
        shape = self._estimate.shape
        bounded = field == "seq" and shape.design.positions == "learned"
        return min(2 ** max(power, 0), shape.context) if bounded else int(2 ** max(power, 0))

    def _with_model(self, shape: ModelShape) -> Estimate:
        """Returns the same training of another model, with `seq` and what divides it cut to the most it allows."""
        now = self._estimate
        seq = min(now.seq, shape.context) if shape.design.positions == "learned" else now.seq
        module = now.implementation if now.implementation in _implementations(shape) else None
        return self._allowed(shape, seq, module)

    def _with_module(self, module: Implementation) -> Estimate:
        """Returns the same training of another module, without what that module does not have."""
        shape = self._estimate.shape
        return self._allowed(shape, self._estimate.seq, None if module == _implementations(shape)[0] else module)

    def _allowed(self, shape: ModelShape, seq: int, module: Implementation | None) -> Estimate:
        now, whose = self._estimate, module or _implementations(shape)[0]
        ways = _checkpointings(whose)
        return replace(
            now,
            shape=shape,
            seq=seq,
            implementation=module,
            checkpointing=now.checkpointing if now.checkpointing in ways else ways[-1],
            parallel=replace(
                now.parallel,
                tensor=max(n for n in _tensors(shape, whose) if n <= now.parallel.tensor),
                pipeline=1,
            ),
        )

    def _choose_gpu(self, gpu: GpuSpec) -> None:
        self._gpu = gpu
        self._show()

    def _show(self) -> None:
        self._show_controls()
        self._undo.disabled = not self._before
        now, gpu = self._estimate, self._gpu
        self._words.value = status_html(escape(self.status, quote=False), "line-height: 1.5")
        self._bars.value, self._table.value = phase_picture(now, gpu), phase_table(now)
        self._row.value = f"<b>Fits on</b>{fits_row(now, gpu)}"
        worth = [one for one in suggestions(now, gpu) if one.saved_bytes >= _WORTH * now.total_bytes]
        self._changes = worth[:_CHANGES]
        self._head.value = f"<b>{_heading(bool(now.fits(gpu)), bool(worth))}</b>"
        for n, (row, line) in enumerate(zip(self._rows, self._lines, strict=True)):
            row.layout.display = None if n < len(self._changes) else "none"
            if n < len(self._changes):
                self._apply[n].description = f"Apply: {self._changes[n].change}"
                line.value = change_line(self._changes[n])

    def _show_controls(self) -> None:
        now = self._estimate
        with self._binding.silent():
            if now.shape not in self._shapes.values():
                self._model.options = self._models()
            self._model.value, self._gpu_choice.value = now.shape, self._gpu
            self._module.options, self._checkpointing.options = _implementations(now.shape), _checkpointings(now.module)
            self._module.value, self._mode.value = now.module, mode_of(now.recipe)
            for name, control in self._plain.items():
                control.value = getattr(now, name)
            self._tensor.options = list(_tensors(now.shape, now.module))
            for name, control in self._parallel.items():
                control.value = getattr(now.parallel, name)
        self._share.follow(now.recipe)
        for name, box in self._boxes.items():
            box.follow(getattr(now, name))
        self._data.follow(now.parallel.data)
        self._zero.disabled = now.parallel.data == 1
        self._sequence.disabled = now.parallel.tensor == 1


_ZERO = {
    0: "0: nothing is divided",
    1: "1: optimizer states",
    2: "2: and gradients",
    3: "3: and parameters (FSDP)",
}


def _heading(fits: bool, any_change: bool) -> str:
    if not any_change:
        return "No known change would reduce it"
    return "It fits. To reduce memory further" if fits else "What to change first"


def _implementations(shape: ModelShape) -> tuple[Implementation, ...]:
    """Returns whose modules of a shape there are."""
    return get_args(Implementation) if shape.lean else ("transformers",)


def _checkpointings(module: Implementation) -> tuple[Checkpointing, ...]:
    """Returns the ways of checkpointing that a module has; the last saves most."""
    return get_args(Checkpointing) if module == "mixlab" else ("none", "full")


def _tensors(shape: ModelShape, module: Implementation) -> Iterator[int]:
    """Yields the numbers of GPUs that the matrices of a shape can be divided among."""
    if module != "mixlab":
        return iter((1,))
    return (n for n in range(1, shape.heads + 1) if not (shape.heads % n or shape.kv_heads % n or shape.ffn % n))


def _dropdown(label: str, options: Any) -> Any:
    return _labelled(widgets.Dropdown, label, options=options)
