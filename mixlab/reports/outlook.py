"""What a recipe costs and whether its loss scale fits, said before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

from mixlab.formats import FP16, TF32
from mixlab.loss_scaling import ScaleWindow
from mixlab.machine import Gpu
from mixlab.memory import ModelStates
from mixlab.powers import power
from mixlab.recipes import Recipe
from mixlab.reports.kinds import look

_MOST_BYTES = 20  # of a parameter: the width of the bar
_SHORT = {
    "parameters": "weights",
    "exp_avg": "m",
    "exp_avg_sq": "v",
    "scales of exp_avg": "scales of m",
    "scales of exp_avg_sq": "scales of v",
}
_UNITS = (("KiB", 2**10), ("MiB", 2**20), ("GiB", 2**30), ("TiB", 2**40))
_GOOD, _BAD, _OPEN = "✓", "✗", "…"


@dataclass(frozen=True)
class Outlook:
    """The bytes of a recipe, its memory in one model, and its loss scale beside the usable window, in words and HTML.

    Attributes:
        recipe: The recipe.
        states: Its bytes per parameter, from `mixlab.memory.model_states`.
        memory: The memory of a step in words, or "" while it is being predicted.
        window: The usable loss scales of the task in fp16; None while they are being measured.
        measured: How the window was measured, such as "in fp32 at steps 0 and 4, seed 0".
    """

    recipe: Recipe
    states: ModelStates
    memory: str = ""
    window: ScaleWindow | str | None = None
    measured: str = ""

    @property
    def rows(self) -> Mapping[str, str]:
        """The three lines by their names."""
        mark, words = scale_words(self.recipe, self.window, self.measured)
        return {
            "Bytes per parameter": _bytes_words(self.states),
            "Memory of a step": self.memory or f"{_OPEN} being predicted",
            "Loss scale": f"{mark} {words}",
        }

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {words}" for name, words in self.rows.items())

    def _repr_html_(self) -> str:
        lines = "".join(
            f'<div style="margin: 4px 0"><b>{name}</b><br>{escape(words)}'
            f"{_bar(self.states) if name.startswith('Bytes') else ''}</div>"
            for name, words in self.rows.items()
        )
        return f'<div style="line-height: 1.4; max-width: 40em; white-space: normal">{lines}</div>'


def memory_words(peak_bytes: int, phase: str, *, gpu: bool) -> str:
    """Returns the predicted memory of a training step in words.

    Args:
        peak_bytes: The most bytes alive at any time in the step.
        phase: When that is: "forward", "backward" or "step".
        gpu: Whether it is predicted for a GPU.
    """
    when = "as the optimizer steps" if phase == "step" else f"in {phase}"
    unit, divisor = next(pair for pair in _UNITS if peak_bytes < 1000 * pair[1])
    where = "GPU" if gpu else "CPU"
    return f"{peak_bytes / divisor:.3g} {unit} at its peak, {when}; predicted for this model and batch on a {where}"


def scale_words(recipe: Recipe, window: ScaleWindow | str | None, measured: str = "") -> tuple[str, str]:
    """Returns a mark and a sentence on whether the loss scale of a recipe lies in the usable window.

    >>> scale_words(Recipe.parse("amp-fp16"), ScaleWindow(5, 22), "on the first step")
    ('✓', 'It starts at 2¹⁶, in the usable window 2⁵ to 2²², measured here on the first step.')
    >>> scale_words(Recipe.parse("amp-bf16"), None)
    ('✓', 'None is needed: gradients in bf16 reach as far as in fp32.')

    Args:
        recipe: The recipe.
        window: The usable scales in fp16; None while they are being measured, or words that say why there are none.
        measured: How they were measured.
    """
    if FP16 not in (recipe.compute, recipe.gradients):
        why = "" if recipe.compute.name == "fp32" else f": gradients in {recipe.compute} reach as far as in fp32"
        return _GOOD, f"None is needed{why or ' in fp32'}."
    if window is None:
        return _OPEN, "measuring which scales fit this task"
    if isinstance(window, str):
        return _BAD, window
    if not window.usable:
        return _BAD, (
            f"No scale fits, measured here {measured}: above {power(window.high)} the largest gradient overflows, "
            f"below {power(window.low)} more than 1 % of them become zero."
        )
    place = math.log2(recipe.scale) if recipe.scaler != "none" else 0.0
    shown = power(place)
    if recipe.scaler == "none":
        start = "There is no scaler: the scale is 1,"
    elif recipe.scaler == "static":
        start = f"It stays at {shown},"
    else:
        start = f"It starts at {shown},"
    edges = f"the usable window {window}, measured here {measured}"
    if place in window:
        return _GOOD, f"{start} in {edges}."
    if place < window.low:
        return _BAD, f"{start} below {edges}: more than 1 % of the gradients become zero{_growth(recipe)}."
    return _BAD, f"{start} above {edges}: the largest gradients overflow{_overflow(recipe)}."


def refusal(recipe: Recipe, gpu: Gpu | None) -> str:
    """Returns why a device cannot train under a recipe, or "" if it can; a CPU emulates all of them.

    Args:
        recipe: The recipe.
        gpu: The GPU; None for the CPU.
    """
    if gpu is None or recipe.compute != TF32 or gpu.capability >= (8, 0):
        return ""
    has = ".".join(map(str, gpu.capability))
    return (
        f"{gpu.name} has no tf32 units and would train in fp32 (its compute capability is {has}, tf32 needs 8.0); "
        "choose fp32, or the CPU, which emulates tf32"
    )


def _growth(recipe: Recipe) -> str:
    if recipe.scaler in ("none", "static"):
        return ""
    return f", until the scale has grown, {recipe.growth_interval} clean steps for each factor"


def _overflow(recipe: Recipe) -> str:
    if recipe.scaler == "none":
        return ", and the step is taken with inf"
    skips = "steps are skipped" if recipe.on_overflow == "skip" else "steps are taken with all gradients set to zero"
    return f", and {skips}{'' if recipe.scaler == 'static' else ' until the scaler has lowered it'}"


def _bytes_words(states: ModelStates) -> str:
    parts = ", ".join(
        f"{_SHORT.get(name, name)} {size / states.numel:.3g}" + (f" ({fmt})" if (fmt := states.formats[name]) else "")
        for name, size in states.parts.items()
    )
    return f"{states.bytes_per_parameter:.4g}: {parts}"


def _bar(states: ModelStates) -> str:
    segments = "".join(
        f'<span style="display: inline-block; height: 12px; width: {100 * size / states.numel / _MOST_BYTES:.2f}%; '
        f'background: {look(name).colour}; box-shadow: inset -1px 0 var(--jp-layout-color1, Canvas)"></span>'
        for name, size in states.parts.items()
    )
    return f'<div aria-hidden="true" style="line-height: 0; margin-top: 2px; white-space: nowrap">{segments}</div>'
